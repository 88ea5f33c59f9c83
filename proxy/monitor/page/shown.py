"""What the overview shows, already read: the verdict, the ledger's part in it, which budget and stratum come first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxy.monitor.history import Event, Since
from proxy.monitor.page.chart import Bound
from proxy.monitor.rows import Opening
from proxy.monitor.trail import Course
from scorers.budgets import WHOLE
from scorers.evidence import FAILING
from scorers.judge import SUSPICION_LOG10, Verdict
from scorers.planning import upper_bound
from scorers.records import Reason
from scorers.verdict import BudgetVerdict, LaneVerdict

MIN_STRATUM_PAIRS = 5  # *choice*: below it a stratum's mean names nobody


_NO_COURSE = Course()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which pairs are listed, and in which the reader steps from one to the next."""

    score: str | None = None
    stratum: str | None = None
    every: bool = False

    def query(self, **more: str) -> dict[str, str]:
        """The part of an address that says so."""
        own = {"score": self.score, "stratum": self.stratum, "every": "true" if self.every else None}
        return {**{key: value for key, value in own.items() if value}, **more}


class Part(NamedTuple):
    """What the latest rows of one stratum say of a budget. Descriptive: no test rests on it."""

    stratum: str
    pairs: int
    mean: float


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything on the overview. `first` is a failing pair of a budget, `parts` its latest rows by stratum, the worst
    first; `times` says when positions were sampled; `pairs` are summaries, latest first; `full`: there may be more.
    """

    verdict: Verdict
    readiness: Mapping[str, bool]
    state: Mapping[str, Any]
    now_unix_s: float
    course: Course = _NO_COURSE
    since: Since | None = None
    events: Sequence[Event] = ()
    openings: Sequence[Opening] = ()
    times: Mapping[int, float] = field(default_factory=dict)
    first: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parts: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    pairs: Sequence[Mapping[str, Any]] = ()
    filter: Filter = Filter()
    refresh_s: int | None = None
    trouble: str | None = None
    full: bool = False
    bound: Bound = upper_bound

    def over_since(self, lane: LaneVerdict) -> float | None:
        """When a lane turned over its limit: when the pair that decided it was sampled. None when it is not over.

        Of a row that was pruned the picture still knows the next point. Units: seconds since the Unix epoch.
        """
        position = over_position(lane)
        if position is None:
            return None
        if position in self.times:
            return self.times[position]
        return next(
            (p.at_unix_s for p in self.course.points if p.position >= position and p.at_unix_s is not None), None
        )


def over_position(lane: LaneVerdict) -> int | None:
    """Where the lane turned over its limit, by the first of the tests that turned against it."""
    return min((lane.crossed[test] for test in FAILING if test in lane.crossed), default=None)


def worst_first(verdict: Verdict) -> list[BudgetVerdict]:
    """The budgets: those that fail the recipe, then those over their limit, then by how near they are to it."""
    return sorted(verdict.budgets.values(), key=_badness)


def broken(verdict: Verdict) -> list[BudgetVerdict]:
    """The budgets over their limit, for certain or by more than chance would often do, the worst first."""
    return [budget for budget in worst_first(verdict) if budget.state == "fail" or _suspected(budget)]


def _suspected(budget: BudgetVerdict) -> bool:
    level = budget.lane.log10_e_rollback
    return budget.state != "pass" and level is not None and level >= SUSPICION_LOG10


def lanes_worst_first(budget: BudgetVerdict) -> list[tuple[str, LaneVerdict]]:
    """The budget's lanes by name; one, of all requests, where it keeps none apart."""
    lanes = budget.strata.items() if budget.strata else [(WHOLE, budget.lane)]
    return sorted(
        lanes, key=lambda item: (item[1].state != "fail", item[0] not in budget.over, -(item[1].value or 0.0))
    )


def parts_of(rows: Iterable[tuple[str, Mapping[str, float | Reason]]], name: str) -> list[Part]:
    """A score's mean by stratum over these rows, the worst first."""
    sums: dict[str, tuple[int, float]] = {}
    for stratum, scores in rows:
        value = scores.get(name)
        if isinstance(value, float):
            count, total = sums.get(stratum, (0, 0.0))
            sums[stratum] = (count + 1, total + value)
    found = [Part(stratum, count, total / count) for stratum, (count, total) in sums.items()]
    return sorted(found, key=lambda part: (part.pairs < MIN_STRATUM_PAIRS, -part.mean, -part.pairs))


def worst_stratum(budget: BudgetVerdict, parts: Sequence[Part]) -> str | None:
    """The words of the stratum where the budget is worst: of a lane that is kept apart, else of the latest rows."""
    if budget.strata:
        return lanes_worst_first(budget)[0][0]
    return parts[0].stratum if parts and parts[0].mean > 0.0 and parts[0].pairs >= MIN_STRATUM_PAIRS else None


def _badness(budget: BudgetVerdict) -> tuple[bool, bool, float, str]:
    against = -(budget.value or 0.0) / budget.limit
    return budget.state != "fail", not budget.critical, against, budget.name
