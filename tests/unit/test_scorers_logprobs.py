"""The logprob family on pairs: alignment, what is lost and what was never planned, real replies."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.decode import decode_reply, decode_teacher_forced
from scorers.logprobs import DOUBT, EARLY, KL, KL_MAX, SPECS, TAIL, TEACHER, TOP1, TV, LogprobScorer
from scorers.records import (
    Choice,
    DecodedReply,
    DecodedRequest,
    Pair,
    Reason,
    Score,
    Scored,
    TeacherForced,
    TokenLogprobs,
    Unscored,
)

DATA = Path(__file__).parent / "data"
CHAT = DecodedRequest("chat", "m", False, 1, True, 0.0)
BY_TEXT = replace(CHAT, body={"logprobs": True, "top_logprobs": 20})
ASKED = replace(CHAT, body={**BY_TEXT.body, "return_tokens_as_token_ids": True})


def logprobs(*steps: dict[int, float], prefix: str = "token_id:") -> TokenLogprobs:
    """Lists of id -> probability; the first entry is the chosen token."""
    tops = tuple({f"{prefix}{i}": math.log(p) for i, p in step.items()} for step in steps)
    tokens = tuple(next(iter(top)) for top in tops)
    return TokenLogprobs(tokens, tuple(top[t] for t, top in zip(tokens, tops, strict=True)), tops)


def reply(*choices: TokenLogprobs | None, **fields: Any) -> DecodedReply:
    return DecodedReply(tuple(Choice(i, "", logprobs=one) for i, one in enumerate(choices)), **fields)


def pair(left: DecodedReply, right: DecodedReply, **fields: Any) -> Pair:
    return Pair(**{"request": CHAT, "left": left, "right": right, "left_served": False, **fields})


def scores(of: Pair) -> dict[str, Scored]:
    scored = LogprobScorer()(of)
    assert [item.name for item in scored] == [spec.name for spec in SPECS]
    return {item.name: item for item in scored}


def value(scored: dict[str, Scored], name: str) -> float:
    item = scored[name]
    assert isinstance(item, Score), item
    return item.value


def reasons(of: Pair) -> dict[str, Reason | None]:
    return {name: item.reason if isinstance(item, Unscored) else None for name, item in scores(of).items()}


A, B, C = {1: 0.8, 2: 0.1}, {2: 0.7, 1: 0.2}, {3: 0.6, 1: 0.3}


# ---- alignment


def test_steps_after_the_first_differing_token_are_not_compared() -> None:
    """They are conditioned on other prefixes; the differing step itself still counts."""
    scored = scores(pair(reply(logprobs(A, B, C)), reply(logprobs(A, A, A))))
    assert scored[KL].explanation["steps"] == 2
    assert value(scored, TOP1) == 0.5
    expected = 0.8 * math.log(0.8 / 0.2) + 0.1 * math.log(0.1 / 0.7)
    assert value(scored, KL_MAX) == pytest.approx(expected)
    assert value(scored, KL) == pytest.approx(expected / 2)
    assert value(scored, EARLY) == pytest.approx(2 / 3)
    assert scored[EARLY].explanation["first_divergence"] == [1]


def test_the_direction_is_reference_to_candidate() -> None:
    p, q = {1: 0.9, 2: 0.1}, {1: 0.5, 2: 0.5}
    scored = scores(pair(reply(logprobs(q)), reply(logprobs(p))))
    assert value(scored, KL) == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))


def test_one_side_ends_early() -> None:
    scored = scores(pair(reply(logprobs(A, B)), reply(logprobs(A, B, C, A))))
    assert scored[KL].explanation["steps"] == 2
    assert (value(scored, KL), value(scored, EARLY)) == (0.0, 0.5)


def test_choices_are_pooled_by_step() -> None:
    scored = scores(pair(reply(logprobs(A), logprobs(B)), reply(logprobs(A), logprobs(C))))
    assert scored[KL].explanation["steps"] == 2
    assert value(scored, EARLY) == 0.5


def test_the_doubt_is_the_references_own() -> None:
    """1 - sum p^2 over the reference's list, whatever the candidate lists; the mean over the aligned prefix."""
    right = reply(logprobs({1: 0.5, 2: 0.3}, {2: 0.9}))
    for left in ({1: 0.5, 2: 0.3}, {1: 0.1, 7: 0.8}):
        scored = scores(pair(reply(logprobs(left, {2: 0.2})), right))
        assert value(scored, DOUBT) == pytest.approx((1 - 0.25 - 0.09 + 1 - 0.81) / 2)


