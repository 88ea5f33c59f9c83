"""Tool calls: the reference's calls are the answer key, and a ladder names what went wrong first.

    trigger -> parse -> schema -> names -> args_strict -> (args_loose, beside it)

A call is compared by its canonical form (scorers/canonical.py). Canonical equality is an equivalence
relation, so the multiset intersection of the two sides *is* the maximum bipartite matching; order of
parallel calls does not matter. Choices are paired by index; a request's value is the mean over choices,
and a choice that only one side has is a mismatch. Whether a score applies is the request's and the
reference's to say, never the left side's.

Source:  metrology, section 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from scorers.canonical import Call, difference, read_call, word_loss
from scorers.records import Choice, DecodedRequest, Json, Pair, Reason, Score, Scored, ScoreSpec, Unscored
from scorers.schemas import SchemaCache, Validity, Verdict

MISMATCH, SCHEMA_FAILURE, TRIGGER = "tool_call_mismatch", "tool_schema_failure", "tool_trigger_mismatch"
F1_LOSS, LOOSE, FREE_TEXT = "tool_call_f1_loss", "tool_argument_loose_mismatch", "tool_free_text_mismatch"

SPECS: tuple[ScoreSpec, ...] = (
    ScoreSpec(MISMATCH, "ratio", True, "share of choices whose calls are not exactly the reference's, in any order"),
    ScoreSpec(
        SCHEMA_FAILURE, "ratio", True, "share of the reference's calling choices whose call breaks its tool's schema"
    ),
    ScoreSpec(TRIGGER, "ratio", True, "share of choices in which only one of the two sides calls a tool"),
    ScoreSpec(F1_LOSS, "ratio", True, "1 - F1 of the candidate's calls against the reference's"),
    ScoreSpec(
        LOOSE, "ratio", True, "tool_call_mismatch with BFCL's loose rule on strings (not on numbers, dates, ids)"
    ),
    ScoreSpec(
        FREE_TEXT, "ratio", True, "1 - word F1 of the reference's long free-text arguments; 1 where one is missing"
    ),
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
    schema_failed: bool | None  # None: the reference calls nothing whose schema can decide
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
            _schema_score(compared, any(choice.tool_calls for choice in pair.right.choices)),
            Score(TRIGGER, sum(item.trigger_differs for item in compared) / n),
            Score(F1_LOSS, max(0.0, 1.0 - sum(item.f1 for item in compared) / n)),
            Score(LOOSE, sum(not item.loose for item in compared) / n),
            _free_text_score(compared),
        )

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        reason = why if offers_tools(request) else Reason.NO_TOOLS
        return tuple(Unscored(spec.name, reason) for spec in SPECS)

    def _compare(self, left: Choice | None, right: Choice | None, tools: Mapping[str, Json]) -> _Compared:
        sides = [choice.tool_calls if choice else () for choice in (left, right)]
        read = {call: read_call(call, tools.get(call.name)) for calls in sides for call in calls}  # once where alike
        ours, theirs = ([read[call] for call in calls] for calls in sides)
        both = left is not None and right is not None
        failed, failures, notes = self._schema(ours, theirs, tools)
        if failed is not None and _is_empty(left):
            failed, failures = True, ("no answer",)
        mine, key = Counter(call.strict for call in ours), Counter(call.strict for call in theirs)
        matched = sum((mine & key).values())
        exact = both and mine == key
        rung = None if exact else _rung(ours, theirs, both, bool(failures))
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
        self, ours: list[Call], theirs: list[Call], tools: Mapping[str, Json]
    ) -> tuple[bool | None, tuple[str, ...], tuple[str, ...]]:
        """Whether any call of ours breaks its schema (None: none of theirs could be decided), where, and what was
        not checked. A check that ran into a bound is a failure, but for a tool with which theirs did so too."""
        found = {id(call): call for call in (*theirs, *ours)}  # a call spelled alike on both sides is one value
        verdicts = {number: self._checked(call, tools) for number, call in found.items()}
        key = [(call.name, verdicts[id(call)]) for call in theirs]
        applies = any(verdict.validity in (Validity.VALID, Validity.INVALID) for _, verdict in key)
        exhausted = {name for name, verdict in key if verdict.validity is Validity.EXHAUSTED}
        failures: list[str] = []
        notes = {note for _, verdict in key for note in verdict.notes}
        for call in ours:
            verdict = verdicts[id(call)]
            failures.extend(verdict.errors)
            notes.update(verdict.notes)
            if verdict.validity is Validity.EXHAUSTED and call.name not in exhausted:
                failures.extend(verdict.notes)
        return (bool(failures) if applies else None), tuple(failures), tuple(sorted(notes))

    def _checked(self, call: Call, tools: Mapping[str, Json]) -> Verdict:
        if not call.parsed:
            return Verdict(Validity.INVALID, ("arguments are not JSON",))
        if call.name not in tools:
            return Verdict(Validity.INVALID, ("no such tool was offered",))
        return self._schemas.check(tools[call.name], call.arguments)


def _is_empty(choice: Choice | None) -> bool:
    """Whether there is no answer at all: neither a call nor a text."""
    return choice is None or not (choice.tool_calls or choice.text.strip() or choice.refusal)


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
    """Loss per long free text of the reference's calls. Equal calls are paired first, by the likeness of their
    texts, then calls of one name; a text whose call or place is missing is lost whole."""
    losses: list[float] = []
    waiting: dict[Json, list[Call]] = {}
    for call in theirs:
        if call.free:
            waiting.setdefault(call.strict, []).append(call)
    others: dict[str, list[Call]] = {}
    for call in ours:
        candidates = waiting.get(call.strict)
        if candidates:
            best = min(candidates[:_MAX_NAMES], key=lambda other: sum(_text_losses(call, other)))
            candidates.remove(best)
            losses.extend(_text_losses(call, best))
        else:
            others.setdefault(call.name, []).append(call)
    for call in (call for calls in waiting.values() for call in calls):
        namesakes = others.get(call.name)
        losses.extend(_text_losses(namesakes.pop() if namesakes else None, call))
    return losses


def _text_losses(left: Call | None, right: Call) -> list[float]:
    ours = left.free if left is not None else {}
    return [word_loss(ours[path], text) if path in ours else 1.0 for path, text in right.free.items()]


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
