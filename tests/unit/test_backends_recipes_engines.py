"""What vLLM serves: schemes by compute capability, KV dtypes by attention backend."""

from __future__ import annotations

import pytest

from backends.recipes.hardware import card_named
from backends.recipes.recipe import KvCache
from backends.recipes.serving import KV_DTYPES, MIN_CAPABILITY, backend_for, kv_dtype, refuses, scheme
from tests.unit.recipe_rig import AWQ, FP8, found, recipe, rules


@pytest.mark.parametrize(
    ("card", "format_", "per", "backend"),
    [
        ("a100", "bf16", None, "FLASH_ATTN"),
        ("b200", "bf16", None, "FLASHINFER"),
        ("h100", "fp8-e4m3", "tensor", "FLASH_ATTN"),
        ("h100", "fp8-e4m3", "head", "FLASH_ATTN"),
        ("b200", "fp8-e4m3", "tensor", "FLASHINFER"),
        ("b200", "fp8-e4m3", "head", "FLASH_ATTN"),
        ("l40s", "fp8-e4m3", "tensor", "FLASHINFER"),
        ("l40s", "fp8-e4m3", "head", None),
        ("l40s", "fp8-e4m3", "token-head", "TRITON_ATTN"),
        ("a100", "fp8-e4m3", "token-head", None),
        ("a100", "fp8-e5m2", "tensor", "FLASHINFER"),
        ("h100", "fp8-e5m2", "tensor", "FLASHINFER"),
        ("a100", "int8", "token-head", "TRITON_ATTN"),
        ("h100", "int4", "token-head", "TRITON_ATTN"),
        ("h100", "int4", "tensor", None),
        ("h100", "int8", "head", None),
        ("b200", "nvfp4", None, "FLASHINFER"),
        ("cpu", "fp8-e4m3", "tensor", "CPU_ATTN"),
        ("cpu", "int8", "token-head", None),
    ],
)
def test_the_backend_that_holds_a_cache(card: str, format_: str, per: str | None, backend: str | None) -> None:
    cache = KvCache.model_validate({"format": format_, "per": per})
    assert backend_for(cache, card_named(card)) == backend