def test_positions_are_kept_apart_by_bucket() -> None:
    steps = [A] * 20
    left = reply(logprobs(*[{1: 0.8, 2: 0.1}] * 20), prompt_tokens=500)
    scored = scores(pair(left, reply(logprobs(*steps), prompt_tokens=500)))
    assert {name: part["steps"] for name, part in scored[KL].explanation["by_position"].items()} == {
        "0-512": 12,
        "512-1k": 8,
    }


def test_a_missing_choice_diverges_from_the_start() -> None:
    scored = scores(pair(reply(logprobs(A)), reply(logprobs(A), logprobs(A))))
    assert value(scored, EARLY) == 0.5


# ---- lost, or not planned


def test_served_without_logprobs_was_not_planned() -> None:
    got = reasons(pair(reply(None), reply(logprobs(A)), left_served=True))
    assert set(got.values()) == {Reason.NOT_PLANNED}


def test_served_without_the_logprobs_that_were_asked_for_is_lost() -> None:
    got = reasons(pair(reply(None), reply(logprobs(A)), left_served=True, request=ASKED))
    assert got.pop(TEACHER) is Reason.NOT_PLANNED
    assert set(got.values()) == {Reason.NO_LOGPROBS}


def test_a_replay_without_logprobs_is_lost() -> None:
    got = reasons(pair(reply(None), reply(logprobs(A))))
    assert (got[KL], got[EARLY], got[TEACHER]) == (Reason.NO_LOGPROBS, Reason.NO_LOGPROBS, Reason.NOT_PLANNED)


def test_a_reference_without_logprobs_is_lost() -> None:
    assert reasons(pair(reply(logprobs(A)), reply(None)))[KL] is Reason.NO_LOGPROBS


def test_another_prompt_is_lost() -> None:
    one, two = reply(logprobs(A), prompt_token_ids=(1, 2)), reply(logprobs(A), prompt_token_ids=(1, 3))
    assert reasons(pair(one, two))[KL] is reasons(pair(one, two))[EARLY] is Reason.TOKENS_DIFFER
    counted = reply(logprobs(A), prompt_tokens=3)
    assert reasons(pair(counted, reply(logprobs(A), prompt_tokens=4)))[TV] is Reason.TOKENS_DIFFER
    assert reasons(pair(counted, reply(logprobs(A))))[TV] is None


def test_texts_are_not_compared_with_ids() -> None:
    texts = reply(logprobs(A, prefix="word "))
    served = pair(texts, reply(logprobs(A)), left_served=True, request=BY_TEXT)
    assert reasons(served)[KL] is reasons(served)[EARLY] is Reason.NOT_PLANNED
    asked = replace(served, request=ASKED)  # ids were asked for: texts are not what should be there
    assert reasons(asked)[KL] is reasons(asked)[EARLY] is Reason.NO_LOGPROBS
    assert reasons(pair(texts, reply(logprobs(A))))[KL] is Reason.NO_LOGPROBS


def test_texts_are_compared_with_texts() -> None:
    one, two = logprobs(A, B, prefix="word "), logprobs(A, C, prefix="word ")
    by_text, by_id = scores(pair(reply(one), reply(two))), scores(pair(reply(logprobs(A, B)), reply(logprobs(A, C))))
    for name in (KL, TV, TOP1, EARLY, TAIL):
        assert value(by_text, name) == pytest.approx(value(by_id, name), abs=1e-12)


