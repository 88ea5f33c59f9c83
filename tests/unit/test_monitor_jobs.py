"""The backlog's bounds, and one job's way to its row."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as unhurried
from hypothesis import strategies as st

from backends.base import Reply
from proxy.exchange import Outcome
from proxy.monitor.evaluate import Evaluator, Keeping, mismatch_rule
from proxy.monitor.jobs import Backlog, Job, Worker
from proxy.monitor.mirror import Mirror
from proxy.monitor.order import Slot
from proxy.monitor.plan import Plan
from proxy.monitor.redact import redactor
from scorers.catalogue import scorers
from scorers.records import Reason
from tests.unit.monitor_rig import Metrics, ScriptedBackend, chat_reply, chat_request, exchange, ok, settings


def job(position: int = 0, size: int = 10, **more: Any) -> Job:
    slot = Slot(position, "live", f"w-{position}", "w", position, 100.0, 0.0, 0.0, claimed=True)
    return Job(slot, 1, size, exchange=exchange(position, **more))


@pytest.mark.asyncio
async def test_the_newest_is_turned_away_past_either_bound() -> None:
    backlog = Backlog(max_jobs=2, max_bytes=25)
    assert backlog.offer(job(0))
    assert not backlog.offer(job(1, size=16))  # bytes
    assert backlog.offer(job(2))
    assert not backlog.offer(job(3, size=1))  # number
    assert backlog.refused == 2
    first = await backlog.take()
    assert first.slot.position == 0
    assert (backlog.waiting, backlog.held, backlog.held_bytes) == (1, 2, 20)  # in work still holds its bytes
    assert not backlog.offer(job(4, size=6))
    backlog.release(first)
    backlog.release(first)
    assert backlog.held_bytes == 10
    assert backlog.offer(job(5))


@pytest.mark.asyncio
async def test_taking_waits_and_a_cancelled_taker_takes_nothing() -> None:
    backlog = Backlog(max_jobs=2, max_bytes=100)
    gone, waiting = asyncio.create_task(backlog.take()), asyncio.create_task(backlog.take())
    await asyncio.sleep(0)
    gone.cancel()
    backlog.offer(job(0))
    assert (await asyncio.wait_for(waiting, 5.0)).slot.position == 0
    late = asyncio.create_task(backlog.take())
    backlog.offer(job(1))
    assert (await asyncio.wait_for(late, 5.0)).slot.position == 1


@pytest.mark.asyncio
async def test_emptied_means_that_nothing_waits_or_is_in_work() -> None:
    backlog = Backlog(max_jobs=2, max_bytes=100)
    await asyncio.wait_for(backlog.emptied(), 1.0)
    backlog.offer(job(0))
    taken = await backlog.take()
    empty = asyncio.create_task(backlog.emptied())
    await asyncio.sleep(0)
    assert not empty.done()
    backlog.release(taken)
    await asyncio.wait_for(empty, 1.0)


@unhurried(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60))
def test_bytes_always_come_back(steps: list[tuple[bool, int]]) -> None:
    async def play() -> None:
        backlog, held, position = Backlog(max_jobs=5, max_bytes=100), [], 0
        for offers, size in steps:
            if offers:
                position += 1
                backlog.offer(job(position, size=size))
            elif backlog.waiting:
                held.append(await backlog.take())
            elif held:
                backlog.release(held.pop())
            assert 0 <= backlog.held_bytes <= 100
        while backlog.waiting:
            held.append(await backlog.take())
        for one in held:
            backlog.release(one)
        assert (backlog.held, backlog.held_bytes) == (0, 0)

    asyncio.run(play())


class Rig:
    def __init__(self, executor: ThreadPoolExecutor, **mirror: Any) -> None:
        of = settings(**mirror)
        self.candidate = ScriptedBackend("candidate", lambda path, body: ok(chat_reply()))
        self.reference = ScriptedBackend("reference", lambda path, body: ok(chat_reply()))
        self.probes: list[Plan] = []
        keeping = Keeping(mismatch_rule({}), keep_mismatches=True, max_body_bytes=1000, redactor=redactor(()))
        arms = Mirror(self.candidate, self.reference, of.mirror, Metrics(), lambda: 0.0)
        self.worker = Worker(
            of, arms, Evaluator(scorers(), keeping), executor, lambda parent, plan: self.probes.append(plan), b"rig"
        )


@pytest.mark.asyncio
async def test_a_job_without_a_plan_gets_one_and_keeps_it() -> None:
    with ThreadPoolExecutor(1) as executor:
        rig, one = Rig(executor), job(0)
        row = await rig.worker.row(one)
    assert one.plan is not None
    assert (row.disposition, row.path, row.status, row.outcome) == ("scored", "/v1/chat/completions", 200, "complete")
    assert rig.probes == []


@pytest.mark.asyncio
async def test_a_needle_is_announced_for_long_prompts_at_any_temperature() -> None:
    long = "The sky was grey over the harbour. " * 200
    with ThreadPoolExecutor(1) as executor:
        rig = Rig(executor, needle_rate=1.0)
        scored = await rig.worker.row(job(0, request=chat_request(long)))
        sampled = await rig.worker.row(job(1, request=chat_request(long, temperature=1.0)))
        await rig.worker.row(job(2, request=chat_request(long), outcome=Outcome.CLIENT_CLOSED))
        await rig.worker.row(job(3, request=chat_request("short")))
    assert (scored.disposition, sampled.reason) == ("scored", "sampled_not_replayed")
    assert [plan.id for plan in rig.probes] == ["w-0", "w-1"]


@pytest.mark.asyncio
async def test_what_a_job_loses_does_not_depend_on_how_far_it_came() -> None:
    with ThreadPoolExecutor(1) as executor:
        rig, one = Rig(executor, noise_rate=1.0), job(0)
        unplanned = rig.worker.row_without(one, Reason.LATE)
        await rig.worker.row(one)
        assert rig.worker.row_without(one, Reason.LATE) == unplanned
        turned = rig.worker.row_without(job(1, request=chat_request(temperature=1.0)), Reason.QUEUE_FULL)
        failed = rig.worker.row_without(job(2, status=503), Reason.QUEUE_FULL)
    assert (unplanned.disposition, unplanned.reason) == ("scored", None)
    assert {s.reason for s in unplanned.scores if s.name == "text_mismatch"} == {Reason.LATE}
    assert {s.arm for s in unplanned.scores} == {"candidate", "noise"}
    assert (turned.disposition, turned.reason) == ("ineligible", "sampled_not_replayed")
    assert Reason.CANDIDATE_ERROR in {score.reason for score in failed.scores}


@pytest.mark.asyncio
async def test_a_lost_parent_still_announces_its_needle_once() -> None:
    long = "The sky was grey over the harbour. " * 200
    with ThreadPoolExecutor(1) as executor:
        rig, one = Rig(executor, needle_rate=1.0), job(0, request=chat_request(long))
        for _ in range(2):
            rig.worker.row_without(one, Reason.QUEUE_FULL)
    assert [plan.id for plan in rig.probes] == ["w-0"]


@pytest.mark.asyncio
async def test_teacher_forcing_reads_the_replay_and_the_control_again() -> None:
    logged = chat_reply(token_ids=[5])[:-1] + b',"prompt_token_ids":[1,2]}'

    def reference(path: str, body: bytes) -> Reply:
        return ok(b'{"choices":[]}' if path == "/v1/completions" else logged)

    with ThreadPoolExecutor(1) as executor:
        rig = Rig(executor, replay_rate=1.0, noise_rate=1.0, teacher_forced_rate=1.0)
        rig.candidate.behaviour, rig.reference.behaviour = (lambda path, body: ok(logged)), reference
        row = await rig.worker.row(job(0))
    assert [body.get("prompt") for body in rig.reference.bodies].count([1, 2, 5]) == 2
    lost = {(s.arm, s.reason) for s in row.scores if s.name == "teacher_forced_kl"}
    assert lost == {("candidate", Reason.REFERENCE_UNDECODABLE), ("noise", Reason.REFERENCE_UNDECODABLE)}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "ends"),
    [
        (400, ("ineligible", "client_error", None)),
        (200, ("scored", None, Reason.CANDIDATE_ERROR)),
        (503, ("scored", None, Reason.REFERENCE_ERROR)),
        (401, ("scored", None, Reason.REFERENCE_ERROR)),  # our own key says nothing about the request
    ],
)
async def test_a_request_that_the_candidate_refused_is_judged_by_the_reference(status: int, ends: Any) -> None:
    with ThreadPoolExecutor(1) as executor:
        rig = Rig(executor, noise_rate=1.0, replay_rate=1.0)
        rig.reference.behaviour = lambda path, body: Reply(status, "application/json", chat_reply(), 0.0)
        row = await rig.worker.row(job(0, status=400))
    lost = {score.name: score.reason for score in row.scores if score.arm == "candidate"}
    assert (row.disposition, row.reason, lost.get("text_mismatch")) == ends
    assert len(rig.reference.bodies) == 1
    assert rig.candidate.bodies == []


@pytest.mark.asyncio
async def test_a_needle_in_a_refused_request_is_judged_alike() -> None:
    long = "The sky was grey over the harbour. " * 200
    with ThreadPoolExecutor(1) as executor:
        rig = Rig(executor, needle_rate=1.0)
        rig.candidate.behaviour = lambda path, body: Reply(400, "application/json", b"{}", 0.0)
        await rig.worker.row(job(0, request=chat_request(long), status=400))
        probe = job(1)
        probe.exchange, probe.plan = None, rig.probes[0]
        refused_by_one = await rig.worker.row(probe)
        rig.reference.behaviour = rig.candidate.behaviour
        refused_by_both = await rig.worker.row(probe)
    assert (refused_by_one.disposition, refused_by_one.scores[0].reason) == ("scored", Reason.CANDIDATE_ERROR)
    assert (refused_by_both.disposition, refused_by_both.reason) == ("ineligible", "client_error")
