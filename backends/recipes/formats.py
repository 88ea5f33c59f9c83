"""Number formats: bits, layout, and what a scale adds. The words are the emulator's, and more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

WeightFormat = Literal[
    "bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1", "mxfp8", "mxfp4", "nvfp4",
    "int8", "int4", "q5_k_m", "q4_k_m", "q3_k_m", "iq4_xs", "int3", "int2",
]  # fmt: skip
ActivationFormat = Literal[
    "bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1", "mxfp8", "mxfp4", "nvfp4", "int8"
]
KvFormat = Literal["bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "int8", "int4", "nvfp4"]
WeightPer = Literal["tensor", "channel", "group"]
ActivationPer = Literal["tensor", "token"]
KvPer = Literal["one", "tensor", "head", "token", "token-head", "block"]

Family = Literal["16-bit", "fp8", "fp6", "fp4", "int8", "int4", "k-quant"]

SIXTEEN_BIT = ("bf16", "fp16")  # unquantized; one knows the other by its range, not by its size
BLOCKED = ("mxfp8", "mxfp4", "nvfp4")  # their block scales are part of the format


@dataclass(frozen=True, slots=True)
class Format:
    """One number format.

    Units:  bits of one value, and `scale_bits` that its own block scales add per value.
    """

    family: Family
    bits: float
    layout: str
    scale_bits: float = 0.0
    k_quant: bool = False


FORMATS: Mapping[str, Format] = {
    "bf16": Format("16-bit", 16, "8 exponent, 7 mantissa bits: the reference"),
    "fp16": Format("16-bit", 16, "5 exponent, 10 mantissa bits: overflows past 65,504"),
    "fp8-e4m3": Format("fp8", 8, "4, 3: weights and activations"),
    "fp8-e5m2": Format("fp8", 8, "5, 2: gradients, KV"),
    "mxfp8": Format("fp8", 8, "32 values share a power-of-two scale", 8 / 32),
    "fp6-e3m2": Format("fp6", 6, "3, 2"),
    "fp6-e2m3": Format("fp6", 6, "2, 3"),
    "fp4-e2m1": Format("fp4", 4, "2, 1"),
    "mxfp4": Format("fp4", 4, "2, 1; 32 values share a power-of-two scale", 8 / 32),
    "nvfp4": Format("fp4", 4, "2, 1; 16 values share an FP8 scale", 8 / 16),
    "int8": Format("int8", 8, "signed, calibrated"),
    "int4": Format("int4", 4, "signed, weight-only: stored low, computed higher"),
    "int3": Format("int4", 3, "signed, weight-only"),
    "int2": Format("int4", 2, "signed, weight-only"),
    # llama.cpp's mixes, in bits a weight all told.
    "q5_k_m": Format("k-quant", 5.5, "llama.cpp K-quant"),
    "q4_k_m": Format("k-quant", 4.5, "llama.cpp K-quant, the edge default"),
    "iq4_xs": Format("k-quant", 4.25, "llama.cpp IQ-quant, with an importance matrix"),
    "q3_k_m": Format("k-quant", 3.5, "llama.cpp K-quant, usually too lossy"),
}

_SCALE_BITS = 16.0  # a group's scale is stored in 16 bits (llm-compressor's W4A16, AutoAWQ)
_TOKEN_HEAD_BITS = 32.0  # vLLM's per-token-head caches keep one float32 scale per token and head, for K and for V


def family(name: str) -> Family:
    """What a format counts as at the hardware gate."""
    return FORMATS[name].family


def weight_bits(name: str, per: str | None, group: int | None, *, zero_points: bool = False) -> float:
    """Bits that one weight takes with its share of the scales. Scales per tensor or channel are below 0.01 bits: 0."""
    shape = FORMATS[name]
    extra = shape.scale_bits
    if per == "group" and group:
        extra += (_SCALE_BITS + (shape.bits if zero_points else 0.0)) / group
    return shape.bits + extra


def kv_bits(name: str, per: str | None, head_dim: int) -> float:
    """Bits that one cached value takes with its share of the scales."""
    shape = FORMATS[name]
    return shape.bits + shape.scale_bits + (_TOKEN_HEAD_BITS / head_dim if per == "token-head" else 0.0)
