"""What vLLM serves: quantization schemes by compute capability, KV dtypes by attention backend.

Source:  vLLM 0.32.0, `v1/attention/backends/*` (supported_kv_cache_dtypes and the checks beside it),
`platforms/cuda.py` (the order in which backends are tried), `layers/quantization`; llm-compressor 0.14.
`tests/e2e/test_recipes_vllm.py` holds the lists against the installed vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping

from backends.recipes.formats import SIXTEEN_BIT, Family, family
from backends.recipes.hardware import Card
from backends.recipes.recipe import K_QUANTS, KvCache, Recipe

# --kv-cache-dtype by backend, before the checks of the card.
KV_DTYPES: Mapping[str, frozenset[str]] = {
    "FLASH_ATTN": frozenset({"auto", "float16", "bfloat16", "fp8", "fp8_e4m3"}),
    "FLASHINFER": frozenset(
        {"auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "nvfp4", "nvfp4_4over6"}
    ),
    "TRITON_ATTN": frozenset(
        {
            "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2",
            "int4_per_token_head", "int8_per_token_head", "fp8_per_token_head",
        }
    ),
    "FLEX_ATTENTION": frozenset({"auto", "float16", "bfloat16"}),
    "CPU_ATTN": frozenset({"auto", "fp8", "fp8_e4m3", "fp8_e5m2"}),
}  # fmt: skip

# llm-compressor's minimum compute capability by scheme.
MIN_CAPABILITY: Mapping[str, float] = {
    "W4A16": 7.5, "W8A16": 7.5, "W8A8": 7.5, "W4A8": 7.5, "FP8": 8.9, "FP8_DYNAMIC": 8.9, "W4AFP8": 9.0,
    "NVFP4": 10.0, "NVFP4A16": 10.0, "MXFP4": 10.0, "MXFP4A16": 10.0, "MXFP8": 10.0, "MXFP8A16": 10.0,
}  # fmt: skip

# What vLLM 0.32 does on a card below the minimum: its Marlin kernels keep the storage and compute at 16 bits.
WEIGHT_ONLY_BELOW = ("fp8-e4m3", "mxfp4", "nvfp4")


def kv_dtype(cache: KvCache) -> str | None:
    """The --kv-cache-dtype that a cache is served with; None where vLLM has none."""
    per = cache.granularity
    if cache.format in SIXTEEN_BIT:
        return "auto"
    if cache.format == "nvfp4":
        return "nvfp4"
    if cache.format == "fp8-e4m3":
        return {"one": "fp8_e4m3", "tensor": "fp8_e4m3", "head": "fp8_e4m3", "token-head": "fp8_per_token_head"}.get(
            per or ""
        )
    if cache.format == "fp8-e5m2":
        return "fp8_e5m2" if per in ("one", "tensor") else None
    return f"{cache.format}_per_token_head" if per == "token-head" else None


def refuses(backend: str, cache: KvCache, card: Card) -> str | None:
    """Why an attention backend cannot hold this cache on this card; None if it can."""
    dtype = kv_dtype(cache)
    if dtype is None or dtype not in KV_DTYPES[backend]:
        return f"{backend} has no {dtype or f'{cache.format} per {cache.granularity}'} cache"
    if (card.generation == "cpu") != (backend == "CPU_ATTN"):
        return f"{backend} does not run on {card.label}"
    if backend == "FLASH_ATTN" and dtype.startswith("fp8") and int(card.capability) not in (9, 10):
        return f"FLASH_ATTN holds FP8 only on compute capability 9.x and 10.x; {card.label} has {card.capability:g}"
    if backend == "TRITON_ATTN" and dtype.startswith("fp8") and card.capability < 8.9:
        return f"TRITON_ATTN holds FP8 from compute capability 8.9; {card.label} has {card.capability:g}"
    if cache.granularity == "head" and not (backend == "FLASH_ATTN" and card.capability >= 9.0):
        return f"{backend} reads no scales per head; FLASH_ATTN 3 and 4 do"
    return None


def backends_in_order(card: Card) -> tuple[str, ...]:
    """The attention backends in the order in which vLLM tries them."""
    if card.generation == "cpu":
        return ("CPU_ATTN",)
    if int(card.capability) == 10:
        return ("FLASHINFER", "FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION")
    return ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION")


def backend_for(cache: KvCache, card: Card) -> str | None:
    """The backend that vLLM takes for this cache by itself; None where none holds it."""
    return next((one for one in backends_in_order(card) if refuses(one, cache, card) is None), None)


def scheme(recipe: Recipe) -> str | None:
    """The compressed-tensors scheme that weights and activations make together; None where there is none.

    "BF16" for what is not quantized.
    """
    weights, activations = recipe.weights.format, recipe.activations
    if weights in K_QUANTS:
        return None
    low = activations.format not in SIXTEEN_BIT
    if weights in SIXTEEN_BIT:
        return None if low else "BF16"
    if not low:
        return {
            "int4": "W4A16", "int8": "W8A16", "int3": "W3A16", "int2": "W2A16", "fp8-e4m3": "FP8A16",
            "mxfp4": "MXFP4A16", "nvfp4": "NVFP4A16", "mxfp8": "MXFP8A16",
        }.get(weights)  # fmt: skip
    pair = (weights, activations.format)
    if pair == ("fp8-e4m3", "fp8-e4m3"):
        return "FP8" if activations.granularity == "tensor" else "FP8_DYNAMIC"
    return {
        ("int8", "int8"): "W8A8", ("int4", "int8"): "W4A8", ("int4", "fp8-e4m3"): "W4AFP8",
        ("mxfp4", "mxfp4"): "MXFP4", ("nvfp4", "nvfp4"): "NVFP4", ("mxfp8", "mxfp8"): "MXFP8",
    }.get(pair)  # fmt: skip


def computes_in(recipe: Recipe) -> Family:
    """The family of the matrix products: the activations' where both are low and the card has it, else 16 bits."""
    card, low = recipe.card, family(recipe.activations.format)
    return low if low != "16-bit" and card.native(low) and recipe.weights.format not in SIXTEEN_BIT else "16-bit"
