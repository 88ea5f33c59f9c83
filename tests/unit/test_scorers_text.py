"""Finish reason, exact text, JSON validity and length on pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scorers.records import Choice, DecodedReply, DecodedRequest, Pair, Reason, Score, Scored, ToolCall, Unscored
from scorers.text import FINISH, JSON_INVALID, LENGTH, SPECS, TEXT, TextScorer, asked_format

PLAIN = DecodedRequest("chat", "m", False, 1, True, 0.0)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def asking(response_format: Any = None, **body: Any) -> DecodedRequest:
    return replace(PLAIN, response_format=response_format, body=body)


BY_SCHEMA = asking({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}})


def reply(*texts: str, **fields: Any) -> DecodedReply:
    return DecodedReply(tuple(Choice(i, text, finish_reason="stop") for i, text in enumerate(texts)), **fields)


def calling() -> DecodedReply:
    return DecodedReply((Choice(0, "", (ToolCall("f", "{}"),), "tool_calls"),))


def scores(left: DecodedReply, right: DecodedReply, request: DecodedRequest = PLAIN) -> dict[str, Scored]:
    scored = TextScorer()(Pair(request, left, right))
    assert [item.name for item in scored] == [spec.name for spec in SPECS]
    return {item.name: item for item in scored}


def outcome(item: Scored) -> Any:
    return item.value if isinstance(item, Score) else item.reason


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (("a",), ("a",), 0.0),
        ((" a\n",), ("a",), 0.0),
        (("a",), ("b",), 1.0),
        (("A",), ("a",), 1.0),
        (("a", "b"), ("a", "c"), 0.5),
        (("a",), ("a", "b"), 0.5),
        (("",), ("",), 0.0),
    ],
)
def test_exact_text(left: tuple[str, ...], right: tuple[str, ...], expected: float) -> None:
    scored = scores(reply(*left), reply(*right))
    assert outcome(scored[TEXT]) == expected
    assert outcome(scored[FINISH]) == (0.5 if len(left) != len(right) else 0.0)


def test_the_wording_of_refusals_is_free() -> None:
    no, sorry = (DecodedReply((Choice(0, "", finish_reason="stop", refusal=text),)) for text in ("No.", "Sorry."))
    assert outcome(scores(no, sorry)[TEXT]) == 0.0
    assert outcome(scores(no, reply(""))[TEXT]) == 1.0


def test_texts_beside_tool_calls_are_left_out() -> None:
    for left in (reply("a"), calling(), reply("")):
        assert outcome(scores(left, calling())[TEXT]) is Reason.CALLED_TOOLS


@pytest.mark.parametrize("right", ["a", ""])
def test_a_call_instead_of_an_answer_is_another_answer(right: str) -> None:
    scored = scores(calling(), reply(right))
    assert outcome(scored[TEXT]) == outcome(scored[FINISH]) == 1.0


def test_an_empty_answer_is_another_answer() -> None:
    assert outcome(scores(reply(""), reply("a"))[TEXT]) == 1.0


def test_where_texts_part() -> None:
    scored = scores(reply("one two three"), reply("one two four"))
    assert scored[TEXT].explanation["common_prefix_chars"] == [8]
    assert "two" not in str(scored[TEXT].explanation)


# ---- JSON


@pytest.mark.parametrize(
    ("request_", "left", "right", "expected"),
    [
        (PLAIN, "{", "{}", Reason.NO_JSON_FORMAT),
        (asking({"type": "text"}), "{", "{}", Reason.NO_JSON_FORMAT),
        (asking({"type": "json_object"}), "{}", "{}", 0.0),
        (asking({"type": "json_object"}), "{", "{}", 1.0),
        (asking({"type": "json_object"}), "[]", "{}", 1.0),
        (asking({"type": "json_object"}), "{", "{", 0.0),  # the reference breaks it as well
        (BY_SCHEMA, '{"a": 1}', '{"a": 2}', 0.0),
        (BY_SCHEMA, '{"a": "1"}', '{"a": 2}', 1.0),
        (BY_SCHEMA, '{"a": "1"}', "no", 0.0),
        (BY_SCHEMA, '```json\n{"a": 1}\n```', '{"a": 2}', 1.0),
        (asking(structured_outputs={"json": SCHEMA}), "{}", '{"a": 2}', 1.0),
        (asking(guided_json='{"type": "array"}'), "{}", "[]", 1.0),
        (asking({"type": "json_schema", "json_schema": {"schema": {"type": "dict"}}}), "{}", "{}", 0.0),
        (asking({"type": "json_schema"}), "nope", "[]", 1.0),
    ],
)
def test_json_validity(request_: DecodedRequest, left: str, right: str, expected: Any) -> None:
    assert outcome(scores(reply(left), reply(right), request_)[JSON_INVALID]) == expected


def test_json_is_not_asked_where_the_reference_calls() -> None:
    for left in (reply('{"a": 1}'), calling(), reply("")):
        assert outcome(scores(left, calling(), BY_SCHEMA)[JSON_INVALID]) is Reason.CALLED_TOOLS


def test_a_call_instead_of_the_json_that_the_reference_gives_breaks_the_format() -> None:
    assert outcome(scores(calling(), reply('{"a": 1}'), BY_SCHEMA)[JSON_INVALID]) == 1.0
    assert outcome(scores(calling(), reply("{}"), BY_SCHEMA)[JSON_INVALID]) == 0.0


LONG = '{"a": "' + "x" * 2_000 + '@b.cd"}'
DEEP = '{"a": ' + "[" * 2_000 + "]" * 2_000 + "}"


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (LONG, '{"a": "c@b.cd"}', 1.0),  # past the pattern's bound: not switched off by it
        (DEEP, '{"a": "c@b.cd"}', 1.0),
        (LONG, LONG, 0.0),
        ('{"a": "c@b.cd"}', LONG, 0.0),
        ('{"a": "c"}', LONG, 1.0),  # the reference's is not known to break the format
        ("no", LONG, 1.0),
    ],
)
def test_json_that_runs_into_a_bound(left: str, right: str, expected: float) -> None:
    schema = {"properties": {"a": {"pattern": r"^[\w.+-]+@[\w-]+\.[\w.]+$"}}}
    asked = asking({"type": "json_schema", "json_schema": {"schema": schema}})
    assert outcome(scores(reply(left), reply(right), asked)[JSON_INVALID]) == expected


def test_asked_format() -> None:
    assert asked_format(PLAIN) is None
    assert asked_format(BY_SCHEMA) == SCHEMA
    assert asked_format(asking("json")) is None
    assert asked_format(asking(guided_json="{broken")) == {}


# ---- length


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ({"completion_tokens": 30}, {"completion_tokens": 20}, 1.5),
        ({"completion_tokens": 0}, {"completion_tokens": 20}, Reason.LEFT_EMPTY),
        ({"completion_tokens": 5}, {"completion_tokens": 0}, Reason.EMPTY_REPLY),
        ({"completion_tokens": 0}, {"completion_tokens": 0}, Reason.EMPTY_REPLY),
        ({}, {"completion_tokens": 20}, Reason.NO_USAGE),
        ({"completion_tokens": 20}, {}, Reason.NOT_PLANNED),
        ({}, {}, Reason.NOT_PLANNED),
    ],
)
def test_length_ratio(left: dict[str, int], right: dict[str, int], expected: Any) -> None:
    assert outcome(scores(reply("a", **left), reply("a", **right))[LENGTH]) == expected


def test_a_served_stream_tells_its_length_only_when_asked() -> None:
    told, silent = reply("a", completion_tokens=20), reply("a")
    stream = replace(PLAIN, stream=True)
    asked = replace(stream, body={"stream_options": {"include_usage": True}})
    assert outcome(scores(silent, told, stream)[LENGTH]) is Reason.NOT_PLANNED
    assert outcome(scores(silent, told, asked)[LENGTH]) is Reason.NO_USAGE
    assert outcome(scores(told, told, stream)[LENGTH]) == 1.0
    replayed = TextScorer()(Pair(stream, silent, told, left_served=False))
    assert outcome(replayed[3]) is Reason.NO_USAGE


def test_length_counts_token_ids_where_usage_is_silent() -> None:
    counted = DecodedReply((Choice(0, "a", token_ids=(1, 2, 3)),))
    assert outcome(scores(counted, reply("a", completion_tokens=2))[LENGTH]) == 1.5


def test_missing() -> None:
    plain = {item.name: item.reason for item in TextScorer().missing(PLAIN, Reason.LATE)}
    assert plain == {FINISH: Reason.LATE, TEXT: Reason.LATE, JSON_INVALID: Reason.NO_JSON_FORMAT, LENGTH: Reason.LATE}
    asked = {item.name: item for item in TextScorer().missing(BY_SCHEMA, Reason.LATE)}
    assert asked[JSON_INVALID] == Unscored(JSON_INVALID, Reason.LATE)
