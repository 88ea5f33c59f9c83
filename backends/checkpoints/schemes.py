"""Number formats as compressed-tensors says them: the arguments of one config group.

Source:  compressed-tensors 0.19, quantization/quant_scheme.py: where a recipe says nothing else, these are its presets
(W4A16, W4A16_ASYM, W8A16, W8A8, FP8, FP8_DYNAMIC, NVFP4, NVFP4A16, MXFP4, MXFP4A16, MXFP8, MXFP8A16, W4AFP8), and
`tests/e2e/test_quantize.py` holds them against the installed ones.
"""

from __future__ import annotations

from typing import Any

from backends.recipes.formats import SIXTEEN_BIT
from backends.recipes.recipe import Activations, KvCache, Weights

_INT_BITS = {"int8": 8, "int4": 4, "int3": 3, "int2": 2}
_MX = {"mxfp4": 4, "mxfp8": 8}
_FP8_SCALE = "float8_e4m3fn"  # as torch names it: NVFP4's block scales
_MX_SCALE = "uint8"  # a power of two, by its exponent


class NoScheme(ValueError):
    """compressed-tensors has no such format; str() says what to take instead."""


def weight_arguments(weights: Weights) -> dict[str, Any]:
    """Raises: NoScheme."""
    name, per, group = weights.format, weights.granularity, weights.group
    if name in _INT_BITS:
        zero_points = weights.made_by == "awq"
        return {"num_bits": _INT_BITS[name], "type": "int", "symmetric": not zero_points, **_strategy(per, group)}
    if name == "fp8-e4m3":
        if per == "group":
            raise NoScheme('FP8 weights have scales per channel or per tensor; per = "channel"')
        return {"num_bits": 8, "type": "float", "symmetric": True, **_strategy(per, None)}
    if name == "nvfp4":
        return _nvfp4()
    if name in _MX:
        return _mx(name)
    raise NoScheme(
        f"llm-compressor has no {name}; it has int8, int4, int3, int2, fp8-e4m3, mxfp8, mxfp4, nvfp4"
        + (" (the block formats are how FP4 is served: mxfp4, nvfp4)" if name == "fp4-e2m1" else "")
    )


def activation_arguments(activations: Activations) -> dict[str, Any] | None:
    """None at 16 bits. Raises: NoScheme."""
    name = activations.format
    if name in SIXTEEN_BIT:
        return None
    if name in ("int8", "fp8-e4m3"):
        kind = "int" if name == "int8" else "float"
        if activations.granularity == "token":
            return {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}
        static = {"strategy": "tensor", "dynamic": False, "observer": "static_minmax"}
        return {"num_bits": 8, "type": kind, "symmetric": True, **static}
    if name == "nvfp4":
        return {**_nvfp4(), "dynamic": "local", "observer": "static_minmax"}
    if name in _MX:
        return {**_mx(name), "dynamic": True}
    raise NoScheme(f"llm-compressor has no {name} activations; it has int8, fp8-e4m3, mxfp8, mxfp4, nvfp4")


def kv_arguments(cache: KvCache) -> dict[str, Any] | None:
    """None where the cache needs nothing of a checkpoint: 16 bits, scale 1.0, or scales found as they come."""
    if cache.format != "fp8-e4m3" or cache.granularity not in ("tensor", "head"):
        return None
    strategy = "tensor" if cache.granularity == "tensor" else "attn_head"
    return {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, "dynamic": False}


def _strategy(per: str | None, group: int | None) -> dict[str, Any]:
    return {"strategy": "group", "group_size": group} if per == "group" else {"strategy": per}


def _nvfp4() -> dict[str, Any]:
    return {
        "num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16,
        "scale_dtype": _FP8_SCALE, "zp_dtype": _FP8_SCALE,
    }  # fmt: skip


def _mx(name: str) -> dict[str, Any]:
    return {
        "num_bits": _MX[name], "type": "float", "symmetric": True, "strategy": "group", "group_size": 32,
        "scale_dtype": _MX_SCALE, "zp_dtype": _MX_SCALE,
    }  # fmt: skip
