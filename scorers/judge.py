"""Evidence and budgets to a verdict. Being written: the public names are final, the folding follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scorers.budgets import Budget, GateRules
from scorers.coverage import Coverage
from scorers.records import Observation
from scorers.verdict import BudgetVerdict, Diagnosis, LaneVerdict, State, Verdict, VerdictContext

__all__ = [
    "Budget",
    "BudgetVerdict",
    "Coverage",
    "Diagnosis",
    "EvidenceState",
    "GateRules",
    "LaneVerdict",
    "State",
    "Verdict",
    "VerdictContext",
    "start",
]


class EvidenceState:
    """The running evidence of one recipe: O(1) per budget and stratum, whatever the number of rows.

    It only grows by `fold`, in rising position; everything that it knows came from observations.
    """

    def __init__(self, budgets: Sequence[Budget], rules: GateRules) -> None:
        self.budgets = tuple(budgets)
        self.rules = rules

    @property
    def coverage(self) -> Coverage:
        raise NotImplementedError

    def fold(self, observation: Observation) -> None:
        """Take in one observation. Raises ValueError when its position does not rise."""
        raise NotImplementedError

    def verdict(self, context: VerdictContext) -> Verdict:
        raise NotImplementedError

    def reset(self, position: int) -> None:
        """Begin anew after `position`: an operator's act."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvidenceState:
        raise NotImplementedError


def start(budgets: Sequence[Budget], rules: GateRules) -> EvidenceState:
    """Evidence that has seen nothing."""
    return EvidenceState(budgets, rules)
