"""Events to rows: whatever becomes of a job, its slot gets one row and its bytes come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from proxy.exchange import LossReason, Lost
from proxy.monitor.intake import Intake
from proxy.monitor.jobs import Job, Worker, ended
from proxy.monitor.order import SamplingOrder
from proxy.monitor.plan import Plan
from proxy.monitor.record import lost_row
from proxy.monitor.rows import LedgerRow, Opening
from proxy.monitor.standing import Standing
from scorers.judge import Budget, GateRules, start
from scorers.records import Reason
from tests.unit.monitor_rig import exchange, mark, settings, until

Deed = Callable[[Job], Awaitable[LedgerRow]]


class FakeWorker:
    """Does what it is told with a job, in place of planning, calling and scoring."""

    def __init__(self, deed: Deed) -> None:
        self.deed = deed

    async def row(self, job: Job) -> LedgerRow:
        return await self.deed(job)

    def row_without(self, job: Job, why: Reason) -> LedgerRow:
        return lost_row(job.slot, job.epoch, why.value)


async def scored(job: Job) -> LedgerRow:
    return lost_row(job.slot, job.epoch, "done")


async def stuck(job: Job) -> LedgerRow:
    await asyncio.Event().wait()
    raise AssertionError


class Rig:
    def __init__(self, deed: Deed, **mirror: Any) -> None:
        self.now_s = 0.0
        self.rows: list[LedgerRow] = []
        self.on_probe: Callable[[Job, Plan], None] = lambda parent, plan: None
        standing = Standing("awq", lambda: start((Budget("x", 0.1, bounded=True, critical=True),), GateRules()))
        standing.begin(Opening(3, 0.0, "changed"), {})
        of = settings(**mirror).mirror

        def make(on_probe: Callable[[Job, Plan], None]) -> Worker:
            self.on_probe = on_probe
            return cast(Worker, FakeWorker(deed))

        self.intake = Intake(of, make, standing, self._put, lambda: self.now_s, lambda: 100.0)

    def _put(self, rows: Sequence[LedgerRow]) -> None:
        self.rows += rows

    def ends(self) -> list[tuple[int, str | None]]:
        return [(row.sequence, row.reason) for row in self.rows]

    def nothing_held(self) -> bool:
        return self.intake.backlog.held == 0 and self.intake.backlog.held_bytes == 0


@asynccontextmanager
async def working(deed: Deed, **mirror: Any) -> AsyncIterator[Rig]:
    rig = Rig(deed, **mirror)
    rig.intake.open(SamplingOrder(next_position=0, late_after_s=10.0))
    worker = asyncio.create_task(rig.intake.work())
    try:
        yield rig
    finally:
        rig.intake.close_all()
        await ended([worker])
        assert rig.nothing_held()


@pytest.mark.asyncio
async def test_events_before_the_order_are_taken_when_it_comes_and_bounded() -> None:
    rig = Rig(scored, max_queue_bytes=3000)
    for event in (mark(0), mark(1), exchange(0), exchange(1, reply=b"x" * 3000)):
        rig.intake.take(event)
    assert not rig.intake.opened
    assert rig.intake.state()["early_dropped"] == 1
    rig.intake.open(SamplingOrder(next_position=0, late_after_s=10.0))
    worker = asyncio.create_task(rig.intake.work())
    await until(lambda: rig.ends() == [(0, "done")])
    rig.now_s = 10.0
    rig.intake.tick()
    assert rig.ends() == [(0, "done"), (1, "late")]
    await ended([worker])


@pytest.mark.asyncio
async def test_what_a_relay_counted_is_expected_also_when_it_said_so_before_the_order() -> None:
    rig = Rig(scored)
    rig.intake.take(mark(0))
    rig.intake.expect("w", 2)
    rig.intake.expect("w", 3)
    rig.intake.open(SamplingOrder(next_position=0, late_after_s=10.0))
    rig.intake.expect("v", 1)
    rig.now_s = 10.0
    rig.intake.tick()
    rig.intake.leave()
    rig.intake.expect("w", 9)
    ends = [(row.worker, row.sequence, row.reason) for row in rig.rows]
    assert ends == [("w", 0, "late"), ("w", 1, "late"), ("w", 2, "late"), ("v", 0, "late")]
    rig.intake.close_all()
    assert len(rig.rows) == 4


@pytest.mark.asyncio
async def test_a_late_job_is_ended_alone_and_the_worker_goes_on() -> None:
    async def by_number(job: Job) -> LedgerRow:
        return await (stuck if job.slot.sequence == 0 else scored)(job)

    async with working(by_number) as rig:
        rig.intake.take(exchange(0))
        await until(lambda: rig.intake.state()["queue"]["in_work"] == 1)
        rig.now_s = 10.0
        rig.intake.tick()
        rig.intake.take(exchange(1))
        await until(lambda: rig.ends() == [(0, "late"), (1, "done")])
        await until(rig.nothing_held)


@pytest.mark.asyncio
async def test_a_job_that_was_late_in_the_queue_is_not_begun() -> None:
    begun: list[int] = []

    async def noted(job: Job) -> LedgerRow:
        begun.append(job.slot.sequence)
        return await scored(job)

    async with working(noted) as rig:
        rig.intake.take(exchange(0))
        rig.now_s = 10.0
        rig.intake.tick()  # before the worker had its turn
        await until(rig.nothing_held)
    assert rig.ends() == [(0, "late")]
    assert begun == []


@pytest.mark.asyncio
async def test_a_job_that_crashes_costs_itself() -> None:
    async def crash(job: Job) -> LedgerRow:
        raise RuntimeError("a defect")

    async with working(crash) as rig:
        for number in range(3):
            rig.intake.take(exchange(number))
        await until(lambda: len(rig.rows) == 3 and rig.nothing_held())
    assert {reason for _, reason in rig.ends()} == {"scorer_error"}


@pytest.mark.asyncio
async def test_what_does_not_fit_what_is_refused_and_what_was_lost_before() -> None:
    async with working(stuck, max_queue_exchanges=1) as rig:
        rig.intake.take(exchange(0))
        await until(lambda: rig.intake.state()["queue"]["in_work"] == 1)
        rig.intake.take(exchange(1))
        rig.intake.take(exchange(2))
        rig.intake.refusing = Reason.PAUSED
        rig.intake.take(exchange(3))
        rig.intake.take(Lost("w-4", "w", 4, LossReason.FEED_FULL))
        assert rig.rows == []  # all behind the first
    assert rig.ends() == [(0, "late"), (1, "late"), (2, "queue_full"), (3, "paused"), (4, "feed_full")]
    assert {row.epoch for row in rig.rows} == {3}


@pytest.mark.asyncio
async def test_after_leaving_nothing_is_taken() -> None:
    async with working(scored) as rig:
        rig.intake.leave()
        rig.intake.take(exchange(0))
    assert rig.rows == []


@pytest.mark.asyncio
async def test_an_event_that_cannot_be_taken_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(scored) as rig:
        with monkeypatch.context() as broken:
            broken.setattr(SamplingOrder, "claim", lambda *arguments: 1 / 0)
            rig.intake.take(exchange(0))
        rig.intake.take(exchange(1))
        await until(rig.nothing_held)
        rig.now_s = 10.0
        rig.intake.tick()
        assert rig.ends() == [(0, "late"), (1, "done")]


@pytest.mark.asyncio
async def test_ending_a_worker_in_the_middle_of_a_job_gives_everything_back() -> None:
    rig = Rig(stuck)
    rig.intake.open(SamplingOrder(next_position=0, late_after_s=10.0))
    worker = asyncio.create_task(rig.intake.work())
    rig.intake.take(exchange(0))
    await until(lambda: rig.intake.state()["queue"]["in_work"] == 1)
    await ended([worker])
    assert rig.nothing_held()


@pytest.mark.asyncio
async def test_a_job_whose_losses_cannot_be_named_still_gets_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(job: Job) -> LedgerRow:
        raise RuntimeError("a defect")

    def broken(self: FakeWorker, job: Job, why: Reason) -> LedgerRow:
        raise AttributeError("another defect")

    monkeypatch.setattr(FakeWorker, "row_without", broken)

    async def by_number(job: Job) -> LedgerRow:
        return await (crash if job.slot.sequence == 0 else stuck)(job)

    async with working(by_number, max_queue_exchanges=1) as rig:
        rig.intake.take(exchange(0))
        await until(lambda: rig.ends() == [(0, "scorer_error")])
        rig.intake.take(exchange(1))
        await until(lambda: rig.intake.state()["queue"]["in_work"] == 1)
        rig.intake.take(exchange(2))
        rig.intake.take(exchange(3))  # no room
        rig.now_s = 10.0
        rig.intake.tick()
        assert rig.ends()[1:] == [(1, "late"), (2, "late"), (3, "queue_full")]
        await until(rig.nothing_held)
        rig.intake.take(exchange(4))
    assert rig.ends()[4:] == [(4, "late")]  # closing all closed it too


@pytest.mark.asyncio
async def test_the_queues_age_is_that_of_the_first_that_still_waits() -> None:
    async with working(stuck) as rig:
        for number, at_s in ((0, 1.0), (1, 2.0), (2, 5.0)):
            rig.now_s = at_s
            rig.intake.take(exchange(number))
            await until(lambda: rig.intake.state()["queue"]["in_work"] == 1)
        assert rig.intake.state()["queue"]["oldest_s"] == 3.0
