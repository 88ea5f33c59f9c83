"""The running statistics of one budget: its tests, its noise contrast, its change detector.

    Lane            one stream of scores against one budget: the whole budget, or one stratum of it
    BudgetEvidence  the lanes of a budget

A score that never arrived is LOST and counts against whichever decision is at stake: 1 in the promotion test, 0 in the
rollback test and the change detector, and in the noise contrast the row's worst payoff: X = 1 and N = 0 for a lost
candidate, N = 0 for a lost re-run. So loss can delay a decision and never make one (metrology 4).

Once a threshold is crossed it stays crossed: at any later time the chance that a null was ever rejected is still alpha.
From a lane's promotion on, its change detector runs beside its rollback test; the alarm, too, stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from scorers.betting import PAYOFF_CAP_MULTIPLE, Mixture, WideMixture, contrast_bets, promotion_bets, risk_bets
from scorers.budgets import EXCEEDANCE_LIMIT, WHOLE, Budget
from scorers.change import ShiryaevRoberts
from scorers.records import Reason

LOST: Final = -1.0
"""A number that should be there and is not. Scores are never negative."""

LARGEST_SCORE = 1e12  # *choice*: an unbounded score above it is a fault of its scorer, and lost


PASSING = ("limit", "tail", "noise")
"""The gates that a promotion goes through: the limit, the tail of an unbounded score, the noise contrast."""

FAILING = ("rollback", "change")
"""The tests that turn against a recipe: rollback, and after promotion the change detector."""


class Thresholds:
    """The e-values that decide. Rollback's alpha is shared by several lanes: times their number (metrology 4.5)."""

    __slots__ = ("promote", "rollback")

    def __init__(self, alpha_promote: float, alpha_rollback: float, sharing: int) -> None:
        self.promote = 1.0 / alpha_promote
        self.rollback = sharing / alpha_rollback


class LaneSums(NamedTuple):
    """What a lane has counted. Value, floor and bound follow from these and the budget alone (scorers/ruling.py)."""

    samples: int
    lost: int
    total: float
    capped_total: float
    noise_samples: int
    noise_total: float