def test_served_lists_are_compared_when_as_long_ones_were_asked_for() -> None:
    full = reply(logprobs(dict.fromkeys(range(6), 0.1)))
    for asked, expected in ((5, Reason.NOT_PLANNED), (6, None), (20, None), (-1, None), (None, Reason.NOT_PLANNED)):
        request = replace(ASKED, body={**ASKED.body, "top_logprobs": asked})
        assert reasons(pair(full, full, left_served=True, request=request))[KL] is expected
        assert reasons(pair(full, full, left_served=True, request=request))[EARLY] is None
    completion = DecodedRequest("completion", "m", False, 1, True, 0.0, body={**ASKED.body, "logprobs": 6})
    assert reasons(pair(full, full, left_served=True, request=completion))[KL] is None


@pytest.mark.parametrize("served", [True, False])
def test_shorter_lists_than_the_references_are_lost_not_unplanned(served: bool) -> None:
    """More mass in the bucket on one side alone would make the divergence look small."""
    full, bare = {1: 0.5, 2: 0.2, 3: 0.1}, TokenLogprobs(("token_id:1",), (-0.1,), ({},))
    for left in (logprobs(A), bare):
        got = reasons(pair(reply(left), reply(logprobs(full)), left_served=served, request=ASKED))
        assert {got[name] for name in (KL, KL_MAX, TV, TOP1, TAIL)} == {Reason.NO_LOGPROBS}
        assert got[EARLY] is None
    longer = pair(reply(logprobs(full)), reply(logprobs(A)), left_served=served, request=ASKED)
    assert reasons(longer)[KL] is None


@pytest.mark.parametrize("prefix", ["token_id:", "word "])
def test_a_left_side_that_says_nothing_is_lost_or_at_the_worst(prefix: str) -> None:
    scored = scores(pair(reply(logprobs()), reply(logprobs(A, B, prefix=prefix))))
    assert [value(scored, name) for name in (TV, TOP1, TAIL, EARLY)] == [1.0] * 4
    for name in (KL, KL_MAX):
        item = scored[name]
        assert isinstance(item, Unscored)
        assert item.reason is Reason.LEFT_EMPTY
        assert item.reason.lost


def test_a_choice_without_a_token_is_one_step_at_the_worst() -> None:
    for left in (reply(logprobs(A), logprobs()), reply(logprobs(A))):
        scored = scores(pair(left, reply(logprobs(A), logprobs(B))))
        assert (value(scored, TV), value(scored, TOP1), value(scored, EARLY)) == (0.5, 0.5, 0.5)
        assert scored[KL] == Unscored(KL, Reason.LEFT_EMPTY, {"silent_choices": 1})


def test_an_empty_reference_has_nothing_to_compare() -> None:
    """Whatever the left side says."""
    for left in (logprobs(), logprobs(A), logprobs(A, prefix="word "), None):
        got = reasons(pair(reply(left), reply(logprobs())))
        assert {got[name] for name in (KL, KL_MAX, TV, TOP1, TAIL)} == {Reason.EMPTY_REPLY}
    assert value(scores(pair(reply(logprobs(A)), reply(logprobs()))), EARLY) == 1.0
    assert value(scores(pair(reply(logprobs()), reply(logprobs()))), EARLY) == 0.0


def test_served_ids_that_were_asked_for_and_are_not_there_are_lost() -> None:
    request = replace(CHAT, body={"return_token_ids": True})
    got = reasons(pair(reply(None), reply(logprobs(A)), left_served=True, request=request))
    assert (got[EARLY], got[KL]) == (Reason.NO_LOGPROBS, Reason.NOT_PLANNED)


def test_forced_without_own_tokens() -> None:
    assert reasons(pair(reply(logprobs()), reply(logprobs(A)), teacher_forced=forced()))[TEACHER] is Reason.LEFT_EMPTY
    assert reasons(pair(reply(logprobs()), reply(logprobs()), teacher_forced=forced()))[TEACHER] is Reason.EMPTY_REPLY


