"""A recipe as the work of a tool: llm-compressor's modifiers with their arguments, or why there is none.

What the recipe's words stand for where the tool has a choice is written here once, and each plan says it in `notes`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from backends.checkpoints.schemes import NoScheme, activation_arguments, kv_arguments, weight_arguments
from backends.recipes.formats import SIXTEEN_BIT
from backends.recipes.recipe import K_QUANTS, Recipe
from backends.recipes.serving import kv_dtype, scheme

Tool = Literal["llmcompressor", "autoawq", "llama.cpp"]

SMOOTHING = 0.5  # the paper's alpha (arXiv 2211.10438, 5.1), and llm-compressor's default
DAMPENING = 0.01  # GPTQ's (arXiv 2210.17323, 3.3), and llm-compressor's default


class PlanError(ValueError):
    """No tool here makes this recipe's checkpoint. `problems` has one line each: the key, what is wrong, the fix."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Modifier:
    """One step: a class of llm-compressor, and its arguments, JSON-ready."""

    name: str
    arguments: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "arguments": dict(self.arguments)}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done, in order, whether it needs prompts, and what should be known about it."""

    tool: Tool
    modifiers: tuple[Modifier, ...]
    calibrated: bool
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "tool": self.tool, "modifiers": [one.as_dict() for one in self.modifiers],
            "calibrated": self.calibrated, "notes": list(self.notes),
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """SHA-256 of what is done, in hex; notes are words."""
        told = {key: value for key, value in self.as_dict().items() if key != "notes"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def plan(recipe: Recipe, engine: Tool | None = None) -> Plan:
    """What makes the recipe's checkpoint. `engine` asks for AutoAWQ instead of llm-compressor.

    Raises:  PlanError with every reason why nothing here does.
    """
    if recipe.weights.format in K_QUANTS:
        return _gguf(recipe)
    if engine == "autoawq":
        return _autoawq(recipe)
    problems = [*_impossible(recipe)]
    if problems:
        raise PlanError(problems)
    try:
        return _llmcompressor(recipe)
    except NoScheme as error:
        raise PlanError([f"weights or activations: {error}"]) from None


def _llmcompressor(recipe: Recipe) -> Plan:
    ignored = list(recipe.weights.ignored_layers)
    rounding: dict[str, Any] = {"ignore": ignored}
    low = activation_arguments(recipe.activations)
    if recipe.weights.format not in SIXTEEN_BIT:
        group = {"targets": ["Linear"], "weights": weight_arguments(recipe.weights)}
        rounding["config_groups"] = {"group_0": group | ({"input_activations": low} if low else {})}
    cache = kv_arguments(recipe.kv_cache)
    if cache is not None:
        rounding["kv_cache_scheme"] = cache
    if not rounding.keys() - {"ignore"}:
        raise PlanError([_nothing(recipe)])
    before, kind, notes = _METHODS[recipe.weights.made_by]()
    if kind == "GPTQModifier":
        rounding |= {"dampening_frac": DAMPENING}
    static = cache is not None or (low is not None and low["dynamic"] is not True)
    calibrated = static or kind == "GPTQModifier" or any(one.name in _CALIBRATED for one in before)
    return Plan("llmcompressor", (*before, Modifier(kind, rounding)), calibrated, (*notes, *_kv_notes(recipe)))


_CALIBRATED = ("AWQModifier", "SmoothQuantModifier")
Steps = tuple[tuple[Modifier, ...], str, tuple[str, ...]]


def _rotations(kind: str) -> Modifier:
    return Modifier("SpinQuantModifier", {"rotations": ["R1", "R2"], "transform_type": kind})


def _quarot() -> Steps:
    return (
        (_rotations("random-hadamard"),),
        "QuantizationModifier",
        (
            "QuaRot's offline half: randomized Hadamard rotations of the residual stream (R1) and of each head's "
            "values (R2), folded into the weights, then round to nearest. Its online rotations (before down_proj, and "
            "of keys) are left out: they change the graph, and plain engines do not serve them",
        ),
    )


def _spinquant() -> Steps:
    return (
        (_rotations("hadamard"),),
        "GPTQModifier",
        (
            "SpinQuant without its learning: llm-compressor 0.14 has R1 and R2 as fixed Hadamard matrices "
            '("learnable is not supported as of now"), then GPTQ, as the paper rounds',
        ),
    )


_METHODS: Mapping[str, Callable[[], Steps]] = {
    "none": lambda: ((), "QuantizationModifier", ()),  # the cache's scales alone
    "rtn": lambda: ((), "QuantizationModifier", ()),
    "gptq": lambda: ((), "GPTQModifier", ()),
    "awq": lambda: ((Modifier("AWQModifier", {}),), "QuantizationModifier", ("AWQ with zero points (W4A16_ASYM)",)),
    "smoothquant": lambda: (
        (Modifier("SmoothQuantModifier", {"smoothing_strength": SMOOTHING}),),
        "QuantizationModifier",
        ("SmoothQuant, then round to nearest, as the paper does",),
    ),
    "quarot": _quarot,
    "spinquant": _spinquant,
}

METHODS = tuple(_METHODS)
"""Of the recipe's words, those that llm-compressor has."""


