"""The writer: batches in order, retries, and rows that could not wait become rows that say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from proxy.monitor import writer as writer_module
from proxy.monitor.order import SamplingOrder
from proxy.monitor.rows import LedgerRow, PairBodies
from proxy.monitor.writer import LedgerWriter
from tests.unit.monitor_rig import MemoryLedger, Metrics, mark, row, until


class Rig:
    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.ledger = MemoryLedger()
        self.metrics = Metrics()
        self.durable: list[LedgerRow] = []
        self.writer = LedgerWriter(self.ledger, executor, self._durable, self.metrics)

    def _durable(self, rows: Sequence[LedgerRow]) -> None:
        assert [r.position for r in rows] == [r.position for r in self.ledger.rows[-len(rows) :]], "told before written"
        self.durable += rows

    def positions(self) -> list[int]:
        return [r.position for r in self.ledger.rows]


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    with ThreadPoolExecutor(1) as executor:
        rig = Rig(executor)
        task = asyncio.create_task(rig.writer.run())
        try:
            yield rig
        finally:
            rig.writer.drain()
            await asyncio.wait_for(task, 10.0)


@pytest.mark.asyncio
async def test_rows_and_events_become_durable_and_are_told_on() -> None:
    async with running() as rig:
        rig.writer.put([row(n) for n in range(120)])
        rig.writer.put_event("pause", {}, 1.0)
        await until(lambda: len(rig.durable) == 120 and rig.ledger.events)
    assert rig.positions() == list(range(120))
    assert rig.durable == rig.ledger.rows


@pytest.mark.asyncio
async def test_draining_writes_what_is_left() -> None:
    async with running() as rig:
        rig.writer.put([row(0)])
    assert rig.positions() == [0]


@pytest.mark.asyncio
async def test_a_broken_ledger_is_retried_and_nothing_is_told_before_it_is_durable() -> None:
    async with running() as rig:
        rig.ledger.broken = "disk full"
        rig.writer.put([row(0), row(1)])
        await until(lambda: rig.writer.failing)
        assert rig.writer.last_error == "disk full"
        assert rig.durable == []
        rig.writer.put([row(2)])
        rig.ledger.broken = ""
        await until(lambda: len(rig.durable) == 3)
        assert not rig.writer.failing
    assert rig.positions() == [0, 1, 2]
    assert rig.metrics.write_errors >= 1
    assert rig.metrics.dropped == 0


@pytest.mark.asyncio
async def test_a_ledger_that_raises_anything_does_not_end_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as rig:
        append = rig.ledger.append
        monkeypatch.setattr(rig.ledger, "append", lambda rows: 1 / 0)
        rig.writer.put([row(0)])
        await until(lambda: rig.writer.last_error == "ZeroDivisionError")
        monkeypatch.setattr(rig.ledger, "append", append)
        await until(lambda: rig.positions() == [0])


@pytest.mark.asyncio
async def test_rows_that_cannot_wait_become_lost_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_ROWS", 10)
    monkeypatch.setattr(writer_module, "MAX_BATCH_ROWS", 7)
    async with running() as rig:
        rig.ledger.broken = "disk full"
        rig.writer.put([row(n, disposition="scored", reason=None) for n in range(40)])
        rig.writer.put([row(n, epoch=2, disposition="scored", reason=None) for n in range(40, 60)])
        assert rig.writer.waiting == 12  # ten rows and two holes
        assert rig.metrics.dropped == 50
        rig.ledger.broken = ""
        await until(lambda: len(rig.durable) == 60)
    assert rig.positions() == list(range(60))
    assert [r.disposition for r in rig.ledger.rows] == ["scored"] * 10 + ["lost"] * 50
    assert {r.reason for r in rig.ledger.rows[10:]} == {"queue_full"}
    assert [r.epoch for r in rig.ledger.rows] == [1] * 40 + [2] * 20


@pytest.mark.asyncio
async def test_the_last_number_of_each_worker_outlives_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a monitor that starts now would take these numbers for missing, and count them once more."""
    monkeypatch.setattr(writer_module, "MAX_WAITING_ROWS", 1)
    monkeypatch.setattr(writer_module, "MAX_BATCH_ROWS", 3)
    async with running() as rig:
        rig.ledger.broken = "disk full"
        rig.writer.put([row(n, worker="ab"[n % 2], sequence=n // 2) for n in range(12)])
        rig.writer.put([row(12, kind="probe", worker="a", sequence=5), row(13, worker="a", sequence=6)])
        rig.ledger.broken = ""
        await until(lambda: len(rig.durable) == 14)
        order = SamplingOrder(next_position=14, late_after_s=1.0, remembered=rig.ledger.numbers(100))
    assert rig.positions() == list(range(14))
    order.mark(mark(7, "a"), 0.0)
    order.mark(mark(6, "b"), 0.0)
    assert order.counts.skipped == 0


@pytest.mark.asyncio
async def test_waiting_bodies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_BODY_BYTES", 100)
    async with running() as rig:
        rig.ledger.broken = "disk full"
        rig.writer.put([row(n, bodies=PairBodies(b"x" * 40, b"", b"")) for n in range(4)])
        rig.ledger.broken = ""
        await until(lambda: len(rig.durable) == 4)
        assert [r.bodies is not None for r in rig.ledger.rows] == [True, True, False, False]
        rig.writer.put([row(4, bodies=PairBodies(b"x" * 90, b"", b""))])  # what was written gave its room back
        await until(lambda: len(rig.durable) == 5)
        assert rig.ledger.rows[4].bodies is not None


@pytest.mark.asyncio
async def test_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_EVENTS", 2)
    async with running() as rig:
        for _ in range(5):
            rig.writer.put_event("pause", {}, 0.0)
        assert rig.writer.state()["events_dropped"] == 3
        await until(lambda: len(rig.ledger.events) == 2)


@pytest.mark.asyncio
async def test_a_needle_that_could_not_wait_stays_a_needle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_ROWS", 1)
    async with running() as rig:
        rig.ledger.broken = "disk full"
        rig.writer.put([row(0), row(1), row(2, kind="probe"), row(3, kind="probe"), row(4)])
        rig.ledger.broken = ""
        await until(lambda: len(rig.durable) == 5)
    assert [r.kind for r in rig.ledger.rows] == ["live", "live", "probe", "probe", "live"]
