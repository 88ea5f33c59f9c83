"""Long-context recall: what the reference copied from far back, and whether the candidate says it too.

Copy recall has no ground truth: the reference's answer is the key. Spans of it that stand verbatim in the
prompt, far from its end, are what a model must reach back for; the loss is the share that the candidate
does not say. A second reference run is the control. A planted needle has an answer: its loss is 1 when the
reference found it and the candidate did not, because only the paired delta at equal length means anything.
A needle that the reference did not find measures nothing: it is no evidence, rather than a loss of 0.

Source:  metrology, section 3; RULER's rule (case-insensitive substring) beside a word-boundary rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import orjson

from scorers.records import (
    Choice,
    DecodedRequest,
    Json,
    Pair,
    Reason,
    Score,
    Scored,
    ScoreSpec,
    Unscored,
    length_bucket,
)
from scorers.spans import Span, copied_spans, far_text, one_line, says

COPY, NEEDLE = "copy_recall_loss", "needle_recall_loss"

COPY_SPECS: tuple[ScoreSpec, ...] = (
    ScoreSpec(COPY, "ratio", True, "share of what the reference copied from far back that the candidate does not say"),
)
NEEDLE_SPECS: tuple[ScoreSpec, ...] = (
    ScoreSpec(NEEDLE, "ratio", True, "share of the planted needles that the reference found and the candidate did not"),
)


class CopyRecallScorer:
    """Scores of the `copy_recall` family; without state."""

    family = "copy_recall"
    specs = COPY_SPECS

    def __call__(self, pair: Pair) -> tuple[Scored, ...]:
        far, near = far_text(pair.request)
        if not far:
            return (Unscored(COPY, Reason.NO_SPANS),)
        losses: list[float] = []
        explanation: list[Json] = []
        for left, right in zip_longest(pair.left.choices, pair.right.choices):
            spans = copied_spans(spoken(right), far, near) if right is not None else []
            if spans:
                said = one_line(spoken(left))
                lost = [span for span in spans if not says(said, one_line(span.text))]
                losses.append(len(lost) / len(spans))
                explanation.append(_explained(spans, lost, len(far) + len(near)))
        if not losses:
            return (Unscored(COPY, Reason.NO_SPANS),)
        return (Score(COPY, sum(losses) / len(losses), {"choices": explanation}),)

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        far, _ = far_text(request)
        return (Unscored(COPY, why if far else Reason.NO_SPANS),)


class NeedleScorer:
    """Scores of the `needle` family; without state."""

    family = "needle"
    specs = NEEDLE_SPECS

    def __call__(self, pair: Pair) -> tuple[Scored, ...]:
        probe = pair.probe
        if probe is None:
            return (Unscored(NEEDLE, Reason.NOT_A_PROBE),)
        sides = {
            name: spoken(reply.choices[0]) if reply.choices else ""
            for name, reply in (("left", pair.left), ("right", pair.right))
        }
        found = {name: says(text, probe.answer) for name, text in sides.items()}
        explanation = {
            "found": found,
            "found_by_substring": {name: probe.answer.casefold() in text.casefold() for name, text in sides.items()},
            "depth_ratio": probe.depth_ratio,
            "length": length_bucket(probe.prompt_tokens),
        }
        if not found["right"]:
            return (Unscored(NEEDLE, Reason.NEEDLE_NOT_FOUND, explanation),)
        return (Score(NEEDLE, float(not found["left"]), explanation),)

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        """A request alone is no probe; catalogue.score_missing knows when one was."""
        return (Unscored(NEEDLE, Reason.NOT_A_PROBE),)


def spoken(choice: Choice | None) -> str:
    """All that an answer says: its text and the values of its calls' arguments, one per line."""
    if choice is None:
        return ""
    return "\n".join((choice.text, *(line for call in choice.tool_calls for line in _argument_lines(call.arguments))))


def _argument_lines(arguments: str) -> Iterator[str]:
    try:
        yield from _leaves(orjson.loads(arguments))
    except (orjson.JSONDecodeError, RecursionError):
        yield arguments


def _leaves(value: Json) -> Iterator[str]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(value)


def _explained(spans: list[Span], lost: list[Span], prompt_chars: int) -> dict[str, Json]:
    """Counts by kind, and how deep in the prompt each lost span stood. Units: ratio of the prompt's length."""
    return {
        "spans": {kind: sum(span.kind == kind for span in spans) for kind in sorted({span.kind for span in spans})},
        "lost": len(lost),
        "lost_depth_ratios": [round(span.position / prompt_chars, 4) for span in lost[:16]],
    }
