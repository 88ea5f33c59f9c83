"""Budgets and rules refuse what makes no test, and survive JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scorers.budgets import CAP_MULTIPLE, EXCEEDANCE_LIMIT, Budget, GateRules, by_name

GOOD = Budget("x", 0.03, bounded=True, critical=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limit": 0.0}, "above 0"),
        ({"limit": -1.0}, "above 0"),
        ({"limit": float("nan")}, "above 0"),
        ({"limit": float("inf"), "bounded": False}, "finite"),
        ({"limit": 1.0}, "allows everything"),
        ({"noise_multiple": 0.0}, "noise_multiple"),
        ({"slack": 0.0}, "slack"),
        ({"slack": 1.0}, "slack"),
    ],
)
def test_a_budget_that_is_no_test_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Budget(**{**GOOD.as_dict(), **change})


@pytest.mark.parametrize(
    "change", [{"alpha_promote": 0.0}, {"alpha_rollback": 1.0}, {"max_pairs": 0}, {"min_coverage": 1.5}]
)
def test_rules_that_decide_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        GateRules(**change)


def test_both_survive_json() -> None:
    rules = GateRules(alpha_promote=0.07, max_pairs=12)
    assert Budget(**json.loads(json.dumps(GOOD.as_dict()))) == GOOD
    assert GateRules(**json.loads(json.dumps(rules.as_dict()))) == rules


def test_the_exceedance_gate_is_not_implied_by_the_capped_mean() -> None:
    assert EXCEEDANCE_LIMIT < 1.0 / CAP_MULTIPLE  # else Markov's inequality makes it idle


def test_who_must_pass() -> None:
    assert GOOD.required
    assert Budget("x", 0.1, bounded=True, critical=False).required
    assert Budget("kl", 0.1, bounded=False, critical=True).required
    assert not Budget("kl", 0.1, bounded=False, critical=False).required


def test_names_are_unique_and_there_is_one() -> None:
    assert list(by_name((GOOD,))) == ["x"]
    with pytest.raises(ValueError, match="share a name"):
        by_name((GOOD, GOOD))
    with pytest.raises(ValueError, match="no budget"):
        by_name(())
