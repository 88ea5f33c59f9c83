"""Planted needles: when, in what, and the same for both arms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy.monitor.evaluate import Evaluator, Keeping, mismatch_rule
from proxy.monitor.heard import Heard
from proxy.monitor.mirror import Answer, Answers
from proxy.monitor.plan import Coins, Plan
from proxy.monitor.probes import MIN_PROMPT_TOKENS, probe_plan
from proxy.monitor.redact import redactor
from scorers.catalogue import scorers
from scorers.decode import decode_request
from scorers.records import DecodedRequest, Reason
from tests.unit.monitor_rig import CHAT, WEATHER, chat_reply, chat_request, ok, settings

COINS = Coins(replay=False, noise=True, teacher_forced=True, needle=True, keep=False)
LONG = "The harbour lay still under a grey sky. " * (MIN_PROMPT_TOKENS // 8)


def request(text: str = LONG, **more: Any) -> DecodedRequest:
    return decode_request(CHAT, orjson.dumps(chat_request(text, **{"temperature": 0.7, **more})))


def planted(coins: Coins = COINS, **more: Any) -> Plan:
    made = probe_plan("w-0", request(**more), coins, {}, settings())
    assert made is not None
    return made


def test_both_arms_are_asked_for_the_same_hidden_fact() -> None:
    made = planted(tools=[WEATHER])
    assert made.replay is not None
    assert made.control is not None
    assert made.probe is not None
    bodies = [orjson.loads(call.body) for call in (made.replay, made.reference, made.control)]
    assert [body["model"] for body in bodies] == ["cand", "ref", "ref"]
    assert bodies[0]["messages"] == bodies[1]["messages"] == bodies[2]["messages"]
    assert made.probe.needle in str(bodies[0]["messages"])
    assert made.probe.answer in made.probe.needle
    assert 0.0 <= made.probe.depth_ratio <= 1.0
    assert all("tools" not in body and body["temperature"] == 0 for body in bodies)
    assert made.served is None
    assert not made.coins.teacher_forced
    assert not made.request.greedy  # the traffic that it was planted in


def test_the_same_exchange_gives_the_same_needle_and_another_gives_another() -> None:
    assert planted().reference == planted().reference
    other = probe_plan("w-1", request(), COINS, {}, settings())
    assert other is not None
    assert other.probe != planted().probe


@pytest.mark.parametrize(
    "why_not",
    [
        {"coins": replace(COINS, needle=False)},
        {"request": request("too short")},
        {"request": decode_request("/v1/completions", orjson.dumps({"prompt": LONG}))},
    ],
)
def test_where_none_is_planted(why_not: dict[str, Any]) -> None:
    given: dict[str, Any] = {"coins": COINS, "request": request(), **why_not}
    assert probe_plan("w-0", given["request"], given["coins"], {}, settings()) is None


def test_without_the_noise_coin_there_is_no_control() -> None:
    assert planted(replace(COINS, noise=False)).control is None


def test_only_the_needle_is_scored_and_only_the_candidates_loss() -> None:
    made = planted()
    assert made.probe is not None
    keeping = Keeping(mismatch_rule({}), keep_mismatches=True, max_body_bytes=1000, redactor=redactor(()))
    found, missed = ok(chat_reply(made.probe.answer)), ok(chat_reply("I cannot say."))

    def loss(candidate: Answer, reference: Answer) -> Any:
        of = Evaluator(scorers(), keeping).evaluate(made, Heard(Answers(reference, candidate, reference)))
        assert {s.name for s in of.scores} == {"needle_recall_loss"}
        (score,) = [s for s in of.scores if s.arm == "candidate"]
        return score.value if score.value is not None else score.reason

    assert loss(Answer(found), Answer(found)) == 0.0
    assert loss(Answer(missed), Answer(found)) == 1.0
    assert loss(Answer(missing=Reason.CANDIDATE_ERROR), Answer(found)) is Reason.CANDIDATE_ERROR
    assert loss(Answer(found), Answer(missing=Reason.REFERENCE_TIMEOUT)) is Reason.REFERENCE_TIMEOUT
