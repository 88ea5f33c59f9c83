"""Facts from far back: found by the scorer's rules, placed in the prompt, and said or not by the candidate."""

from __future__ import annotations

import orjson

from proxy.monitor.recalled import AROUND_CHARS, MAX_FACTS, recalled
from scorers.decode import decode_request
from scorers.recall import CopyRecallScorer
from scorers.records import Choice, DecodedReply, DecodedRequest, Pair, Score

FILLER = "Nothing of note was seen that day. " * 40


def asked(text: str) -> DecodedRequest:
    messages = [{"role": "user", "content": text}, {"role": "user", "content": "What is the code? " + "Think. " * 80}]
    return decode_request("/v1/chat/completions", orjson.dumps({"model": "m", "messages": messages}))


def said(text: str) -> list[Choice]:
    return [Choice(0, text)]


def test_a_fact_is_placed_and_lost_ones_come_first() -> None:
    request = asked(f"{FILLER}The code is QX-482913. {FILLER}The gate is GT-1177. {FILLER}")
    told = recalled(request, said("It is GT-1177."), said("QX-482913 and GT-1177"))
    assert told is not None
    assert told["prompt_chars"] == len(request.prompt_text)
    assert [(fact["text"], fact["said"]) for fact in told["facts"]] == [("QX-482913", False), ("GT-1177", True)]
    lost = told["facts"][0]
    at = request.prompt_text.index("QX-482913")
    assert lost["place"] == at / len(request.prompt_text)
    assert lost["before"] == request.prompt_text[at - AROUND_CHARS : at]
    assert lost["after"].startswith(". Nothing of note")


def test_it_tells_what_the_scorer_scores() -> None:
    request = asked(f"{FILLER}The code is QX-482913. The gate is GT-1177. {FILLER}")
    left, right = said("GT-1177"), said("QX-482913, GT-1177")
    pair = Pair(request, DecodedReply(tuple(left)), DecodedReply(tuple(right)))
    (score,) = CopyRecallScorer()(pair)
    told = recalled(request, left, right)
    assert told is not None
    assert isinstance(score, Score)
    assert score.value == sum(not fact["said"] for fact in told["facts"]) / len(told["facts"]) == 0.5


def test_nothing_far_back_and_nothing_copied_are_nothing() -> None:
    assert recalled(asked(FILLER), said("x"), said("QX-482913")) is None
    short = decode_request("/v1/completions", orjson.dumps({"model": "m", "prompt": "The code is QX-482913."}))
    assert recalled(short, said("x"), said("QX-482913")) is None
    assert recalled(asked(FILLER), [], []) is None


def test_a_side_without_an_answer_says_nothing() -> None:
    request = asked(f"{FILLER}The code is QX-482913. {FILLER}")
    told = recalled(request, [], said("QX-482913"))
    assert told is not None
    assert [fact["said"] for fact in told["facts"]] == [False]


def test_no_more_is_listed_than_a_person_reads() -> None:
    codes = " ".join(f"QX-{n}" for n in range(1_000, 1_060))
    told = recalled(asked(f"{FILLER}{codes} {FILLER}"), said(""), said(codes))
    assert told is not None
    assert len(told["facts"]) == MAX_FACTS
