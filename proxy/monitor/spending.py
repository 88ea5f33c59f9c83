"""What pairs cost each budget, in units of its limit: the counters that burn-rate alerts divide.

A pair at the limit spends 1. Spent over pairs in a window is the burn rate there: 1 is the limit itself, and unlike
the verdict's figures, which look back on the whole epoch, it tells how the last half hour went. Counted as the evidence
counts: by the budget's own strata, an unbounded score capped at 10 limits. Lost pairs spend nothing; coverage tells of
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from proxy.monitor.rows import LedgerRow
from proxy.monitor.tallies import Counts, gauge
from scorers.budgets import CAP_MULTIPLE, Budget


class Spending:
    """The running counts. Every stratum that a budget may have is there from the start: a closed set."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._budgets = {budget.name: budget for budget in budgets}
        lanes = [(budget.name, lane) for budget in budgets for lane in budget.lane_names()]
        labels = ("budget", "stratum")
        self._pairs = Counts(
            "parity_budget_pairs",
            "Pairs that gave the budget a number, by the strata that it keeps apart.",
            labels,
            lanes,
        )
        self._spent = Counts(
            "parity_budget_spent_limits",
            "Scores of those pairs over the budget's limit; an unbounded score counts at most 10 limits.",
            labels,
            lanes,
        )

    def row(self, row: LedgerRow) -> None:
        """Counts the candidate's numbers of one row."""
        for score in row.scores:
            budget = self._budgets.get(score.name)
            if budget is None or score.arm != "candidate" or score.value is None:
                continue
            lane = budget.lane_of(row.stratum)
            self._pairs.add(budget.name, lane)
            self._spent.add(budget.name, lane, by=min(score.value / budget.limit, worst_limits(budget)))

    def families(self) -> Iterator[Metric]:
        """`parity_budget_pairs`, `parity_budget_spent_limits` and `parity_budget_worst_limits`."""
        yield self._pairs.family()
        yield self._spent.family()
        yield gauge(
            "parity_budget_worst_limits",
            "The most that one pair can spend: 1 / limit, or 10 for an unbounded score.",
            ("budget",),
            {(name,): worst_limits(budget) for name, budget in self._budgets.items()},
        )


def worst_limits(budget: Budget) -> float:
    """The most that one pair can spend. Units: limits of the budget."""
    return 1.0 / budget.limit if budget.bounded else CAP_MULTIPLE
