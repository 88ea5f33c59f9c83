"""The emulator beside real engines on the same weights: vLLM and transformers at BF16, a W4A16 checkpoint in vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from backends.emulator.checkpoint import Tensors
from backends.emulator.formats import Floats, bf16
from backends.emulator.recipes import parsed
from backends.emulator.weights import stored
from scorers.divergence import compare
from tests.e2e import agreement
from tests.e2e.agreement import Reply
from tests.e2e.conftest import MODEL_NAME
from tests.e2e.engines import MODEL, WORK, Engine
from tests.e2e.w4a16 import unpacked

SAME = 198  # of 200: issue 4's 99 %
TEXTS = 30  # *choice*: 14,000 tokens, whose mean KL stands to a few percent
LIKELY = -8.0  # nats: rarer tokens decide nothing, and the engines list different ones of them
NEARER = 0.8  # *choice*: the medians' ratio is 0.65; with the norms' or the residual's rounding elsewhere 0.9 and more
_FIGURES: dict[str, Any] = {}


@dataclass(frozen=True)
class Gaps:
    """How far logprobs are from vLLM's. Units: nats."""

    median: float
    mean: float
    p99: float
    largest: float
    count: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Gaps:
        gaps = np.array([abs(one - other) for one, other in pairs if one > LIKELY])
        return cls(*(float(np.quantile(gaps, 0.5)), float(gaps.mean()), float(np.quantile(gaps, 0.99))),
                   float(gaps.max()), len(gaps))  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    """Keeps what was measured beside the engines' logs."""
    yield
    WORK.mkdir(exist_ok=True)
    (WORK / "agreement.json").write_text(json.dumps(_FIGURES, indent=1) + "\n")


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """The url of an emulator at BF16, a process of its own."""
    argv = [sys.executable, "-m", "backends.emulator", "--recipe", "bf16", "--served-model-name", MODEL_NAME]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()


@pytest.fixture(scope="module")
def vllm_replies(engines: dict[str, Engine]) -> list[Reply]:
    return agreement.replies_of(engines["reference"].url, MODEL_NAME, agreement.prompts())


@pytest.fixture(scope="module")
def texts(vllm_replies: list[Reply]) -> list[list[int]]:
    """Tool prompts with the reply that vLLM gave, as token ids."""
    return [one.prompt + one.tokens for one in vllm_replies if len(one.prompt) > 150][:TEXTS]


@pytest.fixture(scope="module")
def vllm_lists(engines: dict[str, Engine], texts: list[list[int]]) -> dict[str, list[list[dict[int, float]]]]:
    """vLLM's lists at every token of the texts, by arm."""
    return {arm: agreement.texts_scored_by(one.url, MODEL_NAME, texts) for arm, one in engines.items()}


@pytest.fixture(scope="module")
def transformers_say(
    vllm_replies: list[Reply], texts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Floats], list[Floats]]:
    """transformers' logprobs at each token of vLLM's replies, and of the texts."""
    said = [(one.prompt, one.tokens) for one in vllm_replies] + [(ids[:1], ids[1:]) for ids in texts]
    scored = agreement.by_transformers(said, tmp_path_factory.mktemp("transformers"))
    return scored[: len(vllm_replies)], scored[len(vllm_replies) :]


@cache
def _here(recipe: str, texts: tuple[tuple[int, ...], ...]) -> list[Floats]:
    return list(agreement.texts_scored_here(recipe, texts))


def here(recipe: str, texts: list[list[int]]) -> list[Floats]:
    """The emulator's logprobs of the texts under a recipe."""
    return _here(recipe, tuple(map(tuple, texts)))


def test_greedy_replies_are_vllms(emulator: str, vllm_replies: list[Reply]) -> None:
    """The same prompt tokens for all 200, and the same reply tokens for 198 of them or more."""
    ours = agreement.replies_of(emulator, MODEL_NAME, agreement.prompts())
    assert [one.prompt for one in ours] == [one.prompt for one in vllm_replies]
    same = sum(one.tokens == other.tokens for one, other in zip(ours, vllm_replies, strict=True))
    _FIGURES["greedy_same_as_vllm"] = {"replies": same, "prompts": len(ours)}
    assert len(ours) == 200
    assert same >= SAME


def test_greedy_replies_are_transformers(
    vllm_replies: list[Reply], transformers_say: tuple[list[Floats], list[Floats]]
) -> None:
    """transformers would say each token of the replies too. It reads them in one go: as greedy as saying them."""
    tops = [logprobs.argmax(-1).tolist() for logprobs in transformers_say[0]]
    same = sum(top == one.tokens for top, one in zip(tops, vllm_replies, strict=True))
    _FIGURES["transformers_same_as_vllm"] = {"replies": same, "prompts": len(tops)}
    assert same >= SAME


def test_logprobs_are_as_near_to_vllms_as_those_of_transformers(
    texts: list[list[int]],
    vllm_lists: dict[str, list[list[dict[int, float]]]],
    transformers_say: tuple[list[Floats], list[Floats]],
) -> None:
    """BF16 rounding, defined by what two engines of the same weights differ by: the emulator is no farther from vLLM
    than transformers is, in the mean and the last percent, and nearer in the median: it rounds where vLLM rounds."""
    lists = vllm_lists["reference"]
    ours, theirs = (
        Gaps.of([pair for one, step in zip(side, lists, strict=True) for pair in agreement.lists_at(one, step)])
        for side in (here("bf16", texts), transformers_say[1])
    )
    _FIGURES["logprob_gaps_to_vllm"] = {"emulator": ours.__dict__, "transformers": theirs.__dict__}
    assert ours.count > 50_000
    assert ours.median <= NEARER * theirs.median
    assert ours.mean <= theirs.mean
    assert ours.p99 <= theirs.p99


def test_the_weights_are_llm_compressors(engines: dict[str, Engine]) -> None:
    """Every number of the W4A16 checkpoint, unpacked to BF16 as kernels do, is the emulator's own."""
    tensors, equal, count = Tensors(MODEL), 0, 0
    for name, matrix in unpacked(WORK / "w4a16").items():
        own = stored(tensors.take(name, matrix.shape), parsed("int4-weights").weights)
        equal += int((own == bf16(matrix)).sum())
        count += matrix.size
    _FIGURES["w4a16_weights"] = {"equal": equal, "count": count}
    assert count == 6 * 589_824  # every linear layer of the six
    assert equal >= 0.999 * count


def test_int4_costs_what_it_costs_in_vllm(
    texts: list[list[int]], vllm_lists: dict[str, list[list[dict[int, float]]]]
) -> None:
    """KL(BF16 || W4A16) of the two vLLM servers and of the emulator, on the same texts: within a factor of two."""
    served = [
        compare(agreement.grid_of(one, ids[1:]), agreement.grid_of(other, ids[1:])).kl
        for one, other, ids in zip(vllm_lists["reference"], vllm_lists["candidate"], texts, strict=True)
    ]
    emulated = [
        compare(*(agreement.grid_of(agreement.top_lists(side, ids[1:]), ids[1:]) for side in (one, other))).kl
        for one, other, ids in zip(here("bf16", texts), here("int4-weights", texts), texts, strict=True)
    ]
    theirs, ours = (float(np.concatenate(one).mean()) for one in (served, emulated))
    _FIGURES["int4_kl_nats"] = {"vllm": theirs, "emulator": ours, "tokens": sum(map(len, served))}
    assert theirs > 1e-4
    assert 0.5 < ours / theirs < 2.0
