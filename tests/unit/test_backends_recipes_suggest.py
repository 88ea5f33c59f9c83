"""Each row of the recipe table comes out of `suggest`, sound, with its reasons and what it does not buy."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from backends.recipes.check import check
from backends.recipes.reading import parse_recipe
from backends.recipes.recipe import Model
from backends.recipes.suggest import Suggestion, suggest
from backends.recipes.written import as_toml


def _suggest(
    size: str, workload: str, card: str, context: int, concurrency: int, gpus: int | None = None
) -> Suggestion:
    return suggest(Model(size=size), workload, card, context, concurrency, gpus)


ROWS = [
    # size, workload, card, context, concurrency -> weights, activations, cache
    ("70B", "chat", "h200", 16_384, 16, "int4:group128 by awq", "bf16", "bf16"),
    ("70B", "chat", "h200", 131_072, 8, "int4:group128 by awq", "bf16", "fp8-e4m3:head"),
    ("70B", "chat", "b200", 131_072, 8, "mxfp4 by rtn", "mxfp4", "fp8-e4m3:head"),
    ("70B", "batch", "h100", 8192, 64, "fp8-e4m3:channel by rtn", "fp8-e4m3:token", "fp8-e4m3:head"),
    ("4B", "edge", "jetson-orin-nano", 4096, 1, "q4_k_m by gguf", "bf16", "bf16"),
    ("7B", "agent", "l40s", 16_384, 8, "int4:group128 by awq", "bf16", "bf16"),
    ("70B", "agent", "h200", 16_384, 8, "int4:group128 by awq", "bf16", "bf16"),
]


@pytest.mark.parametrize(("size", "workload", "card", "context", "n", "weights", "activations", "cache"), ROWS)
def test_the_recipe_table(
    size: str, workload: str, card: str, context: int, n: int, weights: str, activations: str, cache: str
) -> None:
    found = _suggest(size, workload, card, context, n)
    assert found.recipe.axes() == {"weights": weights, "activations": activations, "kv_cache": cache}
    assert not [one for one in check(found.recipe, found.roof) if one.level == "error"]
    assert {about for about, _ in found.reasons} >= {"weights", "activations", "kv_cache"}
    assert found.not_bought
    assert parse_recipe(tomllib.loads(as_toml(found.recipe))) == found.recipe


EVERY = [
    (size, workload, card)
    for size in ("8B", "70B")
    for workload in ("chat", "agent", "code", "long_context", "batch", "embedding")
    for card in ("a100", "h100", "h200", "l40s", "b200", "rtx-5090")
]


@pytest.mark.parametrize(("size", "workload", "card"), EVERY)
def test_whatever_is_suggested_passes_its_own_check(size: str, workload: str, card: str) -> None:
    """No error, no anomaly, and no kernel that only one arm has."""
    for context in (4096, 131_072):
        found = _suggest(size, workload, card, context, 4)
        spoke = [one for one in check(found.recipe, found.roof) if one.level != "note" and one.rule != "capacity"]
        assert not spoke, (context, spoke)


def test_the_7b_on_one_a100() -> None:
    """No FP8 there: INT4 weights alone, and no arithmetic gained; BF16 would fit too."""
    found = _suggest("7B", "chat", "a100", 8192, 16)
    assert found.recipe.axes() == {"weights": "int4:group128 by awq", "activations": "bf16", "kv_cache": "bf16"}
    assert found.recipe.gpus == 1
    assert any("no FP8" in why for _, why in found.reasons)
    assert any("no arithmetic" in one for one in found.not_bought)
    assert any("BF16 fits too" in one for one in found.not_bought)


def test_h200_chat_at_32_awq_against_fp8() -> None:
    """Decode is memory-bound there, so the fewer bytes win: INT4; FP8's arithmetic pays in prefill."""
    found = _suggest("70B", "chat", "h200", 4096, 32)
    assert found.recipe.axes()["weights"] == "int4:group128 by awq"
    assert found.recipe.axes()["activations"] == "bf16"
    (line,) = [one for one in found.weighed if one.startswith("against FP8")]
    assert "INT4 decodes x1.41 at batch 32 (memory-bound" in line
    assert "FP8 prefills x1.9" in line
    short = _suggest("70B", "chat", "h200", 512, 32)
    assert any("it overtakes at batch" in one for one in short.weighed)


def test_32_long_chats_keep_the_cache_and_say_what_does_not_fit() -> None:
    found = _suggest("70B", "chat", "h200", 16_384, 32)
    assert found.recipe.kv_cache.format == "bf16"
    assert any("17 of 32 fit whole" in why for _, why in found.reasons)
    assert any(one.key == "concurrency" for one in check(found.recipe, found.roof))


def test_a_70b_on_ampere_in_batch_avoids_w8a8() -> None:
    assert _suggest("70B", "batch", "a100", 4096, 8).recipe.weights.format == "int4"
    assert _suggest("72B", "batch", "a100", 4096, 8).recipe.weights.format == "int8"
    small = _suggest("8B", "batch", "a100", 4096, 8).recipe
    assert (small.weights.made_by, small.activations.format) == ("smoothquant", "int8")


def test_an_agents_cache_waits_for_parity() -> None:
    found = _suggest("70B", "agent", "h200", 131_072, 4)
    assert found.recipe.kv_cache.format == "bf16"
    assert any("once tool calls hold parity" in why for _, why in found.reasons)


def test_cards_are_added_only_where_they_must_be() -> None:
    assert _suggest("70B", "chat", "h200", 4096, 8).recipe.gpus == 1
    assert _suggest("405B", "chat", "h100", 4096, 8).recipe.gpus == 4
    assert _suggest("70B", "chat", "h200", 4096, 8, 4).recipe.gpus == 4


def test_the_order_of_proof_is_one_knob_at_a_time() -> None:
    found = _suggest("70B", "batch", "h100", 8192, 64)
    assert [step.split(" ")[0] for step in found.proof] == ["weights", "activations", "kv_cache"]


def test_another_attention_kernel_is_pinned_for_both_arms() -> None:
    found = _suggest("70B", "chat", "b200", 131_072, 8)
    assert found.recipe.attention_backend == "FLASH_ATTN"
    assert any(about == "attention_backend" for about, _ in found.reasons)


def test_a_model_folder(tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "backends" / "emulator" / "model"
    found = suggest(Model(path=shipped), "chat", "l40s", 2048, 4)
    assert found.shape.layers == 6
    assert any("below 7B" in why for _, why in found.reasons)
    assert suggest(Model(path=shipped), "chat", "cpu", 2048, 4).roof is None


def test_a_cache_larger_than_the_weights_is_pressure_even_where_all_fit() -> None:
    found = _suggest("70B", "chat", "h200", 131_072, 2)
    assert found.recipe.kv_cache.format == "fp8-e4m3"
    assert any("larger than all the weights" in why for _, why in found.reasons)
