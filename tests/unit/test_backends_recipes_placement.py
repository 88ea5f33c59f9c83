"""Where the arms stand and what share each has: worked by hand, and the sums that must hold whatever the model."""

from __future__ import annotations

import pytest

from backends.recipes.hardware import CARDS
from backends.recipes.placement import CPU_KV_LEAST, DoesNotFit, Placement, place
from backends.recipes.recipe import Recipe
from backends.recipes.roofline import UTILIZATION, roofline
from backends.recipes.shapes import SIZES
from tests.unit.recipe_rig import AWQ, recipe


def both(chosen: Recipe, cards: tuple[int, ...] | None = None, *, reference_gpus: int | None = None) -> Placement:
    shape, plain = chosen.shape(), chosen.reference()
    if reference_gpus:
        plain = plain.model_copy(update={"gpus": reference_gpus})
    return place({"candidate": (chosen, shape), "reference": (plain, shape)}, cards, None)


def test_one_arm_has_the_whole_card() -> None:
    chosen = recipe("8B")
    alone = place({"candidate": (chosen, chosen.shape())}, None, None)
    assert alone.arms["candidate"].utilization == UTILIZATION
    assert alone.arms["candidate"].cards is None
    assert not alone.shared
    assert alone.findings(chosen.concurrency) == []


def test_cards_of_their_own() -> None:
    found = both(recipe("70B", weights=AWQ), (4, 5, 6), reference_gpus=2)
    assert (found.arms["candidate"].cards, found.arms["reference"].cards) == ((4,), (5, 6))
    assert {placed.utilization for placed in found.arms.values()} == {UTILIZATION}
    assert not found.shared


def test_8b_at_bf16_and_awq_on_one_h100_by_hand() -> None:
    """Llama-3.1-8B, 4,096 tokens: BF16 16.06 GB, AWQ 5.88 GB, 0.54 GB a sequence; 79.1 GiB = 84.93 GB of card."""
    chosen = recipe("8B", weights=AWQ, hardware="h100")
    found = both(chosen)
    assert found.shared
    candidate, reference = found.arms["candidate"], found.arms["reference"]
    assert candidate.utilization is not None
    assert reference.utilization is not None
    need = 16.06e9 + 8 * 0.537e9 + 1.07e9 + 8192 * (2 * 4096 + 3 * 14336) * 2 + 8 * 128_256 * 4
    assert reference.utilization == pytest.approx(need / 84.93e9, abs=0.002)
    assert candidate.utilization == pytest.approx(UTILIZATION - reference.utilization, abs=0.002)
    assert reference.sequences == 8
    assert candidate.sequences > 50


PLACES = [("0.6B", "l40s"), ("8B", "l40s"), ("8B", "h100"), ("14B", "h200"), ("32B", "h200"), ("32B", "b200")]
SHARED = [(*place, context, axes) for place in PLACES for context in (2048, 16_384) for axes in ({}, {"weights": AWQ})]
SHARED.remove(("32B", "h200", 16_384, {}))  # twice 65.5 GB of weights and 4.3 GB a sequence are past 0.92 of 150 GB


@pytest.mark.parametrize(("size", "hardware", "context", "axes"), SHARED)
def test_shares_add_up_and_each_holds_what_is_promised(
    size: str, hardware: str, context: int, axes: dict[str, object]
) -> None:
    chosen = recipe(size, hardware=hardware, context_tokens=context, **axes)
    found = both(chosen)
    given = [placed.utilization or 0.0 for placed in found.arms.values()]
    assert sum(given) <= UTILIZATION + 1e-9
    for side, used in (("candidate", chosen), ("reference", chosen.reference())):
        placed, roof = found.arms[side], roofline(used, chosen.shape())
        assert placed.sequences >= 1
        room = (placed.utilization or 0.0) * CARDS[hardware].memory - roof.weight_bytes - roof.reserved_bytes
        assert room >= placed.sequences * roof.kv_bytes_per_sequence * (1 - 1e-9)


def test_what_does_not_fit_says_by_how_much_and_what_to_take() -> None:
    with pytest.raises(DoesNotFit) as refused:
        both(recipe("70B", weights=AWQ, gpus=2, hardware="h100"))
    for part in ("the candidate needs 0.", "the reference needs 0.", "0.92", "--cards 0,1,2,3", "context_tokens"):
        assert part in str(refused.value)
    with pytest.raises(DoesNotFit, match=r"the reference does not fit on H200.*--reference-gpus"):
        both(recipe("70B", weights=AWQ))
    with pytest.raises(DoesNotFit, match="beside each other"):
        both(recipe("32B", context_tokens=16_384))
    with pytest.raises(DoesNotFit, match="takes 4 cards, and --cards names 2"):
        both(recipe("70B", weights=AWQ, gpus=4), (0, 1))


def test_sharing_costs_sequences_and_it_is_said() -> None:
    found = both(recipe("8B", weights=AWQ, hardware="l40s", context_tokens=8192, concurrency=64))
    (warning,) = found.findings(64)
    assert "not 64" in warning.found
    assert found.findings(1) == []
    awq = recipe("70B", weights=AWQ, context_tokens=65_536, concurrency=32)
    apart = place({"candidate": (awq, awq.shape())}, None, None)
    assert "an arm holds 4 whole sequences, not 32" in apart.findings(32)[0].found


def test_on_a_cpu_the_cache_is_what_the_concurrency_needs() -> None:
    chosen = recipe("0.6B", hardware="cpu", context_tokens=4096, concurrency=8)
    shape = SIZES["0.6B"]
    placed = both(chosen).arms["candidate"]
    # 33 blocks of 128 tokens (one is kept empty), 2 x 28 x 8 x 128 values of two bytes a token, 8 sequences
    assert placed.kv_bytes == 33 * 128 * 2 * shape.layers * 8 * 128 * 2 * 8
    assert placed.utilization is None
    small = recipe("0.6B", hardware="cpu", context_tokens=128, concurrency=1)
    assert both(small).arms["candidate"].kv_bytes == CPU_KV_LEAST


def test_a_cpu_with_too_little_memory_is_refused_with_both_needs() -> None:
    chosen = recipe("0.6B", hardware="cpu", context_tokens=32_768, concurrency=8)
    arms = {"candidate": (chosen, chosen.shape()), "reference": (chosen.reference(), chosen.shape())}
    with pytest.raises(
        DoesNotFit, match=r"the candidate needs 3\d\.\d GiB and the reference needs .* has 20\.0 GiB free"
    ):
        place(arms, None, 20 * 2**30)
    with pytest.raises(DoesNotFit, match="the recipe's hardware is a CPU"):
        place(arms, (0, 1), None)
    assert place(arms, None, 200 * 2**30).arms.keys() == arms.keys()
