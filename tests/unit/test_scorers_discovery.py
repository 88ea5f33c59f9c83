"""e-BH: by its definition, and by what it promises, exactly."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers.discovery import e_bh


@given(levels=st.dictionaries(st.text(max_size=3), st.floats(-20.0, 20.0), max_size=8), more=st.integers(0, 5))
def test_it_is_the_definition(levels: dict[str, float], more: int) -> None:
    hypotheses = len(levels) + more + 1
    ranked = sorted(levels, key=lambda name: -levels[name])
    good = [k for k in range(1, len(ranked) + 1) if levels[ranked[k - 1]] >= math.log10(hypotheses / (k * 0.05))]
    expected = set(ranked[: max(good, default=0)])
    tied = {name for name in levels if expected and levels[name] == levels[ranked[max(good) - 1]]}
    assert set(e_bh(levels, hypotheses, 0.05)) == expected | tied


@pytest.mark.parametrize("true_ones", [0, 1, 3])
@pytest.mark.parametrize("height", [10.0, 40.0, 100.0])
def test_the_share_of_false_ones_is_at_most_alpha(true_ones: int, height: float) -> None:
    """All outcomes of five e-values that are `height` or 0 with mean 1, beside discoveries that are real."""
    alpha, nulls = 0.05, 5
    expected = 0.0
    for outcome in product((True, False), repeat=nulls):
        chance = math.prod(1.0 / height if high else 1.0 - 1.0 / height for high in outcome)
        levels = {f"null{i}": math.log10(height) for i, high in enumerate(outcome) if high}
        levels |= {f"real{i}": 9.0 for i in range(true_ones)}
        found = e_bh(levels, nulls + true_ones, alpha)
        false = sum(name.startswith("null") for name in found)
        expected += chance * (false / len(found) if found else 0.0)
    assert expected <= alpha


def test_many_together_need_less_each() -> None:
    assert e_bh({"a": 2.5}, 4, 0.01) == ()
    assert e_bh({"a": 2.5, "b": 2.6, "c": 2.4, "d": -3.0}, 4, 0.01) == ("a", "b", "c")
    assert e_bh({}, 4, 0.01) == ()