class Lane:
    """One stream of scores against one budget. Numbers are read by the judge; only `fold` writes them."""

    __slots__ = (
        "_budget",
        "_cap",
        "_limit",
        "_multiple",
        "_payoff_cap",
        "_slack",
        "alarm_position",
        "bounded",
        "capped_total",
        "change",
        "contrast",
        "contrast_position",
        "exceedance",
        "gate",
        "gate_position",
        "lost",
        "noise_samples",
        "noise_total",
        "promotion",
        "rollback",
        "rollback_position",
        "samples",
        "tail_position",
        "total",
    )

    def __init__(self, budget: Budget, thresholds: Thresholds) -> None:
        self._budget = budget
        self._limit = budget.limit
        self._cap = budget.cap
        self._payoff_cap = PAYOFF_CAP_MULTIPLE * budget.limit
        self._multiple = budget.noise_multiple
        self._slack = budget.slack
        self.bounded = budget.bounded
        self.gate = budget.limit if budget.bounded else budget.limit / budget.cap
        self.promotion = Mixture(promotion_bets(self.gate), thresholds.promote)
        self.exceedance = None if budget.bounded else Mixture(promotion_bets(EXCEEDANCE_LIMIT), thresholds.promote)
        self.rollback = Mixture(risk_bets(budget), thresholds.rollback)
        self.contrast = WideMixture(contrast_bets(budget.slack), thresholds.promote) if budget.bounded else None
        self.change: ShiryaevRoberts | None = None
        self.samples = 0
        self.lost = 0
        self.total = 0.0
        self.capped_total = 0.0  # of the promotion test's own scores: in [0, 1], without the lost ones
        self.noise_samples = 0
        self.noise_total = 0.0
        self.gate_position: int | None = None
        self.tail_position: int | None = None
        self.contrast_position: int | None = None
        self.rollback_position: int | None = None
        self.alarm_position: int | None = None

    @property
    def promoted_position(self) -> int | None:
        """Where the last of the gates that a pass needs was crossed; None while one is open."""
        second = self.contrast_position if self.bounded else self.tail_position
        if self.gate_position is None or second is None:
            return None
        return max(self.gate_position, second)

    def sums(self) -> LaneSums:
        """The counts as they stand."""
        return LaneSums(self.samples, self.lost, self.total, self.capped_total, self.noise_samples, self.noise_total)

    def crossings(self) -> tuple[tuple[str, int | None], ...]:
        """Each test's name (of PASSING and FAILING), and where it reached its threshold."""
        return (
            *zip(PASSING, (self.gate_position, self.tail_position, self.contrast_position), strict=True),
            *zip(FAILING, (self.rollback_position, self.alarm_position), strict=True),
        )

    def fold(self, score: float, noise: float | None, position: int, may_promote: bool) -> None:
        """Take in one row's score (or LOST) and its re-run's (LOST, or None where none was planned)."""
        if score == LOST:
            self.lost += 1
            worst, best = 1.0, 0.0
        else:
            self.samples += 1
            self.total += score
            if self.bounded:
                worst = best = score
            else:
                worst = min(score / self._cap, 1.0)
                best = min(score, self._payoff_cap)
            self.capped_total += worst
        # The tests against the recipe come first, so that the row which promotes is no news about a change.
        payoff = best - self._limit
        if self.rollback_position is None and self.rollback.step(payoff):
            self.rollback_position = position
        change = self.change
        if change is not None and self.alarm_position is None and change.step(payoff):
            self.alarm_position = position
        if self.gate_position is None and self.promotion.step(self.gate - worst) and may_promote:
            self.gate_position = position
            self._begin_watch()
        if self.exceedance is not None and self.tail_position is None:
            beyond = 1.0 if score == LOST or score > self._cap else 0.0
            if self.exceedance.step(EXCEEDANCE_LIMIT - beyond) and may_promote:
                self.tail_position = position
                self._begin_watch()
        if noise is not None:
            self._compare(score, noise, position, may_promote)

    def fold_noise(self, noise: float) -> None:
        """Count a re-run's score whose candidate side does not apply: floor, but no contrast."""
        if noise != LOST:
            self.noise_samples += 1
            self.noise_total += noise

    def _begin_watch(self) -> None:
        """Start the change detector once the last gate is passed."""
        if self.promoted_position is not None:
            self.change = ShiryaevRoberts(risk_bets(self._budget))

    def _compare(self, score: float, noise: float, position: int, may_promote: bool) -> None:
        """One noise pair: the floor, and the contrast of the candidate with it."""
        self.fold_noise(noise)
        if self.contrast is None or self.contrast_position is not None:
            return
        mismatch, floor = score, noise
        if score == LOST:
            mismatch, floor = 1.0, 0.0
        elif noise == LOST:
            floor = 0.0
        if self.contrast.step(self._multiple * floor + self._slack - mismatch) and may_promote:
            self.contrast_position = position
            self._begin_watch()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `restore` gives the same lane."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "promotion": self.promotion.to_json(),
            "rollback": self.rollback.to_json(),
            "exceedance": None if self.exceedance is None else self.exceedance.to_json(),
            "contrast": None if self.contrast is None else self.contrast.to_json(),
            "change": None if self.change is None else self.change.to_json(),
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take the state that `to_json` wrote for the same budget."""
        for name in _PLAIN:
            setattr(self, name, data[name])
        self.promotion.restore(data["promotion"])
        self.rollback.restore(data["rollback"])
        if self.exceedance is not None:
            self.exceedance.restore(data["exceedance"])
        if self.contrast is not None:
            self.contrast.restore(data["contrast"])
        if data["change"] is not None:
            self.change = ShiryaevRoberts(risk_bets(self._budget))
            self.change.restore(data["change"])


_PLAIN = (
    *("samples", "lost", "total", "capped_total", "noise_samples", "noise_total"),
    *("gate_position", "tail_position", "contrast_position", "rollback_position", "alarm_position"),
)


class BudgetEvidence:
    """The lanes of one budget: one, or one per stratum that was seen."""

    __slots__ = ("_apart", "_most", "_name", "budget", "lanes", "thresholds")

    def __init__(self, budget: Budget, thresholds: Thresholds) -> None:
        self.budget = budget
        self.lanes: dict[str, Lane] = {} if budget.strata else {WHOLE: Lane(budget, thresholds)}
        self.thresholds = thresholds
        self._name = budget.name
        self._most = 1.0 if budget.bounded else LARGEST_SCORE
        self._apart = bool(budget.strata)

    def fold(
        self,
        candidate: Mapping[str, float | Reason],
        noise: Mapping[str, float | Reason],
        where: str,
        position: int,
        may_promote: bool,
    ) -> None:
        """Take in one planned row of the lane named `where`; what is absent or does not apply is no evidence."""
        score = candidate.get(self._name)
        rerun = noise.get(self._name) if noise else None
        # A number outside its range (NaN, too) is its scorer's fault: LOST.
        if score is not None:
            if isinstance(score, Reason):
                score = LOST if score.lost else None
            elif not 0.0 <= score <= self._most:
                score = LOST
        if rerun is not None:
            if isinstance(rerun, Reason):
                rerun = LOST if rerun.lost else None
            elif not 0.0 <= rerun <= self._most:
                rerun = LOST
        if score is None and rerun is None:
            return
        lane = self.lanes.get(where if self._apart else WHOLE)
        if lane is None:
            lane = self.lanes[where] = Lane(self.budget, self.thresholds)
        if score is not None:
            lane.fold(score, rerun, position, may_promote)
        elif rerun is not None:
            lane.fold_noise(rerun)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `restore` gives the same lanes."""
        return {name: self.lanes[name].to_json() for name in ordered(self)}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take the lanes that `to_json` wrote for the same budget."""
        for name, lane in data.items():
            self.lanes[name] = Lane(self.budget, self.thresholds)
            self.lanes[name].restore(lane)


def lane_count(budget: Budget) -> int:
    """How many lanes a budget may come to have: what its share of the rollback alpha is divided by."""
    return len(budget.lane_names())


def ordered(evidence: BudgetEvidence) -> list[str]:
    """The names of the lanes that were seen, from short prompts to long."""
    return [name for name in evidence.budget.lane_names() if name in evidence.lanes]