def test_the_lists_agree_with_the_knowledge_page() -> None:
    holds = {dtype: {name for name, held in KV_DTYPES.items() if dtype in held} for dtype in
             ("auto", "fp8_e4m3", "fp8_e5m2", "int4_per_token_head", "fp8_per_token_head", "nvfp4")}  # fmt: skip
    assert holds["auto"] == set(KV_DTYPES)
    assert holds["fp8_e4m3"] == {"FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "CPU_ATTN"}
    assert holds["fp8_e5m2"] == {"FLASHINFER", "TRITON_ATTN", "CPU_ATTN"}
    assert holds["int4_per_token_head"] == holds["fp8_per_token_head"] == {"TRITON_ATTN"}
    assert holds["nvfp4"] == {"FLASHINFER"}
    least = {name: MIN_CAPABILITY[name] for name in ("W4A16", "W8A8", "FP8", "W4AFP8", "NVFP4", "MXFP4", "MXFP8")}
    assert list(least.values()) == [7.5, 7.5, 8.9, 9.0, 10.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("backend", "cache", "told"),
    [
        ("FLASH_ATTN", {"format": "fp8-e5m2"}, "has no fp8_e5m2"),
        ("FLASH_ATTN", {"format": "int4", "per": "token-head"}, "has no int4_per_token_head"),
        ("FLASHINFER", {"format": "fp8-e4m3", "per": "head"}, "no scales per head"),
        ("FLEX_ATTENTION", {"format": "fp8-e4m3"}, "has no fp8_e4m3"),
        ("CPU_ATTN", {}, "does not run on"),
    ],
)
def test_a_named_backend_that_cannot_hold_it_is_refused(backend: str, cache: dict[str, str], told: str) -> None:
    findings = found(recipe(attention_backend=backend, kv_cache=cache))
    (error,) = [one for one in findings if one.key == "attention_backend"]
    assert (error.level, told in error.found) == ("error", True)
    assert "on both arms" in error.fix


def test_a_flash_attention_cache_in_fp8_needs_hopper_or_blackwell() -> None:
    why = refuses("FLASH_ATTN", KvCache(format="fp8-e4m3"), card_named("l40s"))
    assert why is not None
    assert "8.9" in why
    why = refuses("TRITON_ATTN", KvCache(format="fp8-e4m3"), card_named("a100"))
    assert why is not None
    assert "8.9" in why


def test_another_kernel_on_one_arm_is_told() -> None:
    chosen = recipe(hardware="l40s", kv_cache={"format": "fp8-e4m3"})
    (told,) = [one for one in found(chosen) if one.key == "attention_backend"]
    assert told.level == "warning"
    assert "FLASHINFER, at 16 bits FLASH_ATTN" in told.found
    pinned = recipe(hardware="l40s", kv_cache={"format": "fp8-e4m3"}, attention_backend="FLASHINFER")
    assert not [one for one in found(pinned) if one.key == "attention_backend"]
    assert not [one for one in found(recipe(kv_cache={"format": "fp8-e4m3"})) if one.key == "attention_backend"]


def test_a_cache_that_vllm_lacks_is_an_error() -> None:
    for cache in ({"format": "int4"}, {"format": "int8", "per": "head"}, {"format": "fp8-e4m3", "per": "block"}):
        findings = found(recipe(kv_cache=cache))
        assert "vllm-kv" in rules(findings, "error"), cache
        assert not rules(found(recipe(engine="emulator", kv_cache=cache)), "error")
    assert kv_dtype(KvCache(format="fp8-e4m3", per="token-head")) == "fp8_per_token_head"


def test_e5m2_and_an_fp8_checkpoint() -> None:
    findings = found(recipe(weights=FP8, activations=FP8, kv_cache={"format": "fp8-e5m2"}))
    assert any(one.level == "error" and "E5M2" in one.found for one in findings)


@pytest.mark.parametrize(
    ("weights", "activations", "named"),
    [
        ({}, {}, "BF16"),
        (AWQ, {}, "W4A16"),
        ({"format": "int8"}, {}, "W8A16"),
        ({"format": "int8"}, {"format": "int8"}, "W8A8"),
        (AWQ, {"format": "int8"}, "W4A8"),
        (AWQ, FP8, "W4AFP8"),
        (FP8, FP8, "FP8_DYNAMIC"),
        (FP8, {"format": "fp8-e4m3", "per": "tensor"}, "FP8"),
        ({"format": "mxfp4"}, {"format": "mxfp4"}, "MXFP4"),
        ({"format": "nvfp4"}, {}, "NVFP4A16"),
        ({}, FP8, None),
        ({"format": "int8"}, FP8, None),
        ({"format": "fp6-e3m2"}, {}, None),
    ],
)
def test_the_scheme_that_two_axes_make(weights: dict[str, str], activations: dict[str, str], named: str | None) -> None:
    chosen = recipe(hardware="b200", weights=weights, activations=activations)
    assert scheme(chosen) == named
    assert ("vllm-scheme" in rules(found(chosen), "error")) == (named is None)


def test_int4_with_fp8_activations_needs_hopper() -> None:
    assert "vllm-scheme" in rules(found(recipe(hardware="l40s", weights=AWQ, activations=FP8)), "error")
    assert not rules(found(recipe(hardware="h100", weights=AWQ, activations=FP8)), "error")


def test_gguf_goes_with_llama_cpp() -> None:
    for k_quant in ("q4_k_m", "q5_k_m", "iq4_xs", "q3_k_m"):
        weights = {"format": k_quant}
        assert rules(found(recipe("4B", weights=weights)), "error") == {"vllm-scheme"}
        own = found(recipe("4B", engine="llama.cpp", weights=weights))
        assert not rules(own, "error")
        assert ("method-guide" in rules(own, "warning")) == (k_quant == "q3_k_m")
    assert rules(found(recipe("4B", engine="llama.cpp", weights=AWQ)), "error") == {"engine"}
