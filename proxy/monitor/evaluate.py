"""Raw replies -> scores of one plan, its stratum, and the bodies worth keeping. Runs off the event loop.

The candidate's scores come from the served reply where there is one, and those of the logprob family from the replay
(the served request is never edited, so a served reply seldom has logprobs). A score that was not planned says so; one
that was planned and has no number says why it was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.monitor.costs import TokenCount
from proxy.monitor.heard import Forced, Heard, body_of
from proxy.monitor.lacks import Lacks
from proxy.monitor.mirror import Answer
from proxy.monitor.plan import Plan, stratum_of
from proxy.monitor.redact import Redactor
from proxy.monitor.rows import PairBodies, ScoreRow
from proxy.monitor.verify import Lesson, Verification, lesson
from scorers.catalogue import score_missing, score_pair
from scorers.decode import DecodeError, decode_reply, decode_teacher_forced
from scorers.records import Arm, DecodedReply, Pair, Reason, Score, Scored, Scorer, Stratum, TeacherForced, Unscored

LOGPROB_FAMILY = "logprobs"
TEACHER_FORCED = "teacher_forced_kl"


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which bodies are kept, and how much of them."""

    is_mismatch: Callable[[ScoreRow], bool]
    keep_mismatches: bool
    max_body_bytes: int
    redactor: Redactor


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one plan came to. `lesson`: what a regenerated reply says about verifying, where that is the mode."""

    scores: tuple[ScoreRow, ...]
    stratum: Stratum
    prompt_tokens: int | None = None
    reference_prompt_tokens: int | None = None
    completion_tokens: int | None = None
    bodies: PairBodies | None = None
    reference_answer: str = ""
    reference_tokens: tuple[TokenCount, ...] = ()
    lesson: Lesson | None = None


@dataclass(frozen=True, slots=True)
class _Side:
    """A decoded reply, or why there is none."""

    reply: DecodedReply | None
    missing: Reason | None = None
    why: Mapping[str, Any] | None = None


class Evaluator:
    """Scores plans. Owns one set of scorers: one thread at a time (`missing` may be called from any)."""

    def __init__(self, scorers: Mapping[str, Scorer], keeping: Keeping, lacks: Callable[[], Lacks] = Lacks) -> None:
        """`lacks` says what the arms cannot do, as the contract has it."""
        self._scorers = scorers
        self._keeping = keeping
        self._lacks = lacks
        self._unexplained: dict[tuple[Arm, str, Reason], ScoreRow] = {}  # closed sets: bounded, and shared by all rows

    def evaluate(self, plan: Plan, heard: Heard) -> Evaluation:
        """The scores of a plan whose calls were made."""
        answers = heard.answers
        tried = heard.tried
        right = (
            _Side(tried.reply)
            if tried is not None and tried.reply is not None
            else _decoded(plan, answers.reference, Reason.REFERENCE_UNDECODABLE)
        )
        served = _served(plan)
        replay = _decoded(plan, answers.replay, Reason.CANDIDATE_UNDECODABLE) if answers.replay else None
        rows = self._candidate_rows(plan, served, replay, right, heard.forced)
        if plan.coins.noise:
            rows += self._noise_rows(plan, right, answers.control, heard.control_forced)
        rows = with_lacks(rows, self._lacks(), forced=plan.coins.teacher_forced)
        left = (served or replay or _Side(None)).reply
        return self._finished(
            plan,
            heard,
            Evaluation(
                scores=tuple(rows),
                stratum=stratum_of(plan.request),
                prompt_tokens=_prompt_tokens(served, replay),
                reference_prompt_tokens=right.reply.prompt_tokens if right.reply else None,
                completion_tokens=left.completion_tokens if left else None,
                reference_answer=heard.how if right.reply else "",
                reference_tokens=heard.spent(needle=plan.probe is not None),
                lesson=_lesson(tried, right, replay),
            ),
        )

    def missing(self, plan: Plan, why: Reason, explanation: Mapping[str, Any] | None = None) -> Evaluation:
        """The scores of a plan that got no pair at all. Cheap: nothing is decoded."""
        rows = self._missing(plan, "candidate", self._scorers, why, explanation)
        if plan.coins.noise:
            rows += self._missing(plan, "noise", self._scorers, why, explanation)
        return Evaluation(scores=tuple(rows), stratum=stratum_of(plan.request))

    def _candidate_rows(
        self, plan: Plan, served: _Side | None, replay: _Side | None, right: _Side, forced: Forced | None
    ) -> list[ScoreRow]:
        rows: list[ScoreRow] = []
        for family, scorer in self._scorers.items():
            one = {family: scorer}
            of_replay = replay is not None and (served is None or family == LOGPROB_FAMILY)
            left = replay if of_replay else served
            why = right if right.reply is None else left
            if left is None or right.reply is None or left.reply is None:
                lost = why.missing if why is not None and why.missing else Reason.CANDIDATE_ERROR
                rows += self._missing(plan, "candidate", one, lost, why.why if why else None)
                continue
            pair = Pair(
                request=plan.request,
                left=left.reply,
                right=right.reply,
                left_served=not of_replay,
                teacher_forced=_teacher_forced(forced) if of_replay else None,
                probe=plan.probe,
            )
            rows += _rows("candidate", _forced_losses(score_pair(one, pair), forced if of_replay else None))
        return rows

    def _noise_rows(self, plan: Plan, right: _Side, control: Answer | None, forced: Forced | None) -> list[ScoreRow]:
        left = _decoded(plan, control or Answer(missing=Reason.REFERENCE_ERROR), Reason.REFERENCE_UNDECODABLE)
        if right.reply is None or left.reply is None:
            why = right if right.reply is None else left
            return self._missing(plan, "noise", self._scorers, why.missing or Reason.REFERENCE_ERROR, why.why)
        pair = Pair(
            request=plan.request,
            left=left.reply,
            right=right.reply,
            arm="noise",
            left_served=False,
            teacher_forced=_teacher_forced(forced),
            probe=plan.probe,
        )
        return _rows("noise", _forced_losses(score_pair(self._scorers, pair), forced))

    def _missing(
        self,
        plan: Plan,
        arm: Arm,
        scorers: Mapping[str, Scorer],
        why: Reason,
        explanation: Mapping[str, Any] | None,
    ) -> list[ScoreRow]:
        """`why` for every score that was planned; a loss must not reach a score that a reply would not have had."""
        rows: list[ScoreRow] = []
        for family, scorer in scorers.items():
            planned = arm == "noise" or family != LOGPROB_FAMILY or plan.replay is not None
            for item in score_missing(
                {family: scorer}, plan.request, why if planned else Reason.NOT_PLANNED, plan.probe
            ):
                reason = item.reason
                if item.name == TEACHER_FORCED and not plan.coins.teacher_forced:
                    reason = Reason.NOT_PLANNED
                if explanation and reason.lost:
                    rows.append(ScoreRow(arm, item.name, None, reason, explanation))
                else:
                    rows.append(self._bare(arm, item.name, reason))
        return rows

    def _bare(self, arm: Arm, name: str, reason: Reason) -> ScoreRow:
        """One and the same value each time: thousands of lost rows may wait behind an open one."""
        key = (arm, name, reason)
        found = self._unexplained.get(key)
        return found if found is not None else self._unexplained.setdefault(key, ScoreRow(arm, name, None, reason))

    def _finished(self, plan: Plan, heard: Heard, evaluation: Evaluation) -> Evaluation:
        """With the bodies when they are worth keeping; explanations of numbers go with the bodies."""
        keeping = self._keeping
        worth = plan.coins.keep or (
            keeping.keep_mismatches
            and any(row.arm == "candidate" and _is_bad(row, keeping) for row in evaluation.scores)
        )
        if not worth:
            rows = tuple(
                row if row.value is None else ScoreRow(row.arm, row.name, row.value, row.reason)
                for row in evaluation.scores
            )
            return replace(evaluation, scores=rows)
        removed: list[str] = []
        bodies = PairBodies(
            request=self._kept(plan.request_body, removed),
            candidate=self._kept(plan.served.body if plan.served else body_of(heard.answers.replay), removed),
            reference=self._kept(heard.reference_body, removed),
            control=self._kept(body_of(heard.answers.control), removed) if heard.answers.control else None,
        )
        rows = tuple(
            replace(row, explanation=keeping.redactor.explanation(row.explanation, removed))
            for row in evaluation.scores
        )
        return replace(evaluation, bodies=bodies, scores=rows)

    def _kept(self, body: bytes, removed: list[str]) -> bytes:
        kept, gone = self._keeping.redactor.body(body)
        removed.extend(gone)
        return kept[: self._keeping.max_body_bytes]


def mismatch_rule(limits: Mapping[str, float]) -> Callable[[ScoreRow], bool]:
    """Whether a score alone makes its pair worth reading: a budgeted score above its limit.

    A score without a budget makes none: greedy texts of two precisions part sooner or later in most answers.
    """

    def is_mismatch(row: ScoreRow) -> bool:
        return row.value is not None and row.name in limits and row.value > limits[row.name]

    return is_mismatch


def with_lacks(rows: list[ScoreRow], lacks: Lacks, *, forced: bool) -> list[ScoreRow]:
    """The rows, those that an engine's lack decided under its name. `forced`: teacher forcing was planned.

    It is a loss, for either arm: the budget asks for the number, and a lack must not thin out the evidence unseen. What
    a reference gives that lacks what the score needs is no answer key: a number against it is withheld. A candidate's
    number stays, because its clients get the same.
    """
    if not lacks.arms:
        return rows
    return [_with_lacks(row, lacks, forced) for row in rows]


def _with_lacks(row: ScoreRow, lacks: Lacks, forced: bool) -> ScoreRow:
    unmet = lacks.against(row.name, row.arm)
    if not unmet:
        return row
    by_reference = any(need.side == "reference" for need in unmet)
    status = row.explanation.get("status", 0)
    lost = row.reason in _LACK_SHOWS_AS or (row.reason is Reason.REFERENCE_ERROR and 400 <= status < 500)
    unplanned = row.name == TEACHER_FORCED and row.reason is Reason.NOT_PLANNED and forced
    if not (lost or unplanned or (row.value is not None and by_reference)):
        return row
    why = {"lacks": [f"{need.side}: {' or '.join(need.one_of)}" for need in unmet]}
    return ScoreRow(row.arm, row.name, None, Reason.ENGINE_LACKS, why)


_LACK_SHOWS_AS = frozenset({Reason.NO_LOGPROBS, Reason.TOKENS_DIFFER, Reason.REFERENCE_UNDECODABLE})


def _is_bad(row: ScoreRow, keeping: Keeping) -> bool:
    return keeping.is_mismatch(row) or row.reason in _WORTH_READING


_WORTH_READING = frozenset({Reason.CANDIDATE_UNDECODABLE, Reason.REFERENCE_UNDECODABLE, Reason.SCORER_ERROR})


def _served(plan: Plan) -> _Side | None:
    if plan.served is None:
        return None
    try:
        return _Side(decode_reply(plan.request.kind, plan.served.content_type, plan.served.body))
    except DecodeError as error:
        return _Side(None, Reason.CANDIDATE_UNDECODABLE, {"decode": str(error.reason)})


def _prompt_tokens(*sides: _Side | None) -> int | None:
    """What the arm counted, of the first reply that tells it: a served stream often carries no usage."""
    counts = [side.reply.prompt_tokens for side in sides if side is not None and side.reply is not None]
    return next((count for count in counts if count is not None), None)


def _decoded(plan: Plan, answer: Answer, undecodable: Reason) -> _Side:
    if answer.reply is None:
        return _Side(None, answer.missing, answer.why)
    try:
        return _Side(decode_reply(plan.request.kind, answer.reply.content_type, answer.reply.body))
    except DecodeError as error:
        return _Side(None, undecodable, {"decode": str(error.reason)})


def _teacher_forced(forced: Forced | None) -> TeacherForced | None:
    if forced is None or forced.answer.reply is None:
        return None
    try:
        return decode_teacher_forced(forced.answer.reply.body, forced.call.prompt_tokens, forced.call.completion_tokens)
    except DecodeError:
        return None


def _forced_losses(scored: Sequence[Scored], forced: Forced | None) -> Sequence[Scored]:
    """A teacher-forced score that was called for and did not come is lost, not unplanned."""
    if forced is None:
        return scored
    why = forced.answer.missing or Reason.REFERENCE_UNDECODABLE
    return [
        Unscored(item.name, why, forced.answer.why)
        if isinstance(item, Unscored) and item.name == TEACHER_FORCED and item.reason is Reason.NOT_PLANNED
        else item
        for item in scored
    ]


def _rows(arm: Arm, scored: Sequence[Scored]) -> list[ScoreRow]:
    return [
        ScoreRow(arm, item.name, item.value, None, item.explanation)
        if isinstance(item, Score)
        else ScoreRow(arm, item.name, None, item.reason, item.explanation)
        for item in scored
    ]


def _lesson(tried: Verification | None, right: _Side, replay: _Side | None) -> Lesson | None:
    if tried is None or tried.reply is not None or right.reply is None:
        return None
    return lesson(right.reply, replay.reply if replay is not None else None, tried)
