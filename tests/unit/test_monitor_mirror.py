"""Calls to the arms: every way in which one can end is counted, and gives back what it held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from backends.base import BackendProtocolError, BackendTimeout, BackendUnavailable, Reply
from backends.shape import ShadowCall
from proxy.monitor.exposition import OUTCOMES, ParityMetrics
from proxy.monitor.mirror import MAX_ERROR_CHARS, Answer, Mirror
from proxy.monitor.plan import Plan, Tosser, plan
from proxy.settings import MirrorSettings
from scorers.catalogue import SPECS
from scorers.records import Reason
from tests.unit.monitor_rig import CHAT, Metrics, ScriptedBackend, chat_reply, exchange, ok, settings, until

CALL = ShadowCall(CHAT, b'{"messages":[]}')


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    def __init__(self, **mirror: Any) -> None:
        self.metrics = Metrics()
        self.clock = Clock()
        self.candidate = ScriptedBackend("candidate", lambda path, body: ok(chat_reply()))
        self.reference = ScriptedBackend("reference", lambda path, body: ok(chat_reply()))
        self.settings = MirrorSettings(
            **{"concurrency": 1, "breaker_failures": 3, "breaker_cooldown_s": 10.0, **mirror}
        )
        self.mirror = Mirror(self.candidate, self.reference, self.settings, self.metrics, self.clock)

    async def ask(self, side: Any = "reference") -> Answer:
        return await asyncio.wait_for(self.mirror.ask(side, CALL, {}), 5.0)


def raising(error: BaseException) -> Callable[[str, bytes], Reply]:
    def behave(path: str, body: bytes) -> Reply:
        raise error

    return behave


async def never(path: str, body: bytes) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


WAYS_TO_END = [
    (raising(BackendUnavailable("gone")), Reason.REFERENCE_ERROR, "error"),
    (raising(BackendTimeout("slow")), Reason.REFERENCE_TIMEOUT, "timeout"),
    (raising(BackendProtocolError("garbage")), Reason.REFERENCE_ERROR, "error"),
    (raising(RuntimeError("a defect")), Reason.REFERENCE_ERROR, "error"),
    (lambda path, body: Reply(503, "", b"", 0.0), Reason.REFERENCE_ERROR, "error"),
    (lambda path, body: Reply(429, "", b"", 0.0), Reason.REFERENCE_ERROR, "rejected"),
    (lambda path, body: Reply(404, "", b"not json", 0.0), Reason.REFERENCE_ERROR, "rejected"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("behaviour", "reason", "outcome"), WAYS_TO_END)
async def test_every_end_is_a_reason_and_gives_the_slot_back(behaviour: Any, reason: Reason, outcome: str) -> None:
    rig = Rig()
    rig.reference.behaviour = behaviour
    for _ in range(2):  # one slot only: the second would hang if the first had leaked it
        answer = await rig.ask()
        assert (answer.reply, answer.missing) == (None, reason)
    assert rig.metrics.calls == [("reference", outcome)] * 2
    assert rig.mirror.in_flight == 0
    rig.reference.behaviour = lambda path, body: ok(chat_reply())
    assert (await rig.ask()).missing is None


@pytest.mark.asyncio
@pytest.mark.parametrize("waiting_for", ["the reply", "a slot"])
async def test_cancellation_gives_the_slot_and_the_trial_back(waiting_for: str) -> None:
    rig = Rig(breaker_failures=1)
    rig.reference.behaviour = raising(BackendUnavailable("gone"))
    await rig.ask()
    rig.clock.now_s = 10.0  # half-open: the next call is the one trial
    rig.reference.behaviour = never
    calls = [asyncio.create_task(rig.ask())]
    await until(lambda: rig.reference.active == 1)
    if waiting_for == "a slot":
        calls.append(asyncio.create_task(rig.ask()))
        await asyncio.sleep(0)
    for call in reversed(calls):
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert rig.mirror.in_flight == 0
    rig.reference.behaviour = lambda path, body: ok(chat_reply())
    assert (await rig.ask()).missing is None
    assert rig.mirror.breaker.state(rig.clock()) == "closed"
    assert ("reference", "cancelled") in rig.metrics.calls


@pytest.mark.asyncio
async def test_no_more_calls_at_once_than_allowed() -> None:
    rig = Rig(concurrency=3)
    gate = asyncio.Event()

    async def gated(path: str, body: bytes) -> Reply:
        await gate.wait()
        return ok(chat_reply())

    rig.reference.behaviour = rig.candidate.behaviour = gated
    calls = [asyncio.create_task(rig.ask(side)) for side in ("reference", "candidate") * 6]
    await until(lambda: rig.reference.active + rig.candidate.active == 3)
    gate.set()
    await asyncio.gather(*calls)
    assert rig.reference.most_active + rig.candidate.most_active <= 6
    assert len(rig.metrics.calls) == 12


@pytest.mark.asyncio
async def test_a_4xx_is_an_answer_and_a_5xx_opens_the_breaker() -> None:
    rig = Rig()
    rig.reference.behaviour = lambda path, body: Reply(404, "", b"", 0.0)
    for _ in range(5):
        await rig.ask()
    assert rig.mirror.breaker.state(0.0) == "closed"
    rig.reference.behaviour = lambda path, body: Reply(500, "", b"", 0.0)
    for _ in range(3):
        await rig.ask()
    assert (await rig.ask()).missing is Reason.BREAKER_OPEN
    assert len(rig.reference.bodies) == 8


@pytest.mark.asyncio
async def test_the_candidate_has_no_breaker_and_its_failures_are_its_own() -> None:
    rig = Rig(breaker_failures=1)
    rig.candidate.behaviour = raising(BackendTimeout("slow"))
    for _ in range(3):
        assert (await rig.ask("candidate")).missing is Reason.CANDIDATE_ERROR
    assert (await rig.ask("reference")).missing is None


@pytest.mark.asyncio
async def test_while_the_breaker_is_open_nobody_is_called() -> None:
    rig = Rig(breaker_failures=1)
    rig.reference.behaviour = raising(BackendUnavailable("gone"))
    await rig.ask()
    of = settings(replay_rate=1.0, noise_rate=1.0)
    planned = plan(exchange(0), Tosser(of, b"rig").toss("w-0"), of)
    assert isinstance(planned, Plan)
    answers = await rig.mirror.answers(planned)
    assert answers.reference.missing is Reason.BREAKER_OPEN
    assert rig.candidate.bodies == []
    assert rig.metrics.calls == [("reference", "error"), ("reference", "breaker_open")]
    assert (await rig.ask()).missing is Reason.BREAKER_OPEN
    assert rig.metrics.calls.count(("reference", "breaker_open")) == 2
    rig.clock.now_s = 10.0
    rig.reference.behaviour = lambda path, body: ok(chat_reply())
    answers = await rig.mirror.answers(planned)
    assert answers.reference.reply is not None
    assert answers.replay is not None
    assert rig.candidate.bodies[0]["model"] == "cand"


@pytest.mark.asyncio
async def test_an_error_is_told_without_a_prompt_and_within_a_bound() -> None:
    rig = Rig()
    secret = b'{"error":{"message":"bad input: my secret","type":"BadRequestError","code":400}}'
    rig.reference.behaviour = lambda path, body: Reply(400, "", secret, 0.0)
    await rig.ask()
    assert rig.mirror.health["reference"].last_error == "HTTP 400 BadRequestError"
    wrong = b'{"error":{"message":"The model `x` does not exist.' + b"!" * 9000 + b'","type":"NotFoundError"}}'
    rig.reference.behaviour = lambda path, body: Reply(404, "", wrong, 0.0)
    await rig.ask()
    told = rig.mirror.health["reference"].last_error
    assert told.startswith("HTTP 404 NotFoundError: The model `x` does not exist.")
    assert len(told) <= MAX_ERROR_CHARS


def planned(**mirror: Any) -> Plan:
    of = settings(**mirror)
    made = plan(exchange(0), Tosser(of, b"rig").toss("w-0"), of)
    assert isinstance(made, Plan)
    return made


@pytest.mark.asyncio
async def test_the_noise_run_begins_once_the_first_answer_has_come() -> None:
    rig, gate = Rig(concurrency=8), asyncio.Event()

    async def gated(path: str, body: bytes) -> Reply:
        await gate.wait()
        return ok(chat_reply())

    rig.reference.behaviour = gated
    answers = asyncio.create_task(rig.mirror.answers(planned(replay_rate=1.0, noise_rate=1.0)))
    await until(lambda: rig.reference.active == 1 and rig.candidate.bodies)
    gate.set()
    control = (await asyncio.wait_for(answers, 5.0)).control
    assert control is not None
    assert control.reply is not None
    assert rig.reference.most_active == 1
    assert len({body["seed"] for body in rig.reference.bodies}) == 2


@pytest.mark.asyncio
async def test_without_a_first_answer_there_is_no_noise_run() -> None:
    rig = Rig(concurrency=8)
    rig.reference.behaviour = raising(BackendTimeout("slow"))
    answers = await rig.mirror.answers(planned(noise_rate=1.0))
    assert answers.control is not None
    assert answers.control.missing is Reason.REFERENCE_TIMEOUT
    assert len(rig.reference.bodies) == 1


@pytest.mark.parametrize(
    ("status", "rejected"),
    [(400, True), (404, True), (422, True), (401, False), (429, False), (408, False), (500, False)],
)
def test_a_request_is_rejected_for_itself_only(status: int, rejected: bool) -> None:
    assert Answer(missing=Reason.REFERENCE_ERROR, status=status).rejected is rejected
    assert not Answer(reply=ok(b""), status=200).rejected


@pytest.mark.asyncio
async def test_every_end_of_a_call_is_a_label_that_the_metrics_know() -> None:
    rig = Rig(concurrency=8, breaker_failures=1000)
    metrics = ParityMetrics(specs=tuple(SPECS.values()), recipe="awq", version="0")
    rig.mirror = Mirror(rig.candidate, rig.reference, rig.settings, metrics, rig.clock)
    await rig.ask()
    for behaviour, _, _ in WAYS_TO_END:
        rig.reference.behaviour = behaviour
        await rig.ask()
    rig.reference.behaviour = never
    call = asyncio.create_task(rig.ask())
    await until(lambda: rig.reference.active == 1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    rig.settings = MirrorSettings(breaker_failures=1)
    rig.mirror = Mirror(rig.candidate, rig.reference, rig.settings, metrics, rig.clock)
    rig.reference.behaviour = raising(BackendUnavailable("gone"))
    await rig.ask()
    await rig.ask()  # the breaker is open
    counted = {
        sample.labels["outcome"]: sample.value
        for family in metrics.collect()
        for sample in family.samples
        if sample.name == "parity_shadow_calls_total" and sample.labels["arm"] == "reference"
    }
    assert "other" not in counted
    assert {outcome: counted[outcome] for outcome in OUTCOMES} == {
        "ok": 1.0,
        "rejected": 2.0,
        "error": 5.0,
        "timeout": 1.0,
        "breaker_open": 1.0,
        "cancelled": 1.0,
    }
