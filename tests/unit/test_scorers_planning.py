"""Planning figures against metrology 4.1's, and a bound that never promises less than the gate found."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.betting import Mixture, promotion_bets
from scorers.budgets import Budget
from scorers.planning import noise_pairs_to_pass, pairs_to_pass, upper_bound

# Source: metrology 4.1, simulated medians; 2,000 runs leave them about 3 % wide, and 2 % on a 3 % budget 4 %
PUBLISHED = [
    (0.03, 0.0, 135, 0.0),
    (0.03, 0.005, 135, 0.0),
    (0.03, 0.01, 293, 0.03),
    (0.03, 0.015, 622, 0.03),
    (0.03, 0.02, 1451, 0.07),
    (0.01, 0.002, 698, 0.03),
    (0.05, 0.01, 137, 0.03),
    (0.10, 0.03, 86, 0.03),
]


def bounded(limit: float) -> Budget:
    return Budget("x", limit, bounded=True, critical=True)


@pytest.mark.parametrize(("limit", "rate", "median", "tolerance"), PUBLISHED)
def test_the_exact_medians_are_the_published_ones(limit: float, rate: float, median: int, tolerance: float) -> None:
    assert pairs_to_pass(bounded(limit), rate) == pytest.approx(median, rel=tolerance)


def test_half_the_limit_is_the_default_and_the_budgets_edge_is_never() -> None:
    assert pairs_to_pass(bounded(0.03)) == pairs_to_pass(bounded(0.03), 0.015)
    assert pairs_to_pass(bounded(0.03), 0.03) is None


def test_pairs_scale_with_the_limit_down_to_the_rarest() -> None:
    needed = [pairs_to_pass(bounded(limit)) for limit in (1e-2, 1e-3, 1e-4, 1e-5)]
    known = [n for n in needed if n is not None]
    assert len(known) == 4
    for smaller, larger in pairwise(known):
        assert 9.5 < larger / smaller < 10.5
    assert pairs_to_pass(bounded(1e-7)) is None


def test_near_the_limit_the_growth_rate_stands_in() -> None:
    far, near = pairs_to_pass(bounded(0.03), 0.024), pairs_to_pass(bounded(0.03), 0.0265)
    assert far is not None
    assert near is not None
    assert far < near < 10_000_000


def test_an_unbounded_budget_needs_its_slower_gate() -> None:
    assert pairs_to_pass(Budget("kl", 0.05, bounded=False, critical=True)) == 203


def test_noise_pairs_grow_with_what_the_candidate_adds() -> None:
    budget = bounded(0.03)
    none, some = noise_pairs_to_pass(budget, 0.0, 0.0), noise_pairs_to_pass(budget, 0.01, 0.01)
    assert none is not None
    assert some is not None
    assert 500 < none < some < 800  # metrology 4.3: 576 at 1 %, the median of a skewed law
    assert noise_pairs_to_pass(budget, 0.05, 0.01) is None


def test_no_data_no_bound_and_all_wrong_bounds_nothing() -> None:
    assert upper_bound(0, 0.0, 0.05) is None
    assert upper_bound(10, 10.0, 0.05) == pytest.approx(1.0)


@settings(max_examples=80, deadline=None)
@given(ones=st.integers(0, 30), zeros=st.integers(0, 600), limit=st.sampled_from([0.01, 0.03, 0.1, 0.4]))
def test_for_binary_scores_the_bound_is_the_gates_own(ones: int, zeros: int, limit: float) -> None:
    """U < limit exactly when the e-value at the limit has reached 1/alpha."""
    bound = upper_bound(ones + zeros, float(ones), 0.05)
    mixture = Mixture(promotion_bets(limit), 1e300)
    for x in [1.0] * ones + [0.0] * zeros:
        mixture.step(limit - x)
    level = mixture.log10()
    if bound is not None and level is not None and abs(level - math.log10(20.0)) > 1e-6:
        assert (bound < limit) == (level >= math.log10(20.0))


@settings(max_examples=80, deadline=None)
@given(scores=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=300), limit=st.sampled_from([0.1, 0.4, 0.8]))
def test_for_graded_scores_the_bound_never_promises_more_than_the_gate(scores: list[float], limit: float) -> None:
    bound = upper_bound(len(scores), math.fsum(scores), 0.05)
    mixture = Mixture(promotion_bets(limit), 1e300)
    for x in scores:
        mixture.step(limit - x)
    level = mixture.log10()
    assert bound is not None
    assert level is not None
    if bound < limit - 1e-9:
        assert level >= math.log10(20.0) - 1e-9


@given(count=st.integers(1, 10**7), share=st.floats(0.0, 1.0))
def test_the_bound_lies_above_the_mean_and_inside_its_range(count: int, share: float) -> None:
    bound = upper_bound(count, share * count, 0.05)
    assert bound is not None
    assert share - 1e-9 <= bound <= 1.0
