"""Replies to scores: which reply feeds which family, what a loss means for each score, and what is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from backends.base import Reply
from proxy.monitor.evaluate import TEACHER_FORCED, Evaluation, Evaluator, Keeping, mismatch_rule
from proxy.monitor.forcing import ForcedCall
from proxy.monitor.heard import Forced, Heard
from proxy.monitor.mirror import Answer, Answers
from proxy.monitor.plan import Coins, Plan, plan
from proxy.monitor.redact import REDACTED, redactor
from proxy.monitor.rows import ScoreRow
from scorers.catalogue import SPECS, scorers
from scorers.logprobs import TEACHER
from scorers.records import DecodedRequest, Pair, Reason, Score, Scored, ScoreSpec, Unscored
from tests.unit.monitor_rig import WEATHER, chat_reply, chat_request, exchange, ok, settings, tool_reply

TOOLS = chat_request("weather?", tools=[WEATHER])
PARIS, ROME = tool_reply("weather", city="Paris"), tool_reply("weather", city="Rome")


def logged_reply(text: str = "fine", logprob: float = -0.1, **more: Any) -> bytes:
    """A reply as shadow calls get it: with logprobs and token ids."""
    step = {"token": "token_id:5", "logprob": logprob, "bytes": None}
    other = {"token": "token_id:6", "logprob": -3.0, "bytes": None}
    reply = orjson.loads(
        chat_reply(text, logprobs={"content": [{**step, "top_logprobs": [step, other]}]}, token_ids=[5])
    )
    return orjson.dumps({**reply, "prompt_token_ids": [1, 2, 3], **more})


def coins(**fallen: bool) -> Coins:
    none = {"replay": False, "noise": False, "teacher_forced": False, "needle": False, "keep": False}
    return Coins(**{**none, **fallen})


def planned(fallen: Coins, **more: Any) -> Plan:
    made = plan(exchange(0, **more), fallen, settings())
    assert isinstance(made, Plan)
    return made


def evaluator(*, keep_mismatches: bool = True, max_body_bytes: int = 10_000, redact: tuple[str, ...] = ()) -> Evaluator:
    rule = mismatch_rule({"tool_call_mismatch": 0.03})
    return Evaluator(scorers(), Keeping(rule, keep_mismatches, max_body_bytes, redactor(redact)))


def answered(body: bytes) -> Answer:
    return Answer(reply=ok(body), status=200)


def side(of: Evaluation, arm: str = "candidate") -> dict[str, Any]:
    return {s.name: s.value if s.value is not None else s.reason for s in of.scores if s.arm == arm}


def test_the_served_reply_is_scored_and_logprobs_were_not_planned() -> None:
    of = evaluator().evaluate(planned(coins()), Heard(Answers(answered(logged_reply("fine")))))
    got = side(of)
    assert set(got) == set(SPECS)
    assert got["text_mismatch"] == 0.0
    assert got["logprob_kl"] is Reason.NOT_PLANNED
    assert side(of, "noise") == {}
    assert (of.prompt_tokens, of.reference_prompt_tokens, of.completion_tokens) == (7, 7, 2)


def test_a_replay_feeds_the_logprobs_and_the_served_reply_the_rest() -> None:
    made = planned(coins(replay=True), reply=chat_reply("served"))
    answers = Answers(answered(logged_reply("fine")), replay=answered(logged_reply("fine", -0.2)))
    got = side(evaluator().evaluate(made, Heard(answers)))
    assert got["text_mismatch"] == 1.0
    assert got["logprob_kl"] > 0.0


def test_a_served_reply_that_counts_nothing_is_counted_by_its_replay() -> None:
    """A served stream carries usage only when the client asked for it."""
    uncounted = orjson.dumps({**orjson.loads(chat_reply("fine")), "usage": None})
    made = planned(coins(replay=True), reply=uncounted)
    reference, replay = answered(logged_reply("fine")), answered(chat_reply("fine", prompt_tokens=9))
    of = evaluator().evaluate(made, Heard(Answers(reference, replay=replay)))
    assert (of.prompt_tokens, of.reference_prompt_tokens) == (9, 7)
    alone = evaluator().evaluate(planned(coins(), reply=uncounted), Heard(Answers(reference)))
    assert alone.prompt_tokens is None
    served = evaluator().evaluate(planned(coins(replay=True)), Heard(Answers(reference, replay=replay)))
    assert served.prompt_tokens == 7


def test_without_a_served_reply_everything_comes_from_the_replay() -> None:
    made = planned(coins(replay=True), request=chat_request(temperature=1.0), reply=chat_reply("served"))
    answers = Answers(answered(logged_reply("fine")), replay=answered(logged_reply("fine")))
    got = side(evaluator().evaluate(made, Heard(answers)))
    assert got["text_mismatch"] == 0.0
    assert got["logprob_kl"] == pytest.approx(0.0, abs=1e-12)


def test_the_noise_pair_is_the_reference_against_itself() -> None:
    made = planned(coins(noise=True))
    answers = Answers(answered(logged_reply("fine")), control=answered(logged_reply("other")))
    of = evaluator().evaluate(made, Heard(answers))
    assert side(of)["text_mismatch"] == 0.0
    assert side(of, "noise")["text_mismatch"] == 1.0
    assert side(of, "noise")["logprob_kl"] == pytest.approx(0.0, abs=1e-12)


def test_a_lost_reference_is_lost_for_what_was_planned_and_nothing_else() -> None:
    lost = Answers(Answer(missing=Reason.REFERENCE_TIMEOUT))
    got = side(evaluator().evaluate(planned(coins(), request=TOOLS, reply=PARIS), Heard(lost)))
    assert got["tool_call_mismatch"] is Reason.REFERENCE_TIMEOUT
    assert got["logprob_kl"] is Reason.NOT_PLANNED
    assert got["json_invalid"] is Reason.NO_JSON_FORMAT
    of = evaluator().evaluate(planned(coins(replay=True, noise=True), request=TOOLS, reply=PARIS), Heard(lost))
    assert side(of)["logprob_kl"] is Reason.REFERENCE_TIMEOUT
    assert side(of)[TEACHER_FORCED] is Reason.NOT_PLANNED
    assert side(of, "noise")["tool_call_mismatch"] is Reason.REFERENCE_TIMEOUT
    plain = side(evaluator().evaluate(planned(coins()), Heard(lost)))
    assert plain["tool_call_mismatch"] is Reason.NO_TOOLS


def test_a_lost_replay_costs_the_logprobs_only() -> None:
    answers = Answers(answered(logged_reply()), replay=Answer(missing=Reason.CANDIDATE_ERROR, status=500))
    of = evaluator().evaluate(planned(coins(replay=True)), Heard(answers))
    assert side(of)["text_mismatch"] == 0.0
    assert side(of)["logprob_kl"] is Reason.CANDIDATE_ERROR
    (kl,) = [s for s in of.scores if s.name == "logprob_kl"]
    assert kl.explanation == {"status": 500}


def test_a_lost_control_costs_the_noise_only() -> None:
    answers = Answers(answered(logged_reply()), control=Answer(missing=Reason.REFERENCE_ERROR))
    of = evaluator().evaluate(planned(coins(noise=True)), Heard(answers))
    assert side(of)["text_mismatch"] == 0.0
    assert side(of, "noise")["text_mismatch"] is Reason.REFERENCE_ERROR


@pytest.mark.parametrize("garbage", [b"", b"<html>", b"{}", b'{"choices": 3}', b"\xff", b"data: {\n\n"])
def test_garbage_is_undecodable_on_the_side_where_it_stands(garbage: bytes) -> None:
    served = evaluator().evaluate(planned(coins(), reply=garbage), Heard(Answers(answered(logged_reply()))))
    assert side(served)["text_mismatch"] is Reason.CANDIDATE_UNDECODABLE
    assert side(served)["logprob_kl"] is Reason.NOT_PLANNED
    reference = evaluator().evaluate(planned(coins()), Heard(Answers(answered(garbage))))
    assert side(reference)["text_mismatch"] is Reason.REFERENCE_UNDECODABLE
    assert served.bodies is not None  # what could not be read is worth reading


def forced(body: bytes | None) -> Forced:
    call = ForcedCall(planned(coins()).reference, 3, 1)
    return Forced(call, answered(body) if body is not None else Answer(missing=Reason.REFERENCE_TIMEOUT))


def test_teacher_forcing_is_scored_lost_or_not_planned() -> None:
    assert TEACHER_FORCED == TEACHER
    made = planned(coins(replay=True, teacher_forced=True, noise=True))
    answers = Answers(*(answered(logged_reply()) for _ in range(3)))
    steps = [None, {"2": {"logprob": -1.0}}, {"3": {"logprob": -1.0}}, {"5": {"logprob": -0.1}, "6": {"logprob": -3.0}}]
    body = orjson.dumps({"choices": [{"index": 0, "text": "", "prompt_logprobs": steps}]})
    of = evaluator().evaluate(made, Heard(answers, forced(body), forced(body)))
    assert side(of)[TEACHER_FORCED] == pytest.approx(0.0, abs=1e-9)
    assert side(of, "noise")[TEACHER_FORCED] == pytest.approx(0.0, abs=1e-9)
    of = evaluator().evaluate(made, Heard(answers, forced(None), forced(b"{}")))
    assert side(of)[TEACHER_FORCED] is Reason.REFERENCE_TIMEOUT
    assert side(of, "noise")[TEACHER_FORCED] is Reason.REFERENCE_UNDECODABLE
    of = evaluator().evaluate(made, Heard(answers))
    assert side(of)[TEACHER_FORCED] is Reason.NOT_PLANNED


def test_bodies_are_kept_for_mismatches_within_their_bound_and_redacted() -> None:
    made = planned(coins(), request=TOOLS, reply=ROME)
    heard = Heard(Answers(answered(PARIS)))
    of = evaluator(max_body_bytes=50).evaluate(made, heard)
    assert of.bodies is not None
    assert (of.bodies.candidate, of.bodies.reference, of.bodies.control) == (ROME[:50], PARIS[:50], None)
    assert any(s.explanation for s in of.scores if s.value is not None)
    assert evaluator(keep_mismatches=False).evaluate(made, heard).bodies is None
    agreed = evaluator().evaluate(planned(coins(), request=TOOLS, reply=PARIS), heard)
    assert agreed.bodies is None
    assert not any(s.explanation for s in agreed.scores if s.value is not None)
    hidden = evaluator(redact=("..arguments", "..content")).evaluate(made, heard)
    assert hidden.bodies is not None
    assert b"Rome" not in hidden.bodies.candidate
    assert b"weather?" not in hidden.bodies.request
    assert "Rome" not in str(hidden.scores)


class Quoting:
    """A scorer that says more than it should."""

    family: str = "quoting"
    specs: tuple[ScoreSpec, ...] = (ScoreSpec("quoted", "ratio", True, "for this test"),)

    def __call__(self, pair: Pair) -> tuple[Scored, ...]:
        return (Score("quoted", 1.0, {"said": pair.left.choices[0].tool_calls[0].arguments, "rung": "names"}),)

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        return (Unscored("quoted", why),)


def test_what_a_body_lost_is_in_no_explanation_either() -> None:
    keeping = Keeping(mismatch_rule({"quoted": 0.5}), True, 1000, redactor(("..arguments",)))
    made = planned(coins(), request=TOOLS, reply=ROME)
    of = Evaluator({"quoting": Quoting()}, keeping).evaluate(made, Heard(Answers(answered(PARIS))))
    (score,) = of.scores
    assert score.explanation == {"said": REDACTED, "rung": "names"}


def test_the_keep_coin_keeps_what_agrees() -> None:
    assert evaluator().evaluate(planned(coins(keep=True)), Heard(Answers(answered(logged_reply())))).bodies is not None


def test_what_a_failed_candidate_loses() -> None:
    made = replace(planned(coins(noise=True), request=TOOLS), failed=Reason.CANDIDATE_ERROR)
    of = evaluator().missing(made, Reason.CANDIDATE_ERROR, {"status": 503})
    assert side(of)["tool_call_mismatch"] is Reason.CANDIDATE_ERROR
    assert side(of, "noise")["tool_call_mismatch"] is Reason.CANDIDATE_ERROR  # N = 0 beside X = 1
    assert side(of)["logprob_kl"] is Reason.NOT_PLANNED
    assert of.stratum.tools


def test_the_stratum_is_the_same_whether_replies_came_or_not_and_whatever_they_counted() -> None:
    made = planned(coins(), request=chat_request("x" * 4 * 1500), reply=chat_reply(prompt_tokens=600))
    of = evaluator().evaluate(made, Heard(Answers(answered(chat_reply(prompt_tokens=5000)))))
    assert (of.prompt_tokens, of.reference_prompt_tokens) == (600, 5000)
    lost = evaluator().evaluate(made, Heard(Answers(Answer(missing=Reason.REFERENCE_ERROR))))
    assert of.stratum == lost.stratum == evaluator().missing(made, Reason.LATE).stratum
    assert of.stratum.length == "1k-4k"


def test_no_pair_repeats_a_score() -> None:
    made = planned(coins(replay=True, noise=True), request=TOOLS, reply=ROME)
    answers = Answers(*(Answer(reply=Reply(200, "", PARIS, 0.0)) for _ in range(3)))
    for of in (evaluator().evaluate(made, Heard(answers)), evaluator().missing(made, Reason.LATE)):
        names = [(s.arm, s.name) for s in of.scores]
        assert len(names) == len(set(names))
        assert all((s.value is None) != (s.reason is None) for s in of.scores)


def test_the_mismatch_rule_looks_at_budgets_only() -> None:
    rule = mismatch_rule({"tool_call_mismatch": 0.03})
    assert rule(ScoreRow("candidate", "tool_call_mismatch", 0.5, None))
    assert not rule(ScoreRow("candidate", "tool_call_mismatch", 0.03, None))
    assert not rule(ScoreRow("candidate", "text_mismatch", 1.0, None))
    assert not rule(ScoreRow("candidate", "tool_call_mismatch", None, Reason.LATE))


def test_rows_that_lost_the_same_share_their_losses() -> None:
    of, made = evaluator(), planned(coins(noise=True))
    one, other = of.missing(made, Reason.QUEUE_FULL), of.missing(made, Reason.QUEUE_FULL)
    assert all(a is b for a, b in zip(one.scores, other.scores, strict=True))
    told = of.missing(made, Reason.CANDIDATE_ERROR, {"status": 503})
    assert {s.explanation.get("status") for s in told.scores if s.name == "text_mismatch"} == {503}