def _impossible(recipe: Recipe) -> list[str]:
    """Every reason that needs no look at the formats' arguments."""
    weights, activations, method = recipe.weights, recipe.activations, recipe.weights.made_by
    problems = []
    if method == "omniquant":
        problems.append(
            "weights.method: OmniQuant is research code, and nothing that vLLM serves is made by it; "
            'take method = "awq", or "gptq"'
        )
    elif method == "online":
        problems.append(
            "weights.method: vLLM quantizes online when it loads the model, so there is no checkpoint to make; serve "
            'the model itself with --quantization, or take method = "rtn" for a checkpoint that can be pinned'
        )
    elif method == "smoothquant" and activations.format in SIXTEEN_BIT:
        problems.append(
            "weights.method: SmoothQuant moves outliers out of low activations, and these stay at 16 bits; "
            'add [activations] format = "int8", or take method = "awq"'
        )
    elif method == "awq" and activations.format not in SIXTEEN_BIT:
        problems.append(
            "weights.method: AWQ makes weights alone, with zero points that no low-activation kernel takes; "
            'take method = "gptq", or [activations] format = "bf16"'
        )
    if weights.format in SIXTEEN_BIT and activations.format not in SIXTEEN_BIT:
        problems.append(
            "activations.format: low activations have low weights beside them; set weights.format, "
            'or [activations] format = "bf16"'
        )
    elif scheme(recipe) is None and method not in ("omniquant", "online"):
        pair = f"{weights.format} weights with {activations.format} activations"
        problems.append(
            f"weights.format: no scheme for {pair}; pairs that are served: int8+int8, fp8-e4m3+fp8-e4m3, "
            "int4+fp8-e4m3, mxfp4+mxfp4, nvfp4+nvfp4, or int8, int4, fp8-e4m3, mxfp8, mxfp4, nvfp4 weights alone"
        )
    if kv_dtype(recipe.kv_cache) is None:
        problems.append(
            f"kv_cache: vLLM has no {recipe.kv_cache.format} cache per {recipe.kv_cache.granularity}; "
            'format = "fp8-e4m3" with per = "tensor" or "head" has scales in the checkpoint'
        )
    return problems


def _nothing(recipe: Recipe) -> str:
    if recipe.kv_cache.format in SIXTEEN_BIT:
        return "weights.format: nothing in this recipe is quantized; set a format on one axis"
    return (
        f"kv_cache: {recipe.kv_cache} needs nothing of a checkpoint: serve the model itself with "
        f"--kv-cache-dtype {kv_dtype(recipe.kv_cache)}"
    )


def _kv_notes(recipe: Recipe) -> tuple[str, ...]:
    cache = recipe.kv_cache
    if cache.format in SIXTEEN_BIT:
        return ()
    served = f"serve it with --kv-cache-dtype {kv_dtype(cache)}"
    if kv_arguments(cache) is None:
        return (f"the cache ({cache}) needs nothing of the checkpoint: {served}",)
    return (f"the cache's scales are in the checkpoint: {served}",)


def _gguf(recipe: Recipe) -> Plan:
    if recipe.activations.format not in SIXTEEN_BIT:
        raise PlanError(['activations.format: llama.cpp keeps 16 bits beside K-quants; format = "bf16"'])
    notes = ("IQ4_XS wants an importance matrix, and is made without one here",)
    return Plan(
        "llama.cpp",
        (Modifier("llama-quantize", {"type": recipe.weights.format.upper()}),),
        False,
        notes if recipe.weights.format == "iq4_xs" else (),
    )


def _autoawq(recipe: Recipe) -> Plan:
    weights, problems = recipe.weights, []
    if weights.made_by != "awq":
        problems.append(f'weights.method: AutoAWQ makes AWQ alone, and this is "{weights.made_by}"; leave out --engine')
    elif weights.granularity != "group":
        problems.append('weights.per: AutoAWQ has scales per group; per = "group", or leave out --engine')
    if recipe.activations.format not in SIXTEEN_BIT:
        problems.append('activations.format: AutoAWQ makes weights alone; [activations] format = "bf16"')
    if kv_arguments(recipe.kv_cache) is not None:
        problems.append("kv_cache: AutoAWQ makes no scales of the cache; leave out --engine")
    if problems:
        raise PlanError(problems)
    arguments: dict[str, Any] = {"zero_point": True, "q_group_size": weights.group, "w_bit": 4, "version": "GEMM"}
    ignored = [one for one in weights.ignored_layers if one != "lm_head"]  # which AutoAWQ leaves alone anyway
    if ignored:
        arguments["modules_to_not_convert"] = ignored
    notes = ("AutoAWQ is archived, and pins transformers 4.51.3",)
    return Plan("autoawq", (Modifier("AutoAWQ", arguments),), True, notes)
