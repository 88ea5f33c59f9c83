"""The pseudo distribution: a distribution, and as far off as it says."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from backends.dialect.words import MAX_TOP as TOP
from backends.dialect.words import Step
from backends.scripted.distribution import Drift, step
from backends.scripted.tokens import VOCABULARY, mix


def mass(one: Step) -> float:
    return sum(math.exp(logprob) for _, logprob in one.top)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, VOCABULARY - 1), st.sampled_from([0.0, 0.2, 3.0]))
def test_a_step_is_a_distribution(state: int, token: int, shift: float) -> None:
    one = step(state, token, Drift(shift=shift))
    assert len({candidate for candidate, _ in one.top}) == len(one.top) >= TOP - 1
    assert 0.5 < mass(one) < 1.0
    logprobs = [logprob for _, logprob in one.top]
    assert logprobs == sorted(logprobs, reverse=True)
    assert one.top[one.rank - 1] == (token, one.logprob)


def test_a_token_that_is_not_the_models_choice_ranks_low() -> None:
    wrong = step(7, 65, top=66)
    assert wrong.rank > 1
    assert wrong.logprob < wrong.top[0][1]
    assert wrong.top == step(7, 66).top


def test_a_slip_keeps_what_the_model_nearly_said_in_the_list() -> None:
    for state in range(200):
        wrong = step(mix(state), 65, second=66)
        hair = step(mix(state), 65, second=66, close=True)
        assert {65, 66} <= {token for token, _ in wrong.top}
        assert [token for token, _ in hair.top[:2]] == [65, 66]
        assert hair.top[0][1] - hair.top[1][1] < 0.5
        for one in (wrong, hair):
            assert len({token for token, _ in one.top}) == len(one.top)
            assert 0.5 < mass(one) < 1.0


def divergence(drift: Drift, steps: int = 1_000) -> float:
    total = 0.0
    for place in range(steps):
        ours, theirs = step(mix(place), 65), step(mix(place), 65, drift)
        q = dict(theirs.top)
        total += sum(math.exp(logprob) * (logprob - q[token]) for token, logprob in ours.top)
        total += (1 - mass(ours)) * math.log((1 - mass(ours)) / (1 - mass(theirs)))
    return total / steps


def test_divergence_is_what_the_words_promise() -> None:
    assert divergence(Drift()) == 0.0
    assert 0.001 < divergence(Drift(shift=0.2)) < 0.004
    assert 0.00005 < divergence(Drift(jitter=0.05, salt=3)) < 0.0006
    assert divergence(Drift(shift=3.2)) > 0.3
