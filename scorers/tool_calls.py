"""Tool calls: the reference's calls are the answer key, and a ladder names what went wrong first.

    trigger -> parse -> schema -> names -> args_strict -> (args_loose, beside it)

A call is compared by its canonical form (scorers/canonical.py). Canonical equality is an equivalence
relation, so the multiset intersection of the two sides *is* the maximum bipartite matching; order of
parallel calls does not matter. Choices are paired by index; a request's value is the mean over choices,
and a choice that only one side has is a mismatch.

Source:  metrology, section 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from scorers.canonical import Call, difference, read_call, word_loss
from scorers.records import Choice, DecodedRequest, Json, Pair, Reason, Score, Scored, ScoreSpec, Unscored
from scorers.schemas import SchemaCache, Validity

MISMATCH, SCHEMA_FAILURE, TRIGGER = "tool_call_mismatch", "tool_schema_failure", "tool_trigger_mismatch"
F1_LOSS, LOOSE, FREE_TEXT = "tool_call_f1_loss", "tool_argument_loose_mismatch", "tool_free_text_mismatch"

SPECS: tuple[ScoreSpec, ...] = (
    ScoreSpec(MISMATCH, "ratio", True, "share of choices whose calls are not exactly the reference's, in any order"),
    ScoreSpec(SCHEMA_FAILURE, "ratio", True, "share of calling choices with a call that breaks its tool's schema"),
    ScoreSpec(TRIGGER, "ratio", True, "share of choices in which only one of the two sides calls a tool"),
    ScoreSpec(F1_LOSS, "ratio", True, "1 - F1 of the candidate's calls against the reference's"),
    ScoreSpec(
        LOOSE, "ratio", True, "tool_call_mismatch with BFCL's loose rule on strings (not on numbers, dates, ids)"
    ),
    ScoreSpec(FREE_TEXT, "ratio", True, "1 - word F1 of long free-text arguments, which the other scores leave out"),
)

_MAX_NAMES = 16  # choice: calls named per side in an explanation
_MAX_NAME_CHARS = 64  # OpenAI's own bound on a function's name


@dataclass(frozen=True, slots=True)
class _Compared:
    """One choice against the reference's."""

    exact: bool
    trigger_differs: bool
    f1: float
    loose: bool
    rung: str | None
    free_losses: tuple[float, ...]
    schema_failed: bool | None  # None: the left side calls nothing, or no schema could decide
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    detail: Mapping[str, Json]


class ToolCallScorer:
    """Scores of the `tool_calls` family. Owns a bounded cache of compiled schemas; one thread at a time."""

    family = "tool_calls"
    specs = SPECS

    def __init__(self) -> None:
        self._schemas = SchemaCache()

    def __call__(self, pair: Pair) -> tuple[Scored, ...]:
        if not offers_tools(pair.request):
            return tuple(Unscored(spec.name, Reason.NO_TOOLS) for spec in SPECS)
        tools = pair.request.tools
        sides = zip_longest(pair.left.choices, pair.right.choices)
        compared = [self._compare(left, right, tools) for left, right in sides]
        n = len(compared)
        forced = pair.request.tool_choice not in (None, "auto")
        details = {"forced": forced, "choices": [item.detail for item in compared]}
        return (
            Score(MISMATCH, sum(not item.exact for item in compared) / n, details),
            _schema_score(compared, any(choice.tool_calls for choice in pair.left.choices)),
            Score(TRIGGER, sum(item.trigger_differs for item in compared) / n),
            Score(F1_LOSS, max(0.0, 1.0 - sum(item.f1 for item in compared) / n)),
            Score(LOOSE, sum(not item.loose for item in compared) / n),
            _free_text_score(compared),
        )

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        reason = why if offers_tools(request) else Reason.NO_TOOLS
        return tuple(Unscored(spec.name, reason) for spec in SPECS)

    def _compare(self, left: Choice | None, right: Choice | None, tools: Mapping[str, Json]) -> _Compared:
        ours = [read_call(call, tools.get(call.name)) for call in (left.tool_calls if left else ())]
        theirs = [read_call(call, tools.get(call.name)) for call in (right.tool_calls if right else ())]
        both = left is not None and right is not None
        failed, failures, notes = self._schema(ours, tools)
        mine, key = Counter(call.strict for call in ours), Counter(call.strict for call in theirs)
        matched = sum((mine & key).values())
        exact = both and mine == key
        rung = None if exact else _rung(ours, theirs, both, bool(failed))
        return _Compared(
            exact=exact,
            trigger_differs=not both or bool(ours) != bool(theirs),
            f1=_f1(matched, len(ours), len(theirs)) if both else 0.0,
            loose=both and Counter(call.loose for call in ours) == Counter(call.loose for call in theirs),
            rung=rung,
            free_losses=tuple(_free_losses(ours, theirs)),
            schema_failed=failed,
            failures=failures,
            notes=notes,
            detail=_detail(ours, theirs, matched, rung, tools),
        )

    def _schema(
        self, calls: list[Call], tools: Mapping[str, Json]
    ) -> tuple[bool | None, tuple[str, ...], tuple[str, ...]]:
        """Whether any call breaks its schema (None: nothing to decide on), where, and what was not checked."""
        failures: list[str] = []
        notes: set[str] = set()
        decided = 0
        for call in calls:
            if not call.parsed:
                failures.append("arguments are not JSON")
            elif call.name not in tools:
                failures.append("no such tool was offered")
            else:
                verdict = self._schemas.check(tools[call.name], call.arguments)
                failures.extend(verdict.errors)
                notes.update(verdict.notes)
                decided += verdict.validity is not Validity.UNDECIDED
        known = bool(failures) or decided > 0
        return (bool(failures) if known else None), tuple(failures), tuple(sorted(notes))


