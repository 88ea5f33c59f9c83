"""The guide to the quantization methods: what each is for, where it is weak, and whether it must be calibrated.

Source:  precision, "Methods"; the papers are named by their arXiv numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """One row of the guide."""

    does: str
    weak_at: str
    made_by: str
    calibrated: bool
    source: str = ""


METHODS: Mapping[str, MethodFacts] = {
    "none": MethodFacts("nothing: 16 bits", "", "", False),
    "gptq": MethodFacts(
        "rounds layer by layer against the second-order error",
        "activation outliers; the choice of calibration prompts",
        "llm-compressor, GPTQModel",
        True,
        "arXiv 2210.17323",
    ),
    "awq": MethodFacts(
        "protects the ~1 % of channels with large activations by scaling; INT4, group 128",
        "needs calibration like the deployment; weights only",
        "llm-compressor",
        True,
        "arXiv 2306.00978",
    ),
    "smoothquant": MethodFacts(
        "moves activation outliers into the weights; W8A8",
        "below 8 bits",
        "llm-compressor, TensorRT-LLM",
        True,
        "arXiv 2211.10438",
    ),
    "quarot": MethodFacts(
        "spreads outliers by Hadamard rotations; W8A8, W4A8",
        "changes the graph",
        "llm-compressor (transforms)",
        False,
        "arXiv 2404.00456",
    ),
    "spinquant": MethodFacts(
        "learned rotations; the best W4A4; R1 and R2 fold into the weights and serve in plain vLLM",
        "a learning step",
        "llm-compressor",
        True,
        "arXiv 2405.16406",
    ),
    "omniquant": MethodFacts(
        "learned clipping and equivalent transformation",
        "research code: nothing that vLLM serves is made by it",
        "",
        True,
        "arXiv 2308.13137",
    ),
    "gguf": MethodFacts(
        "llama.cpp's K- and IQ-quants: Q4_K_M is the edge default, Q5_K_M above it",
        "the llama.cpp runtime only; Q3_K_* is usually too lossy; IQ4_XS wants an importance matrix",
        "llama.cpp",
        False,
    ),
    "rtn": MethodFacts(
        "rounds to nearest; FP8 with dynamic scales and the block formats need no more", "INT4", "llm-compressor", False
    ),
    "online": MethodFacts(
        "vLLM quantizes at load: fp8_per_tensor, fp8_per_block, fp8_per_channel, int8_per_channel_weight_only, "
        "nvfp4_per_token, mxfp8",
        "no checkpoint that could be hashed",
        "vLLM",
        False,
    ),
}

CALIBRATION_PROMPTS = 256  # *choice*, from the issue: enough for AWQ and GPTQ, minutes to run
ONLINE_FORMATS = ("fp8-e4m3", "int8", "nvfp4", "mxfp8")
ROTATIONS = ("quarot", "spinquant")

_LLAMA_70B = re.compile(r"llama[-_ ]?3(?:\.[13])?[-_ ](?:.*[-_ ])?70b|^70b$", re.IGNORECASE)


def is_llama_3_70b(name: str) -> bool:
    """Whether a name, or the bare size that stands for it, means a Llama 3 at 70B. Source: arXiv 2408.15301."""
    return _LLAMA_70B.search(name) is not None
