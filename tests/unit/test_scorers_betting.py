"""The bets are fair at the null, exactly; and products with exponents keep what a float64 would lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from fractions import Fraction
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.betting import (
    Mixture,
    WideMixture,
    contrast_bets,
    promotion_bets,
    rollback_bets,
    unbounded_bets,
)

NEVER = 1e300  # a threshold that keeps a mixture playing
LENGTH = 14
LIMITS = (0.01, 0.03, 0.1, 0.5, 0.9)


def fractions_of(bets: Sequence[float], payoff: Fraction) -> list[Fraction]:
    return [1 + Fraction(bet) * payoff for bet in bets]


def expectation(bets: Sequence[float], limit: float, direction: int) -> Fraction:
    """Sum of P(x) E(x) over all binary sequences of LENGTH at the budget, in exact arithmetic of the float bets.

    All 2**14 sequences, gathered by their number of mismatches: products do not depend on the order.
    """
    at = Fraction(limit)
    match = fractions_of(bets, direction * (0 - at))
    mismatch = fractions_of(bets, direction * (1 - at))
    total = Fraction(0)
    for ones in range(LENGTH + 1):
        weight = math.comb(LENGTH, ones) * at**ones * (1 - at) ** (LENGTH - ones)
        value = sum((a**ones * b ** (LENGTH - ones) for a, b in zip(mismatch, match, strict=True)), Fraction(0))
        total += weight * value / len(bets)
    return total


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(("bets", "direction"), [(promotion_bets, -1), (rollback_bets, 1)])
def test_the_wealth_is_fair_at_the_budget(
    bets: Callable[[float], tuple[float, ...]], direction: int, limit: float
) -> None:
    assert expectation(bets(limit), limit, direction) == 1


@pytest.mark.parametrize("limit", [0.03, 0.5])
@pytest.mark.parametrize(("bets", "sign"), [(promotion_bets, -1.0), (rollback_bets, 1.0)])
@pytest.mark.parametrize("threshold", [NEVER, 20.0])
def test_every_binary_sequence_played_through_the_mixture_is_fair(
    bets: Callable[[float], tuple[float, ...]], sign: float, limit: float, threshold: float
) -> None:
    """The code, not the formula: 2**14 sequences by depth-first play; with a threshold, of the stopped process."""
    terms: list[float] = []

    def play(mixture: Mixture, depth: int, chance: float) -> None:
        if depth == LENGTH:
            level = mixture.log10()
            terms.append(0.0 if level is None else chance * 10.0**level)
            return
        for x, p in ((0.0, 1.0 - limit), (1.0, limit)):
            branch = copy(mixture)
            branch.step(sign * (x - limit))
            play(branch, depth + 1, chance * p)

    play(Mixture(bets(limit), threshold), 0, 1.0)
    assert len(terms) == 2**LENGTH
    assert math.fsum(terms) == pytest.approx(1.0, abs=1e-9)


def chance_to_cross(bets: Sequence[float], sign: float, limit: float, threshold: float) -> float:
    """The probability that the threshold is ever reached within LENGTH payoffs at the budget."""
    crossed = []
    for sequence in product((0.0, 1.0), repeat=LENGTH):
        mixture = Mixture(bets, threshold)
        if any(mixture.step(sign * (x - limit)) for x in sequence):
            ones = sum(sequence)
            crossed.append(limit**ones * (1.0 - limit) ** (LENGTH - ones))
    return math.fsum(crossed)


@pytest.mark.parametrize(("bets", "sign", "limit"), [(promotion_bets, -1.0, 0.3), (rollback_bets, 1.0, 0.05)])
def test_villes_inequality_holds_for_every_look(
    bets: Callable[[float], tuple[float, ...]], sign: float, limit: float
) -> None:
    for threshold in (2.0, 5.0, 20.0):
        chance = chance_to_cross(bets(limit), sign, limit, threshold)
        assert 0.0 < chance <= 1.0 / threshold


@pytest.mark.parametrize(("multiple", "slack"), [(3.0, 0.01), (1.0, 0.2), (10.0, 0.001)])
def test_the_contrast_is_fair_where_k_n_plus_eps_equals_x(multiple: float, slack: float) -> None:
    """All sequences of 14 payoffs, of the two values eps - 1 and k + eps, at a mean payoff of exactly 0."""
    low, high = Fraction(slack) - 1, Fraction(multiple) + Fraction(slack)
    chance = -low / (high - low)  # of the high payoff
    bets = contrast_bets(slack)
    total = Fraction(0)
    for ups in range(LENGTH + 1):
        weight = math.comb(LENGTH, ups) * chance**ups * (1 - chance) ** (LENGTH - ups)
        up, down = fractions_of(bets, high), fractions_of(bets, low)
        total += weight * sum((a**ups * b ** (LENGTH - ups) for a, b in zip(up, down, strict=True)), Fraction(0))
    assert total / len(bets) == 1
    assert all(1.0 + bet * (slack - 1.0) > 0.0 for bet in bets)


@pytest.mark.parametrize("threshold", [2.0, 20.0])
def test_the_contrast_crosses_no_more_often_than_promised(threshold: float) -> None:
    multiple, slack = 3.0, 0.01
    low, high = slack - 1.0, multiple + slack
    chance = -low / (high - low)
    crossed = []
    for sequence in product((low, high), repeat=LENGTH):
        mixture = WideMixture(contrast_bets(slack), threshold)
        if any(mixture.step(payoff) for payoff in sequence):
            ups = sequence.count(high)
            crossed.append(chance**ups * (1.0 - chance) ** (LENGTH - ups))
    assert 0.0 < math.fsum(crossed) <= 1.0 / threshold


def test_the_grids_are_metrologys() -> None:
    limit = 0.03
    assert promotion_bets(limit) == pytest.approx(
        [0.999 / 0.97, *((0.03 - 0.03 * j / 6) / (0.03 * 0.97) for j in range(1, 6))]
    )
    assert rollback_bets(limit) == pytest.approx([(m * 0.03 - 0.03) / (0.03 * 0.97) for m in (1.5, 2, 3, 5, 10)])
    wide = contrast_bets(0.01)
    assert (wide[0], wide[-1]) == pytest.approx((0.002, 0.9))
    steps = [b / a for a, b in pairwise(wide)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert max(unbounded_bets(0.5)) <= 1.0 / 0.5


@given(limit=st.floats(1e-6, 1.0 - 1e-6), x=st.floats(0.0, 1.0))
def test_no_factor_is_ever_negative(limit: float, x: float) -> None:
    assert all(1.0 + bet * (limit - x) >= 0.0 for bet in promotion_bets(limit))
    assert all(1.0 + bet * (x - limit) >= 0.0 for bet in rollback_bets(limit))
    assert all(1.0 + bet * (x - limit) >= 0.0 for bet in unbounded_bets(limit))


def test_a_ruined_mixture_is_zero_and_not_nan() -> None:
    mixture = Mixture(rollback_bets(0.8), 20.0)  # every target is capped at 1: a match takes everything
    mixture.step(0.0 - 0.8)
    assert mixture.log10() is None
    assert not any(mixture.step(1.0 - 0.8) for _ in range(100))
    assert mixture.log10() is None


@settings(max_examples=60, deadline=None)
@given(
    limit=st.sampled_from(LIMITS),
    sequence=st.lists(st.floats(0.0, 1.0) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=200),
)
def test_log10_is_the_logarithm_of_the_mean_product(limit: float, sequence: list[float]) -> None:
    mixture = Mixture(promotion_bets(limit), NEVER)
    exact = [Fraction(1)] * 6
    for x in sequence:
        mixture.step(limit - x)
        exact = [
            w * (1 + Fraction(bet) * Fraction(limit - x)) for w, bet in zip(exact, promotion_bets(limit), strict=True)
        ]
    mean = sum(exact, Fraction(0)) / 6
    level = mixture.log10()
    assert level is not None
    expected = math.log10(mean.numerator) - math.log10(mean.denominator)
    assert level == pytest.approx(expected, abs=1e-9)


def test_far_below_a_float64_nothing_is_lost() -> None:
    """Ruin by thousands of powers of ten, then rise: each bet keeps its own magnitude."""
    limit, ruin, rise = 0.5, 60_000, 60_000
    bets = promotion_bets(limit)
    mixture = Mixture(bets, NEVER)
    for _ in range(ruin):
        mixture.step(limit - 1.0)
    for _ in range(rise):
        mixture.step(limit)
    logs = [ruin * math.log1p(bet * (limit - 1.0)) + rise * math.log1p(bet * limit) for bet in bets]
    top = max(logs)
    expected = (top + math.log(math.fsum(math.exp(v - top) for v in logs)) - math.log(6)) / math.log(10.0)
    level = mixture.log10()
    assert level is not None
    assert expected < -500.0
    assert level == pytest.approx(expected, rel=1e-9)


def test_a_mixture_that_came_back_from_far_below_still_crosses_where_it_should() -> None:
    limit, ruin = 0.5, 3_000
    bets = promotion_bets(limit)
    mixture = Mixture(bets, 20.0)
    for _ in range(ruin):
        assert not mixture.step(limit - 1.0)
    crossed = next(n for n in range(1, 100_000) if mixture.step(limit))
    goal = math.log(6 * 20.0)

    def wealth(matches: int) -> float:
        logs = [ruin * math.log1p(bet * (limit - 1.0)) + matches * math.log1p(bet * limit) for bet in bets]
        top = max(logs)
        return top + math.log(math.fsum(math.exp(v - top) for v in logs))

    assert wealth(crossed) >= goal - 1e-9
    assert wealth(crossed - 1) < goal + 1e-9


def test_a_crossed_mixture_rests() -> None:
    mixture = Mixture(promotion_bets(0.5), 20.0)
    crossings = [mixture.step(0.5) for _ in range(50)]
    assert crossings.count(True) == 1
    level = mixture.log10()
    assert level is not None
    assert level >= math.log10(20.0)
    mixture.step(-0.5)
    assert mixture.log10() == level


@settings(max_examples=40, deadline=None)
@given(sequence=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=150), cut=st.integers(0, 149))
def test_a_restored_mixture_goes_on_to_the_last_bit(sequence: list[float], cut: int) -> None:
    whole, first = Mixture(rollback_bets(0.05), 1e6), Mixture(rollback_bets(0.05), 1e6)
    for x in sequence:
        whole.step(x - 0.05)
    for x in sequence[:cut]:
        first.step(x - 0.05)
    second = Mixture(rollback_bets(0.05), 1e6)
    second.restore(first.to_json())
    for x in sequence[cut:]:
        second.step(x - 0.05)
    assert second.to_json() == whole.to_json()


def test_more_bets_than_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Mixture([0.1] * 7, 20.0)
    with pytest.raises(ValueError, match="12 bets"):
        WideMixture(contrast_bets(0.01), 20.0).restore(Mixture([0.1], 20.0).to_json())
