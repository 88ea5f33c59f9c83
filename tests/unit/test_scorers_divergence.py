"""The arithmetic of one step, against full distributions where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.divergence import FLOOR, compare, joined_steps
from scorers.grid import Floats, TokenGrid, forced_grid


def grid(*steps: dict[int, float]) -> TokenGrid:
    """Lists of id -> probability."""
    return forced_grid([{f"token_id:{i}": math.log(p) for i, p in step.items()} for step in steps])


def top(full: Floats, k: int) -> dict[int, float]:
    order = np.argsort(-full, kind="stable")[:k]
    return {int(i): float(full[i]) for i in order}


def kl(p: Floats, q: Floats) -> float:
    return float(np.sum(p * np.log(p / q)))


weights = st.lists(st.floats(1e-4, 1.0), min_size=12, max_size=12).map(lambda w: np.array(w) / sum(w))


@settings(max_examples=300, deadline=None)
@given(weights, weights, st.integers(1, 12), st.integers(1, 12))
def test_bucketed_kl_never_exceeds_the_true_kl(p: Floats, q: Floats, k_p: int, k_q: int) -> None:
    steps = compare(grid(top(p, k_p)), grid(top(q, k_q)))
    assert 0.0 <= steps.kl[0] <= kl(p, q) + 1e-9
    assert 0.0 <= steps.tv[0] <= 0.5 * np.abs(p - q).sum() + 1e-9
    assert 0.0 <= steps.tv[0] <= 1.0
    assert 0.0 <= steps.tail[0] <= 1.0


@settings(max_examples=100, deadline=None)
@given(weights, weights)
def test_with_every_token_known_it_is_the_true_kl(p: Floats, q: Floats) -> None:
    steps = compare(grid(top(p, 12)), grid(top(q, 12)))
    assert steps.kl[0] == pytest.approx(kl(p, q), abs=1e-9)
    assert steps.tv[0] == pytest.approx(0.5 * np.abs(p - q).sum(), abs=1e-9)
    assert steps.tail[0] <= 1e-9


@settings(max_examples=100, deadline=None)
@given(weights, weights, st.integers(1, 11))
def test_it_grows_with_what_is_known(p: Floats, q: Floats, k: int) -> None:
    order = np.argsort(-p)
    few = {int(i): float(p[i]) for i in order[:k]}
    more = {int(i): float(p[i]) for i in order[: k + 1]}
    other = grid(top(q, 12))
    assert compare(grid(few), other).kl[0] <= compare(grid(more), other).kl[0] + 1e-9


@settings(max_examples=100, deadline=None)
@given(weights, st.integers(1, 12))
def test_a_distribution_is_no_distance_from_itself(p: Floats, k: int) -> None:
    steps = compare(grid(top(p, k)), grid(top(p, k)))
    assert (steps.kl[0], steps.tv[0], steps.disagree[0]) == (0.0, 0.0, 0.0)


@settings(max_examples=100, deadline=None)
@given(weights, weights, st.integers(1, 12), st.permutations(range(12)))
def test_the_order_of_a_list_means_nothing(p: Floats, q: Floats, k: int, order: list[int]) -> None:
    listed = top(p, 12)
    shuffled = {i: listed[i] for i in order}
    other = grid(top(q, k))
    one, two = compare(grid(listed), other), compare(grid(shuffled), other)
    # Another order sums otherwise: 12 roundings of 1.1e-16, of a tail of 8e-6 at least (the lowest of the weights).
    assert one.kl[0] == pytest.approx(two.kl[0], abs=2e-10)
    assert one.disagree[0] == two.disagree[0]


def test_known_numbers() -> None:
    p, q = grid({1: 0.7, 2: 0.2}), grid({1: 0.6, 3: 0.3})
    steps = compare(p, q)  # token 1 is known to both: buckets 0.3 and 0.4
    assert steps.kl[0] == pytest.approx(0.7 * math.log(0.7 / 0.6) + 0.3 * math.log(0.3 / 0.4))
    assert steps.tv[0] == pytest.approx(0.1)
    assert steps.tail[0] == pytest.approx(0.3)
    assert steps.disagree[0] == 0.0


def test_dropping_the_tail_or_renormalising_would_be_wrong() -> None:
    """The two common mistakes give other numbers here: negative, and above the true KL."""
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.6, 0.1, 0.3])
    steps = compare(grid({0: 0.5}), grid({0: 0.6}))
    without_tail = 0.5 * math.log(0.5 / 0.6)
    assert without_tail < 0 < steps.kl[0] <= kl(p, q)


def test_nothing_in_common_leaves_all_in_the_bucket() -> None:
    steps = compare(grid({1: 0.9}), grid({2: 0.9}))
    assert (steps.kl[0], steps.tv[0], steps.tail[0], steps.disagree[0]) == (0.0, 0.0, 1.0, 1.0)


def test_ties_for_the_top_are_no_disagreement() -> None:
    assert compare(grid({1: 0.4, 2: 0.4}), grid({2: 0.5, 1: 0.3})).disagree[0] == 0.0
    assert compare(grid({1: 0.5, 2: 0.4}), grid({2: 0.5, 1: 0.3})).disagree[0] == 1.0


def test_impossible_tokens_are_clamped_and_counted() -> None:
    """vLLM writes -9999 for minus infinity."""
    q = forced_grid([{"token_id:1": -9999.0, "token_id:2": 0.0}])
    steps = compare(grid({1: 0.5, 2: 0.5}), q)
    assert math.isfinite(steps.kl[0])
    assert steps.kl[0] == pytest.approx(0.5 * math.log(0.5 / FLOOR) + 0.5 * math.log(0.5), rel=1e-6)
    assert steps.clamped == 3  # one logprob, and both tails are empty


def test_masses_above_one_do_no_harm() -> None:
    p = forced_grid([{"token_id:1": 1e-9, "token_id:2": -20.0}])
    steps = compare(p, p)
    assert (steps.kl[0], steps.tv[0]) == (0.0, 0.0)


def test_short_rows_are_padding_and_no_token() -> None:
    steps = compare(grid({1: 0.5, 2: 0.5}, {1: 0.9}), grid({1: 0.9}, {1: 0.5, 2: 0.5}))
    assert steps.kl[1] == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert steps.clamped == 0  # padding counts for nothing
    assert len(joined_steps([steps, steps])) == 4


def test_no_steps_and_no_lists() -> None:
    empty = forced_grid([])
    assert len(compare(empty, empty)) == 0
    bare = forced_grid([{}])
    assert (compare(bare, grid({1: 1.0})).kl[0], compare(bare, bare).tail[0]) == (0.0, 1.0)
    assert len(joined_steps([])) == 0
