"""The next token and its logprobs: by hand, by seed, by frequency."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.dialect.ask import Refused
from backends.emulator.sampling import Sampling, read_sampling, steps_of

LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -1.0], np.float32)


def drawn(sampling: Sampling, count: int = 4_000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    picks = [sampling.choose(LOGITS, (), [], rng) for _ in range(count)]
    return np.bincount(picks, minlength=len(LOGITS)) / count


def test_greedy_takes_the_first_of_equals() -> None:
    assert Sampling().choose(LOGITS, (), [], np.random.default_rng()) == 1


def test_equal_seeds_draw_equal_tokens() -> None:
    wild = Sampling(temperature=1.5)
    sequences = []
    for seed in (7, 7, 8):
        rng = np.random.default_rng(seed)
        sequences.append([wild.choose(LOGITS, (), [], rng) for _ in range(30)])
    assert sequences[0] == sequences[1] != sequences[2]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(temperature: float) -> None:
    odds = np.exp(LOGITS / temperature)
    np.testing.assert_allclose(drawn(Sampling(temperature=temperature)), odds / odds.sum(), atol=0.03)


def test_cuts() -> None:
    kept = {name: set(np.flatnonzero(drawn(cut)).tolist()) for name, cut in {
        "top_k": Sampling(temperature=1.0, top_k=2),
        "top_p": Sampling(temperature=1.0, top_p=0.5),
        "min_p": Sampling(temperature=1.0, min_p=0.2),
        "top_k of all": Sampling(temperature=3.0, top_k=99),
    }.items()}  # fmt: skip
    assert kept == {"top_k": {1, 3}, "top_p": {1, 3}, "min_p": {1, 2, 3}, "top_k of all": {0, 1, 2, 3, 4}}


def test_penalties_and_bias() -> None:
    rng = np.random.default_rng()
    assert Sampling(presence=0.5).choose(LOGITS, (), [1], rng) == 3
    assert Sampling(frequency=0.5).choose(LOGITS, (), [1, 3, 3, 1, 3], rng) == 1
    assert Sampling(frequency=0.8).choose(LOGITS, (), [1, 3, 3, 1, 3], rng) == 2
    assert Sampling(repetition=2.0).choose(LOGITS, (1,), [3], rng) == 2
    assert Sampling(bias={4: 10.0}).choose(LOGITS, (), [], rng) == 4
    assert Sampling(temperature=1.0, bias={4: 100.0}).choose(LOGITS, (), [], rng) == 4


def test_logprobs_are_the_raw_ones_with_vllm_s_rank() -> None:
    (step,) = steps_of(LOGITS[None], (3,), 3)
    wanted = LOGITS - np.log(np.exp(LOGITS).sum())
    assert step.logprob == pytest.approx(wanted[3], abs=1e-6)
    assert step.rank == 2  # equal logits count
    assert [token for token, _ in step.top] == [1, 3, 2]
    assert [value for _, value in step.top] == pytest.approx([wanted[1], wanted[3], wanted[2]], abs=1e-6)
    (bare,) = steps_of(LOGITS[None], (4,), 0)
    assert (bare.rank, bare.top) == (5, ())


@pytest.mark.parametrize(
    "body",
    [
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_p": "x"},
        {"min_p": -0.1},
        {"top_k": -2},
        {"top_k": 1.5},
        {"presence_penalty": 3},
        {"repetition_penalty": 0},
        {"logit_bias": {"a": 1}},
        {"logit_bias": {"5": 1}},
        {"logit_bias": [1]},
        {"use_beam_search": True},
        {"best_of": 3},
    ],
)
def test_what_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        read_sampling(body, 1.0, 5)
    assert caught.value.status == 400


def test_what_is_read() -> None:
    body = {"top_p": 0.9, "top_k": 4, "min_p": 0.1, "presence_penalty": 1, "logit_bias": {"3": -500}}
    assert read_sampling(body, 0.7, 5) == Sampling(0.7, 0.9, 4, 0.1, 1.0, 0.0, 1.0, {3: -100.0})
    assert read_sampling({"top_k": -1, "best_of": 1}, 0.0, 5).plain