def test_missing_says_why() -> None:
    assert {item.reason for item in LogprobScorer().missing(CHAT, Reason.LATE)} == {Reason.LATE}


# ---- teacher-forced


def forced(*steps: dict[int, float]) -> TeacherForced:
    return TeacherForced(logprobs(*steps).top)


def test_teacher_forced_is_candidate_to_reference_on_all_own_tokens() -> None:
    q, p = {1: 0.9, 2: 0.1}, {1: 0.5, 2: 0.5}
    scored = scores(pair(reply(logprobs(q, q)), reply(logprobs(B)), teacher_forced=forced(p, p)))
    assert value(scored, TEACHER) == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert scored[TEACHER].explanation["steps"] == 2


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        (reply(None), Reason.NO_LOGPROBS),
        (reply(logprobs(A)), Reason.TOKENS_DIFFER),
        (reply(logprobs(A, A, prefix="w")), Reason.TOKENS_DIFFER),
    ],
)
def test_teacher_forced_without_its_tokens(left: DecodedReply, reason: Reason) -> None:
    assert reasons(pair(left, reply(logprobs(A)), teacher_forced=forced(A, A)))[TEACHER] is reason


def test_real_replies_teacher_forced_by_themselves_are_at_no_distance() -> None:
    real = decode_reply("chat", "application/json", (DATA / "vllm_chat_ids.json").read_bytes())
    prompt = len(real.prompt_token_ids or ())
    top = decode_teacher_forced((DATA / "vllm_teacher_forced.json").read_bytes(), prompt, 5)
    scored = scores(pair(real, real, teacher_forced=top))
    assert value(scored, KL) == value(scored, TV) == value(scored, TOP1) == value(scored, EARLY) == 0.0
    assert value(scored, TEACHER) == pytest.approx(0.0, abs=1e-9)
    assert 0.9 < value(scored, TAIL) < 1.0  # random weights: three of 2,048 tokens know little


def test_a_stream_and_a_whole_reply_of_the_same_tokens_are_at_no_distance() -> None:
    real = decode_reply("chat", "application/json", (DATA / "vllm_chat_ids.json").read_bytes())
    stream = decode_reply("chat", "text/event-stream", (DATA / "vllm_chat_stream.sse").read_bytes())
    scored = scores(pair(stream, real))
    assert value(scored, KL) == pytest.approx(0.0, abs=1e-9)
    assert value(scored, EARLY) == 0.0


# ---- properties


def lists_of(k: int) -> st.SearchStrategy[list[dict[int, float]]]:
    step = st.dictionaries(st.integers(0, 6), st.floats(0.001, 0.14), min_size=k, max_size=k)
    return st.lists(step, min_size=1, max_size=6)


steps = st.integers(1, 7).flatmap(lists_of)
both_sides = st.integers(1, 7).flatmap(lambda k: st.tuples(lists_of(k), lists_of(k)))


@settings(max_examples=200, deadline=None)
@given(both_sides)
def test_bounds_and_symmetry(sides: tuple[list[dict[int, float]], list[dict[int, float]]]) -> None:
    left, right = sides
    one, two = reply(logprobs(*left)), reply(logprobs(*right))
    there, back = scores(pair(one, two)), scores(pair(two, one))
    for name in (TV, TOP1, EARLY, TAIL):
        assert 0.0 <= value(there, name) <= 1.0
    assert 0.0 <= value(there, KL) <= value(there, KL_MAX) + 1e-12
    for name in (TV, TOP1, EARLY):
        assert value(there, name) == pytest.approx(value(back, name), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_a_reply_is_at_no_distance_from_itself(both: list[dict[int, float]]) -> None:
    scored = scores(pair(reply(logprobs(*both)), reply(logprobs(*both))))
    assert [value(scored, name) for name in (KL, KL_MAX, TV, TOP1, EARLY)] == [0.0] * 5
