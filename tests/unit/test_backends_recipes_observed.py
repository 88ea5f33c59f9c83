"""What was measured against the recipe: the cardinal rule, the axis, and the arithmetic of the floor."""

from __future__ import annotations

import pytest

from backends.recipes.observed import ACCEPTED_POINTS, floored, read_deltas
from proxy.presets import PRESETS
from scorers.budgets import DISCIPLINE_MULTIPLE
from tests.unit.recipe_rig import AWQ, FP8, recipe

FP4 = {"format": "mxfp4"}


def test_fp4_on_blackwell_with_tool_calls_down_5_points() -> None:
    """It does not ship, whatever it gains; the pattern names the weights, and the way out."""
    chosen = recipe(hardware="b200", workload="agent", weights=FP4, activations=FP4)
    (told,) = read_deltas(chosen, {"tool_calls": -5.0, "knowledge": -0.3})
    assert (told.level, told.rule, told.key) == ("error", "cardinal-rule", "weights.format")
    assert "does not ship, whatever it gains in throughput" in told.found
    assert "rare-vocabulary projections" in told.found
    assert "tool use" in told.fix
    assert "the same weights with 16-bit activations" in told.fix


def test_a_metric_that_does_not_define_the_workload_warns() -> None:
    (told,) = read_deltas(recipe(workload="chat", weights=AWQ), {"tool_calls": -5.0})
    assert (told.level, told.rule) == ("warning", "delta-per-category")


@pytest.mark.parametrize(
    ("axes", "deltas", "axis"),
    [
        ({"kv_cache": FP8}, {"long_context": -8.0, "chat": -0.2}, "kv_cache"),
        ({"weights": FP8, "activations": FP8}, {"code": -6.0, "chat": 0.1}, "activations"),
        ({"weights": AWQ}, {"tool_calls": -4.0, "knowledge": 0.0}, "weights"),
    ],
)
def test_the_pattern_names_the_axis(axes: dict[str, dict[str, str]], deltas: dict[str, float], axis: str) -> None:
    (told,) = read_deltas(recipe(**axes), deltas)
    assert told.key == f"{axis}.format"
    assert f"points at {axis}" in told.found
    assert f"take {axis} alone back to 16 bits" in told.fix


def test_an_axis_at_16_bits_is_not_named() -> None:
    (told,) = read_deltas(recipe(weights=AWQ), {"long_context": -8.0})
    assert "points at" not in told.found


def test_when_all_fall_no_axis_is_named() -> None:
    told = read_deltas(recipe(workload="agent", weights=AWQ), {"tool_calls": -5.0, "knowledge": -6.0})
    assert not any("points at" in one.found for one in told)


def test_within_what_is_accepted_nothing_is_said() -> None:
    assert read_deltas(recipe(workload="agent", weights=AWQ), {"tool_calls": -3.0, "knowledge": 9.0}) == []
    assert PRESETS["agent"]["tool_call_mismatch"]["limit"] * 100 == ACCEPTED_POINTS


def test_mmlu_of_76_8_against_78_2_and_78_6_is_outside() -> None:
    found = floored((78.2, 78.6), 76.8, DISCIPLINE_MULTIPLE)
    assert (found.floor, found.budget, found.mean, found.drop) == pytest.approx((0.4, 1.2, 78.4, 1.6))
    assert not found.within
    assert "3 x 0.4 = 1.2" in "\n".join(found.lines())
    assert "78.2 - 76.8 = 1.4" in "\n".join(found.lines())


def test_at_the_budget_itself_it_is_inside() -> None:
    """78.4 - 77.2 is 1.2000000000000028 in binary."""
    assert floored((78.2, 78.6), 77.2, 3.0).within
    assert not floored((78.2, 78.6), 77.199, 3.0).within
    assert floored((78.2, 78.6), 99.0, 3.0).within


def test_the_products_limit_is_the_smaller_one() -> None:
    assert floored((78.2, 78.6), 77.5, 3.0, accepted=0.5).budget == 0.5
    assert floored((78.2, 78.6), 77.5, 3.0, accepted=9.0).budget == pytest.approx(1.2)


def test_one_run_has_no_floor() -> None:
    with pytest.raises(ValueError, match="run it twice"):
        floored((78.2,), 76.8, 3.0)
    with pytest.raises(ValueError, match="finite"):
        floored((78.2, float("nan")), 76.8, 3.0)
