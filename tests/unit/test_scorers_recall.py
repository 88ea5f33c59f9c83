"""Copy recall and planted needles on pairs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scorers.recall import COPY, NEEDLE, CopyRecallScorer, NeedleScorer, spoken
from scorers.records import Choice, DecodedReply, DecodedRequest, Pair, Probe, Reason, Score, ToolCall, Unscored

FILLER = "Nothing of note happened on that day, and the report moves on. " * 40
QUESTION = "Which invoice, which customer and which room?"
PROMPT = f"{FILLER} Invoice INV-4711 of customer 88231 was paid in room B17. {FILLER}"
REQUEST = DecodedRequest(
    "chat", "m", False, 1, True, 0.0,
    prompt_text=f"{PROMPT}\n{QUESTION}",
    body={"messages": [{"role": "system", "content": PROMPT}, {"role": "user", "content": QUESTION}]},
)  # fmt: skip
TRUTH = "It was INV-4711 of customer 88231 in room B17."


def reply(*texts: str, calls: tuple[ToolCall, ...] = ()) -> DecodedReply:
    return DecodedReply(tuple(Choice(i, text, calls) for i, text in enumerate(texts)))


def loss(left: DecodedReply, right: DecodedReply, request: DecodedRequest = REQUEST) -> Any:
    (scored,) = CopyRecallScorer()(Pair(request, left, right))
    assert scored.name == COPY
    return scored.value if isinstance(scored, Score) else scored.reason


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (TRUTH, 0.0),
        ("88231, B17 and INV-4711!", 0.0),
        ("It was INV-4711 of customer 88231.", 1 / 3),
        ("It was INV-47111 of customer 88,231 in B17", 2 / 3),
        ("I do not know.", 1.0),
        ("", 1.0),
    ],
)
def test_the_share_that_the_candidate_does_not_say(said: str, expected: float) -> None:
    assert loss(reply(said), reply(TRUTH)) == pytest.approx(expected)


def test_arguments_of_calls_are_said_too() -> None:
    call = ToolCall("pay", json.dumps({"ids": ["INV-4711"], "customer": 88231, "room": {"name": "B17"}}))
    assert loss(reply("", calls=(call,)), reply(TRUTH)) == 0.0
    assert loss(reply(TRUTH), reply("", calls=(call,))) == 0.0
    assert loss(reply("no"), reply("", calls=(call,))) == 1.0


def test_a_broken_line_is_still_said() -> None:
    run = "of note happened on that day, and the report moves on. Invoice INV-4711 of customer"
    assert loss(reply(run.replace(" ", "\n")), reply(run)) == 0.0


@pytest.mark.parametrize("right", ["I cannot say.", "Room 404, surely.", ""])
def test_without_copied_spans_there_is_nothing_to_recall(right: str) -> None:
    assert loss(reply("x"), reply(right)) is Reason.NO_SPANS


def test_a_short_prompt_has_no_far_part() -> None:
    short = DecodedRequest("completion", "m", False, 1, True, 0.0, prompt_text="code 4711?")
    assert loss(reply("x"), reply("4711"), short) is Reason.NO_SPANS
    assert CopyRecallScorer().missing(short, Reason.LATE) == (Unscored(COPY, Reason.NO_SPANS),)
    assert CopyRecallScorer().missing(REQUEST, Reason.LATE) == (Unscored(COPY, Reason.LATE),)


def test_choices_are_averaged_and_a_missing_one_says_nothing() -> None:
    assert loss(reply(TRUTH), reply(TRUTH, TRUTH)) == 0.5
    assert loss(reply(TRUTH, "no"), reply(TRUTH, "nothing copied")) == 0.0


def test_the_explanation_counts_and_places_without_text() -> None:
    (scored,) = CopyRecallScorer()(Pair(REQUEST, reply("INV-4711"), reply(TRUTH)))
    text = json.dumps(scored.explanation)
    assert "88231" not in text
    (choice,) = scored.explanation["choices"]
    assert (choice["spans"], choice["lost"]) == ({"id": 3}, 2)
    assert all(0.4 < depth < 0.6 for depth in choice["lost_depth_ratios"])


# ---- planted needles


PROBE = Probe(needle="The red door code is 482913.", answer="482913", depth_ratio=0.5, prompt_tokens=5000)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("482913", "It is 482913.", 0.0),
        ("4829134", "482913", 1.0),  # RULER's substring rule would call it found
        ("unknown", "482913", 1.0),
    ],
)
def test_needle_loss_is_paired(left: str, right: str, expected: float) -> None:
    (scored,) = NeedleScorer()(Pair(REQUEST, reply(left), reply(right), probe=PROBE))
    assert isinstance(scored, Score)
    assert scored.value == expected
    assert scored.explanation["found_by_substring"] == {"left": "482913" in left, "right": "482913" in right}
    assert scored.explanation["length"] == "4k-16k"


@pytest.mark.parametrize("left", ["482913", "unknown", ""])
def test_a_needle_that_the_reference_did_not_find_is_no_evidence(left: str) -> None:
    (scored,) = NeedleScorer()(Pair(REQUEST, reply(left), reply("unknown"), probe=PROBE))
    assert isinstance(scored, Unscored)
    assert scored.reason is Reason.NEEDLE_NOT_FOUND
    assert not scored.reason.lost
    assert scored.explanation["found"] == {"left": left == "482913", "right": False}


def test_a_clients_request_is_no_probe() -> None:
    expected = (Unscored(NEEDLE, Reason.NOT_A_PROBE),)
    assert NeedleScorer()(Pair(REQUEST, reply("a"), reply("a"))) == expected
    assert NeedleScorer().missing(REQUEST, Reason.LATE) == expected


def test_all_that_an_answer_says() -> None:
    choice = Choice(0, "text", (ToolCall("f", '{"a": [1, 2.5, true, null, "x"]}'), ToolCall("g", "{broken 7")))
    assert spoken(choice).split("\n") == ["text", "1", "2.5", "x", "{broken 7"]
    assert spoken(None) == ""
    deep = ToolCall("f", "[" * 1000 + "]" * 1000)
    assert spoken(Choice(0, "t", (deep,))).startswith("t")