def offers_tools(request: DecodedRequest) -> bool:
    """True when the model may call: tools are offered and the request does not forbid them."""
    return bool(request.tools) and request.tool_choice != "none"


def _rung(ours: list[Call], theirs: list[Call], both: bool, schema_failed: bool) -> str:
    """The first rung that fails, for calls that differ."""
    if not both or bool(ours) != bool(theirs):
        return "trigger"
    if not all(call.parsed for call in ours):
        return "parse"
    if schema_failed:
        return "schema"
    if Counter(call.name for call in ours) != Counter(call.name for call in theirs):
        return "names"
    return "args_strict"


def _f1(matched: int, ours: int, theirs: int) -> float:
    """2|M| / (|C| + |R|); two sides that call nothing agree fully."""
    return 2 * matched / (ours + theirs) if ours or theirs else 1.0


def _free_losses(ours: list[Call], theirs: list[Call]) -> list[float]:
    """Loss per long free text of matched calls. Within equal calls, equal texts are paired first."""
    losses: list[float] = []
    waiting: dict[Json, list[Call]] = {}
    for call in theirs:
        if call.free:
            waiting.setdefault(call.strict, []).append(call)
    for call in ours:
        candidates = waiting.get(call.strict) if call.free else None
        if candidates:
            best = min(candidates[:_MAX_NAMES], key=lambda other: _texts_loss(call, other))
            candidates.remove(best)
            losses.extend(word_loss(text, best.free[path]) for path, text in call.free.items())
    return losses


def _texts_loss(left: Call, right: Call) -> float:
    return sum(word_loss(text, right.free[path]) for path, text in left.free.items())


def _schema_score(compared: list[_Compared], called: bool) -> Scored:
    explanation = {
        "failures": [failure for item in compared for failure in item.failures][:_MAX_NAMES],
        "notes": sorted({note for item in compared for note in item.notes}),
    }
    if not called:
        return Unscored(SCHEMA_FAILURE, Reason.NO_CALLS)
    decided = [item.schema_failed for item in compared if item.schema_failed is not None]
    if not decided:
        return Unscored(SCHEMA_FAILURE, Reason.UNSUPPORTED, explanation)
    return Score(SCHEMA_FAILURE, sum(decided) / len(decided), explanation)


def _free_text_score(compared: list[_Compared]) -> Scored:
    losses = [loss for item in compared for loss in item.free_losses]
    if not losses:
        return Unscored(FREE_TEXT, Reason.NO_FREE_TEXT)
    return Score(FREE_TEXT, sum(losses) / len(losses), {"texts": len(losses), "worst": max(losses)})


def _detail(
    ours: list[Call], theirs: list[Call], matched: int, rung: str | None, tools: Mapping[str, Json]
) -> dict[str, Json]:
    detail: dict[str, Json] = {
        "rung": rung,
        "matched": matched,
        "left": [call.name[:_MAX_NAME_CHARS] for call in ours[:_MAX_NAMES]],
        "right": [call.name[:_MAX_NAME_CHARS] for call in theirs[:_MAX_NAMES]],
        "left_calls": len(ours),
        "right_calls": len(theirs),
    }
    if rung is not None:
        detail["difference"] = difference(ours, theirs, tools)
    return detail
