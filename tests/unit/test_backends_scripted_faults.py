"""When planted faults strike."""

from __future__ import annotations

from typing import Any

import pytest

from backends.scripted.faults import FaultPlan
from backends.scripted.tokens import mix


def test_fault_rates_are_met_and_repeat() -> None:
    plan = FaultPlan({"tool_name": 0.3})
    struck = [key for key in range(2_000) if plan.strikes(mix(key))]
    assert 520 < len(struck) < 680
    assert struck == [key for key in range(2_000) if plan.strikes(mix(key))]
    fresh = FaultPlan({"tool_name": 0.5}, fresh=True)
    assert 0 < sum(bool(fresh.strikes(7)) for _ in range(200)) < 200


def test_faults_are_decided_apart() -> None:
    plan = FaultPlan({"tool_name": 0.5, "needle": 0.5})
    both = [plan.strikes(mix(key)) for key in range(2_000)]
    assert 420 < sum(len(struck) == 2 for struck in both) < 580


@pytest.mark.parametrize("rates", [{"nothing": 1.0}, {"text": 1.5}, {"text": "much"}, {"text": True}, {"text": -1}])
def test_a_wrong_rate_changes_nothing(rates: dict[str, Any]) -> None:
    plan = FaultPlan({"needle": 0.5})
    with pytest.raises(ValueError, match="fault"):
        plan.update({"logprobs": 1.0, **rates})
    assert plan.rates == {"needle": 0.5}


def test_rate_zero_takes_a_fault_away() -> None:
    plan = FaultPlan({"needle": 0.5, "text": 1})
    plan.update({"needle": 0})
    assert plan.rates == {"text": 1.0}
