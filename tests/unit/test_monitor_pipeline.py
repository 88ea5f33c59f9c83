"""The monitor as a whole, with arms and a ledger in memory: what goes in comes out as rows, in order, and decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.base import BackendUnavailable, Reply
from proxy.errors import LedgerError, RolloutError
from proxy.exchange import LossReason, Lost, Order, Outcome, Phase
from proxy.monitor import pipeline, rollout
from proxy.monitor.pipeline import Monitor
from proxy.settings import RolloutSettings, Settings, StepSettings
from scorers.catalogue import scorers
from scorers.judge import Budget, EvidenceState, GateRules, start
from scorers.records import Reason
from tests.unit.monitor_rig import (
    WEATHER,
    MemoryLedger,
    Metrics,
    ScriptedBackend,
    chat_reply,
    chat_request,
    exchange,
    mark,
    ok,
    settings,
    tool_reply,
    until,
)

TOOLS = chat_request("weather in Paris?", tools=[WEATHER])


AT = 100.0  # when the rig's exchanges are sampled


def evidence() -> EvidenceState:
    return start((Budget("tool_call_mismatch", 0.03, bounded=True, critical=True),), GateRules())


def same(path: str, body: bytes) -> Reply:
    return ok(chat_reply("fine"))


class Rig:
    """A running monitor and what it touches."""

    def __init__(self, of: Settings, ledger: MemoryLedger, candidate: Any, reference: Any, **more: Any) -> None:
        self.ledger = ledger
        self.metrics = Metrics()
        self.candidate = ScriptedBackend("candidate", candidate)
        self.reference = ScriptedBackend("reference", reference)
        self.shutdown = asyncio.Event()
        self.monitor = Monitor(
            of,
            ledger=ledger,
            candidate=self.candidate,
            reference=self.reference,
            scorers=scorers(),
            evidence=evidence,
            metrics=self.metrics,
            salt=b"rig",
            **{"wall": lambda: AT, **more},
        )

    def send(self, *events: Any) -> None:
        for event in events:
            self.monitor.on_event(event)

    async def rows(self, count: int) -> list[Any]:
        await until(lambda: len(self.ledger.rows) >= count)
        return self.ledger.rows


@asynccontextmanager
async def running(
    of: Settings | None = None,
    ledger: MemoryLedger | None = None,
    candidate: Callable[..., Any] = same,
    reference: Callable[..., Any] = same,
    **more: Any,
) -> AsyncIterator[Rig]:
    rig = Rig(of or settings(), ledger or MemoryLedger(), candidate, reference, **more)
    task = asyncio.create_task(rig.monitor.run(rig.shutdown))
    await until(lambda: rig.monitor.readiness()["resumed"] or task.done())
    try:
        yield rig
    finally:
        rig.shutdown.set()
        await asyncio.wait_for(task, 20.0)


def scores(row: Any, arm: str = "candidate") -> dict[str, Any]:
    return {s.name: s.value if s.value is not None else s.reason for s in row.scores if s.arm == arm}


@pytest.mark.asyncio
async def test_a_greedy_exchange_is_compared_as_it_was_served() -> None:
    async with running() as rig:
        rig.send(mark(0), exchange(0))
        (row,) = await rig.rows(1)
    assert (row.disposition, row.position, row.epoch) == ("scored", 0, 1)
    assert scores(row)["text_mismatch"] == 0.0
    assert len(rig.reference.bodies) == 1
    assert rig.candidate.bodies == []
    assert row.stratum is not None
    assert str(row.stratum) == "0-512/plain/whole/greedy"


@pytest.mark.asyncio
async def test_rows_come_in_sampling_order_though_the_first_is_the_slowest() -> None:
    gate = asyncio.Event()

    async def reference(path: str, body: bytes) -> Reply:
        if b"slow" in body:
            await gate.wait()
        return ok(chat_reply())

    async with running(reference=reference) as rig:
        rig.send(mark(0), mark(1), exchange(1), exchange(0, request=chat_request("slow")))
        await until(lambda: rig.reference.active == 1 and len(rig.reference.bodies) == 2)
        assert rig.ledger.rows == []
        gate.set()
        rows = await rig.rows(2)
    assert [row.id for row in rows] == ["w-0", "w-1"]


@pytest.mark.asyncio
async def test_a_lost_capture_and_an_ineligible_exchange_are_coverage() -> None:
    async with running() as rig:
        rig.send(mark(0), mark(1), mark(2))
        rig.send(Lost("w-0", "w", 0, LossReason.CAPTURE_MEMORY), exchange(1, target="/v1/embeddings"))
        rig.send(exchange(2, request=chat_request(temperature=0.7)))
        rows = await rig.rows(3)
    assert [(row.disposition, row.reason) for row in rows] == [
        ("lost", "capture_memory"),
        ("ineligible", "path"),
        ("ineligible", "sampled_not_replayed"),
    ]
    assert rig.reference.bodies == []


@pytest.mark.asyncio
async def test_wrong_tool_calls_end_in_fail_with_the_budget_named() -> None:
    wrong = tool_reply("weather", city="Rome")
    async with running(reference=lambda path, body: ok(tool_reply("weather", city="Paris"))) as rig:
        for n in range(60):
            rig.send(mark(n), exchange(n, request=TOOLS, reply=wrong))
        await rig.rows(60)
        await until(lambda: rig.monitor.verdict().samples >= 60)
        verdict = rig.monitor.verdict()
    assert verdict.state == "fail"
    assert "tool_call_mismatch" in verdict.reasons[0]
    assert rig.ledger.rows[0].bodies is not None
    assert rig.ledger.rows[0].bodies.candidate == wrong


@pytest.mark.asyncio
async def test_a_restart_resumes_to_the_same_verdict() -> None:
    ledger = MemoryLedger()
    async with running(ledger=ledger, reference=lambda path, body: ok(tool_reply("weather", city="Paris"))) as rig:
        for n in range(40):
            rig.send(
                mark(n), exchange(n, request=TOOLS, reply=tool_reply("weather", city="Paris" if n % 3 else "Rome"))
            )
        await rig.rows(40)
        await until(lambda: rig.monitor.verdict().coverage.sampled == 40)
        before = rig.monitor.verdict()
    async with running(ledger=ledger) as again:
        assert again.monitor.verdict() == before
        again.send(mark(39), exchange(39))  # sent again by the feed
        again.send(mark(40), exchange(40))
        rows = await again.rows(41)
        assert [row.position for row in rows] == list(range(41))
        assert rows[-1].id == "w-40"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("counts", "missing"),
    [
        ({"sampled": 3, "feed": {"queued": 0}}, 3),
        ({"sampled": 3, "feed": {"queued": 1}}, 0),  # it may be one of those that wait
        ({"feed": {"queued": 0}}, 0),
        ({"sampled": "3", "feed": {"queued": 0}}, 0),
        ({"sampled": 3, "feed": None}, 0),
    ],
)
async def test_what_a_relay_counted_and_never_told_is_missing_once_nothing_waits(
    counts: dict[str, Any], missing: int
) -> None:
    async with running() as rig:
        rig.monitor.on_stats("w", counts)
        assert rig.monitor.state()["order"]["unreleased"] == missing


@pytest.mark.asyncio
async def test_a_paused_mirror_calls_nobody_and_says_so() -> None:
    async with running() as rig:
        rig.monitor.pause()
        rig.send(mark(0), exchange(0))
        (row,) = await rig.rows(1)
        assert scores(row)["text_mismatch"] is Reason.PAUSED
        rig.monitor.resume()
        rig.send(mark(1), exchange(1))
        assert (await rig.rows(2))[1].disposition == "scored"
        await until(lambda: len(rig.ledger.events) == 2)
    assert [kind for kind, _ in rig.ledger.events] == ["pause", "resume"]
    assert len(rig.reference.bodies) == 1


@pytest.mark.asyncio
async def test_a_stalled_reference_is_late_and_gives_everything_back() -> None:
    async def reference(path: str, body: bytes) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    of = settings(late_after_s=0.3, concurrency=2, max_queue_exchanges=4)
    async with running(of, reference=reference) as rig:
        rig.send(*(mark(n) for n in range(10)), *(exchange(n) for n in range(10)))
        rows = await rig.rows(10)
        state = rig.monitor.state()
        await until(lambda: rig.reference.active == 0)
        assert rig.monitor.state()["queue"]["in_work"] == 0
        assert rig.monitor.state()["queue"]["bytes"] == 0
    kinds = [(row.disposition, row.reason, scores(row).get("text_mismatch")) for row in rows]
    assert kinds.count(("scored", None, Reason.QUEUE_FULL)) == 6
    assert ("scored", None, Reason.LATE) in kinds
    assert state["order"]["unreleased"] == 0


@pytest.mark.asyncio
async def test_a_dead_reference_opens_the_breaker_and_costs_evidence_not_clients() -> None:
    def dead(path: str, body: bytes) -> Reply:
        raise BackendUnavailable("reference: cannot connect")

    of = settings(breaker_failures=2, concurrency=1)
    async with running(of, reference=dead) as rig:
        rig.send(*(mark(n) for n in range(6)), *(exchange(n) for n in range(6)))
        rows = await rig.rows(6)
        assert rig.monitor.state()["breaker"]["state"] == "open"
        assert not rig.monitor.readiness()["reference_answers"]
        assert "cannot connect" in rig.monitor.state()["arms"]["reference"]["last_error"]
        await until(lambda: rig.monitor.verdict().coverage.sampled == 6)
        assert rig.monitor.verdict().state == "inconclusive"
    reasons = [scores(row)["text_mismatch"] for row in rows]
    assert reasons == [Reason.REFERENCE_ERROR] * 2 + [Reason.BREAKER_OPEN] * 4
    assert len(rig.reference.bodies) == 2


@pytest.mark.asyncio
async def test_a_reference_of_another_model_is_loud() -> None:
    message = b'{"error":{"message":"The model `ref` does not exist.","type":"NotFoundError","code":404}}'
    async with running(reference=lambda path, body: Reply(404, "application/json", message, 0.0)) as rig:
        rig.send(mark(0), exchange(0))
        (row,) = await rig.rows(1)
        assert "The model `ref` does not exist" in rig.monitor.state()["arms"]["reference"]["last_error"]
        assert rig.monitor.readiness()["reference_answers"] is False
    (lost,) = [s for s in row.scores if s.name == "text_mismatch"]
    assert lost.reason is Reason.REFERENCE_ERROR
    assert lost.explanation == {"status": 404}


@pytest.mark.asyncio
async def test_a_cut_stream_of_the_candidate_counts_against_it() -> None:
    async with running() as rig:
        rig.send(mark(0), exchange(0, outcome=Outcome.CANDIDATE_FAILED, request=TOOLS))
        rig.send(mark(1), exchange(1, status=503, request=TOOLS))
        rig.send(mark(2), exchange(2, status=401))
        rig.send(mark(3), exchange(3, outcome=Outcome.CLIENT_CLOSED))
        rows = await rig.rows(4)
    assert [scores(row).get("tool_call_mismatch") for row in rows[:2]] == [Reason.CANDIDATE_ERROR] * 2
    assert [row.reason for row in rows[2:]] == ["client_error", "client_closed"]
    assert rig.reference.bodies == []


@pytest.mark.asyncio
async def test_a_broken_ledger_is_said_and_nothing_is_lost() -> None:
    ledger = MemoryLedger()
    async with running(ledger=ledger) as rig:
        ledger.broken = "disk full"
        rig.send(mark(0), exchange(0))
        await until(lambda: rig.metrics.write_errors)
        assert rig.monitor.readiness()["ledger_writable"] is False
        verdict = rig.monitor.verdict()
        assert verdict.state == "inconclusive"
        assert any("disk full" in reason for reason in verdict.reasons)
        assert rig.metrics.rows == []
        ledger.broken = ""
        rig.send(mark(1), exchange(1))
        rows = await rig.rows(2)
        await until(lambda: rig.monitor.readiness()["ledger_writable"])
        assert [row.position for row in rows] == [0, 1]


@pytest.mark.asyncio
async def test_events_before_the_ledger_was_read_are_kept() -> None:
    rig = Rig(settings(), MemoryLedger(), same, same)
    rig.send(mark(0), exchange(0))
    assert rig.monitor.verdict().state == "inconclusive"
    task = asyncio.create_task(rig.monitor.run(rig.shutdown))
    (row,) = await rig.rows(1)
    rig.shutdown.set()
    await asyncio.wait_for(task, 10.0)
    assert row.disposition == "scored"


@pytest.mark.asyncio
async def test_leaving_writes_what_was_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "DRAIN_S", 0.2)

    async def never(path: str, body: bytes) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with running(reference=never) as rig:
        rig.send(mark(0), mark(1), exchange(1))
        await until(lambda: rig.reference.active == 1)
    assert [(row.disposition, row.reason) for row in rig.ledger.rows] == [("lost", "late"), ("scored", None)]
    assert scores(rig.ledger.rows[1])["text_mismatch"] is Reason.LATE
    assert rig.reference.active == 0


@pytest.mark.asyncio
async def test_needles_are_rows_of_their_own_right_after_their_parent() -> None:
    long = chat_request("The sky over the harbour was grey. " * 100)

    def recalls(path: str, body: bytes) -> Reply:
        return ok(chat_reply("482913"))

    async with running(settings(needle_rate=1.0, noise_rate=1.0), candidate=recalls, reference=recalls) as rig:
        rig.send(mark(0), exchange(0, request=long), mark(1), exchange(1))
        rows = await rig.rows(3)
    assert sorted(row.kind for row in rows) == ["live", "live", "probe"]
    (probe,) = [row for row in rows if row.kind == "probe"]
    assert set(scores(probe)) == {"needle_recall_loss"}
    assert set(scores(probe, "noise")) == {"needle_recall_loss"}
    assert len(rig.candidate.bodies) == 1
    assert probe.stratum == rows[0].stratum


@pytest.mark.asyncio
async def test_an_exchange_that_breaks_the_scoring_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as rig:
        monkeypatch.setattr(rig.monitor._intake._worker._evaluator, "evaluate", lambda plan, heard: 1 / 0)
        rig.send(mark(0), exchange(0))
        (row,) = await rig.rows(1)
    assert scores(row)["text_mismatch"] is Reason.SCORER_ERROR


@pytest.mark.asyncio
async def test_a_changed_arm_begins_a_new_epoch_with_new_evidence() -> None:
    async with running(look_interval_s=0.05) as rig:
        rig.send(mark(0), exchange(0))
        await rig.rows(1)
        await until(lambda: rig.monitor.verdict().coverage.sampled == 1)
        version = "1.0"

        async def get(path: str, timeout_s: float) -> Reply:
            body = b'{"version":"' + version.encode() + b'"}'
            return Reply(200, "application/json", body, 0.0) if path == "/version" else Reply(404, "", b"", 0.0)

        rig.reference.get = get  # type: ignore[method-assign]
        await until(lambda: len(rig.ledger.epochs) == 2)
        await until(lambda: rig.monitor.state()["epoch"] == 2)
        assert rig.monitor.verdict().coverage.sampled == 0
        assert "engine_version" in rig.ledger.epochs[1][2]

        async def gone(path: str, timeout_s: float) -> Reply:
            raise BackendUnavailable("gone")

        rig.reference.get = gone  # type: ignore[method-assign]
        await until(lambda: "reference" in rig.monitor.state()["unreachable"])
        rig.send(mark(1), exchange(1))
        assert (await rig.rows(2))[1].epoch == 2  # an arm that is away has not changed
        assert len(rig.ledger.epochs) == 2


@pytest.mark.asyncio
async def test_a_monitor_that_loses_a_task_writes_what_it_has_and_ends_with_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "DRAIN_S", 0.2)

    async def never(path: str, body: bytes) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    rig = Rig(settings(), MemoryLedger(), same, never)
    task = asyncio.create_task(rig.monitor.run(rig.shutdown))
    await until(lambda: rig.monitor.readiness()["resumed"])
    rig.send(mark(0), exchange(0))
    await until(lambda: rig.reference.active == 1)
    monkeypatch.setattr(rig.monitor._intake, "tick", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(task, 10.0)
    assert [scores(row)["text_mismatch"] for row in rig.ledger.rows] == [Reason.LATE]
    assert not rig.shutdown.is_set()


@pytest.mark.asyncio
async def test_a_reset_puts_aside_what_was_sampled_and_a_restart_agrees() -> None:
    ledger, gate = MemoryLedger(), asyncio.Event()

    async def slow(path: str, body: bytes) -> Reply:
        await gate.wait()
        return ok(chat_reply("fine"))

    async with running(settings(concurrency=8), ledger, reference=slow) as rig:
        rig.send(*[exchange(n, request=TOOLS, reply=tool_reply("weather", city="Rome")) for n in range(4)])
        await until(lambda: rig.reference.active == 4)
        assert await rig.monitor.reset("the reference was restarted") == 3  # still in work, and sampled before
        gate.set()
        rig.send(*[exchange(n, request=TOOLS) for n in range(4, 6)])
        await rig.rows(6)
        await until(lambda: rig.monitor.verdict().coverage.sampled == 2)
        live = rig.monitor.verdict()
    assert live.budgets["tool_call_mismatch"].value == 0.0
    told = {"epoch": 1, "position": 3, "reason": "the reference was restarted"}
    assert ("reset", told) in ledger.events
    async with running(settings(), ledger, reference=slow) as rig:
        assert rig.monitor.verdict().as_dict() == live.as_dict()


@pytest.mark.asyncio
async def test_a_reset_that_the_ledger_does_not_take_is_none() -> None:
    async with running() as rig:
        rig.send(exchange(0, request=TOOLS))
        await until(lambda: rig.monitor.verdict().coverage.sampled == 1)
        rig.ledger.broken = "the disk is full"
        with pytest.raises(LedgerError, match="disk"):
            await rig.monitor.reset("")
        assert rig.monitor.verdict().coverage.sampled == 1
        rig.ledger.broken = ""


@pytest.mark.asyncio
async def test_losses_of_known_requests_count_against_the_decision_at_stake() -> None:
    """A reference too slow for the traffic: what is turned away must not be what nobody sees."""
    async with running(settings(max_queue_exchanges=1, max_queue_bytes=1)) as rig:  # nothing fits
        for n in range(30):
            rig.send(mark(n), exchange(n, request=TOOLS, reply=tool_reply("weather", city="Rome")))
        rows = await rig.rows(30)
        await until(lambda: rig.monitor.verdict().coverage.sampled == 30)
        coverage = rig.monitor.verdict().coverage
    assert {scores(row)["tool_call_mismatch"] for row in rows} == {Reason.QUEUE_FULL}
    assert coverage.unknown == 0
    assert coverage.lost == {"queue_full": 30}


@pytest.mark.asyncio
async def test_needles_are_lost_with_their_parents_never_forgotten() -> None:
    long = chat_request("The sky over the harbour was grey. " * 100)
    async with running(settings(needle_rate=1.0)) as rig:
        rig.monitor.pause()
        rig.send(mark(0), exchange(0, request=long))
        rows = await rig.rows(2)
    assert [(row.kind, set(scores(row).values()) >= {Reason.PAUSED}) for row in rows] == [
        ("live", True),
        ("probe", True),
    ]
    assert set(scores(rows[1])) == {"needle_recall_loss"}


def versions(rig: Rig, number: list[str]) -> None:
    async def get(path: str, timeout_s: float) -> Reply:
        body = b'{"version":"' + number[0].encode() + b'"}'
        return Reply(200, "application/json", body, 0.0) if path == "/version" else Reply(404, "", b"", 0.0)

    rig.reference.get = get  # type: ignore[method-assign]


@pytest.mark.asyncio
async def test_an_exchange_belongs_to_the_epoch_in_which_it_was_sampled() -> None:
    gate, now = asyncio.Event(), [AT]

    async def slow(path: str, body: bytes) -> Reply:
        if b"slow" in body:
            await gate.wait()
        return ok(chat_reply("fine"))

    async with running(reference=slow, look_interval_s=0.05, wall=lambda: now[0]) as rig:
        rig.send(mark(0), mark(1), mark(2), exchange(0, request=chat_request("slow")))
        await until(lambda: rig.reference.active == 1)
        now[0] = AT + 10.0
        versions(rig, ["2.0"])
        await until(lambda: rig.monitor.state()["epoch"] == 2)
        gate.set()  # asked in the first epoch, answered in the second
        rig.send(exchange(1))  # sampled in the first, arrived in the second
        rig.send(Lost("w-2", "w", 2, LossReason.FEED_FULL))
        rig.send(exchange(3, at_unix_s=AT + 9.0))  # unmarked
        rig.send(exchange(4, at_unix_s=AT + 10.0))
        rows = await rig.rows(5)
        await until(lambda: rig.monitor.verdict().coverage.sampled == 1)
        assert rig.monitor.verdict().coverage.lost == {}
    assert [(row.epoch, row.disposition, row.reason) for row in rows] == [
        (1, "lost", "epoch_closed"),
        (1, "lost", "epoch_closed"),
        (1, "lost", "feed_full"),
        (1, "lost", "epoch_closed"),
        (2, "scored", None),
    ]
    assert rows[0].scores == ()


@pytest.mark.asyncio
async def test_what_the_feed_held_over_a_restart_belongs_to_the_epoch_before() -> None:
    ledger = MemoryLedger()
    async with running(ledger=ledger):
        pass
    first = Rig(settings(), ledger, same, same, wall=lambda: AT + 10.0)
    versions(first, ["2.0"])
    task = asyncio.create_task(first.monitor.run(first.shutdown))
    first.send(exchange(0), exchange(1, at_unix_s=AT + 10.0), exchange(2, at_unix_s=AT - 1.0))
    rows = await first.rows(3)
    first.shutdown.set()
    await asyncio.wait_for(task, 10.0)
    assert [(row.epoch, row.disposition, row.reason) for row in rows] == [
        (1, "lost", "epoch_closed"),
        (2, "scored", None),
        (2, "lost", "epoch_closed"),  # before the first epoch there is none to put it in
    ]


@pytest.mark.asyncio
async def test_a_switch_that_the_ledger_did_not_take_is_called_off_when_the_contract_is_back() -> None:
    version = ["1.0"]
    rig = Rig(settings(), MemoryLedger(), same, same, look_interval_s=0.05)
    versions(rig, version)
    task = asyncio.create_task(rig.monitor.run(rig.shutdown))
    await until(lambda: rig.monitor.readiness()["resumed"])
    rig.ledger.broken = "disk full"
    version[0] = "2.0"
    await until(lambda: any("could not open" in reason for reason in rig.monitor.verdict().reasons))
    rig.send(mark(0), exchange(0))
    version[0] = "1.0"
    rig.ledger.broken = ""
    await until(lambda: not any("could not open" in reason for reason in rig.monitor.verdict().reasons))
    rig.send(mark(1), exchange(1))
    rows = await rig.rows(2)
    rig.shutdown.set()
    await asyncio.wait_for(task, 10.0)
    assert [(row.disposition, row.reason) for row in rows] == [("lost", "epoch_closed"), ("scored", None)]
    assert len(rig.ledger.epochs) == 1


@pytest.mark.asyncio
async def test_another_limit_is_another_epoch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = MemoryLedger()
    async with running(ledger=ledger) as rig:
        rig.send(exchange(0, request=TOOLS))
        await until(lambda: rig.monitor.verdict().coverage.sampled == 1)
    looser = Budget("tool_call_mismatch", 0.05, bounded=True, critical=True)
    monkeypatch.setitem(globals(), "evidence", lambda: start((looser,), GateRules()))
    async with running(ledger=ledger) as rig:
        assert rig.monitor.verdict().coverage.sampled == 0
    assert [(number, why) for number, _, why in ledger.epochs] == [
        (1, "the first epoch of this ledger"),
        (2, "budget tool_call_mismatch limit: 0.03 became 0.05"),
    ]
    async with running(ledger=ledger) as rig:
        assert rig.monitor.state()["epoch"] == 2


STEPS = RolloutSettings(steps=(StepSettings(share=0.25, pairs=1_000_000), StepSettings(share=1.0)))


@pytest.mark.asyncio
async def test_a_fail_returns_to_the_reference_with_the_row_that_brought_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "TICK_S", 3600.0)  # the clock does nothing here
    orders: list[Order] = []
    of = settings().model_copy(update={"rollout": STEPS})
    async with running(of, candidate=same, reference=lambda path, body: ok(tool_reply("weather", city="Oslo"))) as rig:
        rig.monitor.attach_feed(dict, orders.append)
        for number in range(60):
            rig.send(mark(number), exchange(number, request=TOOLS, reply=tool_reply("weather", city="Paris")))
        await until(lambda: rig.monitor.verdict().state == "fail")
        await until(lambda: orders and orders[-1] == Order(0.0, Phase.FAILED, 1))
        assert rig.monitor.state()["rollout"]["phase"] == "failed"
        await until(lambda: (rig.ledger.latest_event("rollout") or {}).get("phase") == "failed")
        position = await rig.monitor.reset("repaired")
        assert position >= 0
        assert orders[-1] == Order(0.25, Phase.STEPPING, 1)


@pytest.mark.asyncio
async def test_without_a_rollout_no_act_is_taken_and_no_order_given() -> None:
    orders: list[Order] = []
    async with running() as rig:
        rig.monitor.attach_feed(dict, orders.append)
        rig.send(mark(0), exchange(0))
        await rig.rows(1)
        with pytest.raises(RolloutError):
            await rig.monitor.rollout_act("abort", "")
        assert "rollout" not in rig.monitor.state()
    assert orders == []


@pytest.mark.asyncio
async def test_what_is_known_from_the_start_holds_a_pass_and_not_a_fail() -> None:
    told = "the recipe turns 2 knobs at once"
    async with running(holds=(told,), reference=lambda path, body: ok(tool_reply("weather", city="Paris"))) as rig:
        await until(lambda: told in rig.monitor.verdict().reasons)
        assert rig.monitor.verdict().state == "inconclusive"
        for n in range(60):
            rig.send(mark(n), exchange(n, request=TOOLS, reply=tool_reply("weather", city="Rome")))
        await until(lambda: rig.monitor.verdict().samples >= 60)
        assert rig.monitor.verdict().state == "fail"
