"""The cheap ones: finish reason, exact text, JSON validity, length.

Choices are paired by index; the request's value is the mean over choices, and a choice that only one
side has is a mismatch. Whether a score applies is the request's and the reference's to say: a left side
that calls tools where the reference answers is as far off as can be.
"""

from __future__ import annotations

from itertools import zip_longest

import orjson

from scorers.records import Choice, DecodedReply, DecodedRequest, Json, Pair, Reason, Score, Scored, ScoreSpec, Unscored
from scorers.schemas import SchemaCache, Validity

FINISH, TEXT, JSON_INVALID, LENGTH = "finish_reason_mismatch", "text_mismatch", "json_invalid", "length_ratio"

SPECS: tuple[ScoreSpec, ...] = (
    ScoreSpec(FINISH, "ratio", True, "share of choices whose finish reason differs from the reference's"),
    ScoreSpec(
        TEXT,
        "ratio",
        True,
        "share of choices whose stripped text differs; where the reference calls tools it does not apply",
    ),
    ScoreSpec(
        JSON_INVALID, "ratio", True, "share of choices that break the asked JSON format where the reference keeps it"
    ),
    ScoreSpec(LENGTH, "ratio", False, "completion tokens of the candidate per completion token of the reference"),
)


class TextScorer:
    """Scores of the `text` family. Owns a bounded cache of compiled schemas; one thread at a time."""

    family = "text"
    specs = SPECS

    def __init__(self) -> None:
        self._schemas = SchemaCache()

    def __call__(self, pair: Pair) -> tuple[Scored, ...]:
        return (_finish(pair), _text(pair), self._json(pair), _length(pair))

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        json_why = why if asked_format(request) is not None else Reason.NO_JSON_FORMAT
        return (Unscored(FINISH, why), Unscored(TEXT, why), Unscored(JSON_INVALID, json_why), Unscored(LENGTH, why))

    def _json(self, pair: Pair) -> Scored:
        schema = asked_format(pair.request)
        if schema is None:
            return Unscored(JSON_INVALID, Reason.NO_JSON_FORMAT)
        if _calls_tools(pair.right):
            return Unscored(JSON_INVALID, Reason.CALLED_TOOLS)
        losses: list[int] = []
        notes: set[str] = set()
        for left, right in _paired(pair):
            ours, theirs = (self._validity(side, schema, notes) for side in (left, right))
            # A check that ran into a bound is kept only where the reference's did so too.
            kept = ours in (Validity.VALID, Validity.UNDECIDED) or ours is theirs is Validity.EXHAUSTED
            losses.append(int(theirs is not Validity.INVALID and not kept))
        explanation = {"choices": len(losses), "broken": sum(losses), "notes": sorted(notes)}
        return Score(JSON_INVALID, sum(losses) / len(losses), explanation)

    def _validity(self, choice: Choice | None, schema: Json, notes: set[str]) -> Validity:
        """Whether the choice keeps the format; a call instead of an answer, or what is no JSON, does not."""
        if choice is None or choice.tool_calls:
            return Validity.INVALID
        try:
            value = orjson.loads(choice.text)
        except orjson.JSONDecodeError:
            return Validity.INVALID
        verdict = self._schemas.check(schema, value)
        notes.update(verdict.notes)
        return verdict.validity


def asked_format(request: DecodedRequest) -> Json | None:
    """The JSON Schema that the answer was asked to keep, {} where any JSON will do, None where none was asked.

    Source:  OpenAI `response_format`; vLLM's `structured_outputs.json` and its older `guided_json`.
    """
    asked = request.response_format
    if isinstance(asked, dict):
        if asked.get("type") == "json_object":
            return {"type": "object"}
        if asked.get("type") == "json_schema":
            holder = asked.get("json_schema")
            schema = holder.get("schema") if isinstance(holder, dict) else None
            return {} if schema is None else schema
    structured = request.body.get("structured_outputs")
    schema = structured.get("json") if isinstance(structured, dict) else request.body.get("guided_json")
    if isinstance(schema, str):
        try:
            return orjson.loads(schema)
        except orjson.JSONDecodeError:
            return {}
    return schema


def _paired(pair: Pair) -> list[tuple[Choice | None, Choice | None]]:
    return list(zip_longest(pair.left.choices, pair.right.choices))


def _calls_tools(reply: DecodedReply) -> bool:
    return any(choice.tool_calls for choice in reply.choices)


def _finish(pair: Pair) -> Scored:
    sides = [tuple(choice.finish_reason if choice else None for choice in both) for both in _paired(pair)]
    differing = sum(left != right for left, right in sides)
    explanation = {"left": [left for left, _ in sides], "right": [right for _, right in sides]}
    return Score(FINISH, differing / len(sides), explanation)


def _text(pair: Pair) -> Scored:
    if _calls_tools(pair.right):
        return Unscored(TEXT, Reason.CALLED_TOOLS)
    sides = [tuple(_said(choice) for choice in both) for both in _paired(pair)]
    differing = [index for index, (left, right) in enumerate(sides) if left != right]
    refused = [sum(bool(choice and choice.refusal) for choice in reply.choices) for reply in (pair.left, pair.right)]
    explanation = {
        "choices": len(sides),
        "differing": differing,
        "refusals": {"left": refused[0], "right": refused[1]},
        "common_prefix_chars": [_common_prefix(*(side[-1] if side else "" for side in sides[i])) for i in differing],
    }
    return Score(TEXT, len(differing) / len(sides), explanation)


def _said(choice: Choice | None) -> tuple[str, str] | None:
    """What counts as the answer: its kind, and its stripped text where it is one (refusals' wording is free)."""
    if choice is None:
        return None
    if choice.tool_calls:
        return ("call", "")
    return ("refusal", "") if choice.refusal else ("text", choice.text.strip())


def _common_prefix(left: str, right: str) -> int:
    """Length of the common prefix, by bisection on C comparisons. Units: characters."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[:middle] == right[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _length(pair: Pair) -> Scored:
    left, right = (_completion_tokens(reply) for reply in (pair.left, pair.right))
    if right is None or (left is None and pair.left_served and not _asks_usage(pair.request)):
        return Unscored(LENGTH, Reason.NOT_PLANNED)
    if left is None:
        return Unscored(LENGTH, Reason.NO_USAGE)
    explanation = {"left_tokens": left, "right_tokens": right}
    if not right:
        return Unscored(LENGTH, Reason.EMPTY_REPLY, explanation)
    if not left:  # a ratio of 0 would read as far below any limit
        return Unscored(LENGTH, Reason.LEFT_EMPTY, explanation)
    return Score(LENGTH, left / right, explanation)


def _asks_usage(request: DecodedRequest) -> bool:
    """Whether the reply to the client says how long it is: whole replies do, streams only when asked (the request
    is never edited to make it)."""
    options = request.body.get("stream_options")
    return not request.stream or (isinstance(options, dict) and bool(options.get("include_usage")))


def _completion_tokens(reply: DecodedReply) -> int | None:
    if reply.completion_tokens is not None:
        return reply.completion_tokens
    counts = [len(c.token_ids) if c.token_ids is not None else None for c in reply.choices]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
