"""Precision recipes: what each of the three axes is stored in, the named ones, and what cannot be combined.

As text: a name from the table, or axes apart: "weights=int4:group128,activations=fp8-e4m3:token,kv=int4:tensor".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

WEIGHT_FORMATS = (
    "bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1", "mxfp4", "nvfp4", "int8", "int4",
)  # fmt: skip
ACTIVATION_FORMATS = ("bf16", "fp8-e4m3", "fp8-e5m2", "int8", "fp4-e2m1")
KV_FORMATS = ("bf16", "fp8-e4m3", "fp8-e5m2", "int8", "int4")
WEIGHT_PER = ("tensor", "channel", "group")
ACTIVATION_PER = ("tensor", "token")
KV_PER = ("one", "tensor", "head", "token", "token-head", "block")

GROUP = 128  # llm-compressor's W4A16
KV_BLOCK = 32  # *choice*: the block of the microscaling formats
_SCALELESS = ("bf16", "fp16")
_BLOCKED = ("mxfp4", "nvfp4")
_PER = re.compile(r"([a-z-]*[a-z])(\d*)$")


class RecipeError(ValueError):
    """No such recipe. str() is one line: what was found, what there is."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Storage of the linear layers; embeddings and the output head stay as they are, as in W4A16.

    `per`: one scale for the `tensor`, for each output `channel`, or for a `group` of `size` inputs of a channel.
    """

    format: str = "bf16"
    per: str = ""
    size: int = 0

    def __str__(self) -> str:
        return _axis_text(self.format, self.per, self.size)


@dataclass(frozen=True, slots=True)
class Activations:
    """What goes into each linear layer. Per `token`: its own scale, found as it comes. Per `tensor`: a calibrated one,
    since a scale over the whole batch would make a reply depend on its neighbours."""

    format: str = "bf16"
    per: str = ""

    def __str__(self) -> str:
        return _axis_text(self.format, self.per, 0)


@dataclass(frozen=True, slots=True)
class KvCache:
    """What keys (after rotation) and values are stored in, quantized as they are written.

    Per `tensor` (one scale for a layer's keys, one for its values) and per `head`: calibrated at load, because a cache
    that grows cannot be rescaled. Per `token`, `token-head`, or `block` of `size` channels: found at each write.
    `one`: scale 1.0, as vLLM has it for FP8 without a calibrated checkpoint.
    """

    format: str = "bf16"
    per: str = ""
    size: int = 0

    def __str__(self) -> str:
        return _axis_text(self.format, self.per, self.size)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One precision choice on three axes."""

    name: str
    weights: Weights = field(default_factory=Weights)
    activations: Activations = field(default_factory=Activations)
    kv_cache: KvCache = field(default_factory=KvCache)

    def as_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return {
            "recipe": self.name,
            "weights": str(self.weights),
            "activations": str(self.activations),
            "kv_cache": str(self.kv_cache),
        }


# One line each: what it is called, and its axes where they are not BF16.
_TABLE = """
bf16
fp16-weights                 weights=fp16
fp8-weights                  weights=fp8-e4m3:channel
fp8-weights-per-tensor       weights=fp8-e4m3:tensor
fp8-e5m2-weights             weights=fp8-e5m2:channel
fp6-e3m2-weights             weights=fp6-e3m2:channel
fp6-e2m3-weights             weights=fp6-e2m3:channel
fp4-weights                  weights=fp4-e2m1:channel
mxfp4                        weights=mxfp4
nvfp4                        weights=nvfp4
int8-weights                 weights=int8:channel
int4-weights                 weights=int4:group128
int4-weights-group-32        weights=int4:group32
int4-weights-per-channel     weights=int4:channel
int4-weights-per-tensor      weights=int4:tensor
fp8-activations              activations=fp8-e4m3:token
fp8-activations-per-tensor   activations=fp8-e4m3:tensor
int8-activations             activations=int8:token
int8-activations-per-tensor  activations=int8:tensor
fp4-activations              activations=fp4-e2m1:token
fp4-activations-per-tensor   activations=fp4-e2m1:tensor
fp8-kv                       kv=fp8-e4m3:tensor
fp8-kv-uncalibrated          kv=fp8-e4m3:one
fp8-kv-per-head              kv=fp8-e4m3:head
fp8-e5m2-kv                  kv=fp8-e5m2:tensor
int8-kv                      kv=int8:tensor
int8-kv-per-head             kv=int8:head
int8-kv-per-token-head       kv=int8:token-head
int4-kv-per-tensor           kv=int4:tensor
int4-kv-per-head             kv=int4:head
int4-kv-per-token            kv=int4:token
int4-kv-per-token-head       kv=int4:token-head
int4-kv-per-block            kv=int4:block32
w8a8-fp8                     weights=fp8-e4m3:channel,activations=fp8-e4m3:token
w8a8-int8                    weights=int8:channel,activations=int8:token
w4a8-fp8                     weights=int4:group128,activations=fp8-e4m3:token
w4a4-fp4                     weights=mxfp4,activations=fp4-e2m1:token
w8a8-fp8-kv-fp8              weights=fp8-e4m3:channel,activations=fp8-e4m3:token,kv=fp8-e4m3:tensor
int4-weights-fp8-kv          weights=int4:group128,kv=fp8-e4m3:tensor
int4-everything              weights=int4:group128,kv=int4:tensor
mxfp4-fp4-kv-fp8             weights=mxfp4,activations=fp4-e2m1:token,kv=fp8-e4m3:tensor
"""


def parsed(text: str) -> Recipe:
    """The recipe that a name or a list of axes means. Raises: RecipeError."""
    if text in RECIPES:
        return RECIPES[text]
    if "=" not in text:
        raise RecipeError(
            f'no recipe "{text[:80]}"; there are {", ".join(RECIPES)}, or axes: weights=int4:group128,kv=int8:head'
        )
    return _from_axes(text, text)


def _from_axes(name: str, text: str) -> Recipe:
    said: dict[str, tuple[str, str, int]] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        axis, equals, value = part.partition("=")
        axis = {"kv_cache": "kv", "w": "weights", "a": "activations"}.get(axis.strip(), axis.strip())
        if not equals or axis not in ("weights", "activations", "kv"):
            raise RecipeError(f'recipe "{text[:80]}": "{part[:40]}" is no axis; say weights=, activations= or kv=')
        if axis in said:
            raise RecipeError(f'recipe "{text[:80]}": {axis} is said twice')
        said[axis] = _axis(axis, value.strip())
    weights, activations, kv = (said.get(axis, ("bf16", "", 0)) for axis in ("weights", "activations", "kv"))
    return Recipe(name, Weights(*weights), Activations(*activations[:2]), KvCache(*kv))


_AXES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], str, int]] = {
    "weights": (WEIGHT_FORMATS, WEIGHT_PER, "channel", GROUP),
    "activations": (ACTIVATION_FORMATS, ACTIVATION_PER, "token", 0),
    "kv": (KV_FORMATS, KV_PER, "tensor", KV_BLOCK),
}


def _axis(axis: str, value: str) -> tuple[str, str, int]:
    formats, granularities, default, size = _AXES[axis]
    name, colon, said = value.partition(":")
    if name not in formats:
        raise RecipeError(f'{axis}: no format "{name[:40]}"; there are {", ".join(formats)}')
    if name in _SCALELESS or name in _BLOCKED:
        if colon:
            why = "has no scales" if name in _SCALELESS else "has its own blocks"
            raise RecipeError(f'{axis}: {name} {why}, so ":{said[:40]}" cannot go with it')
        return name, "", 0
    match = _PER.match(said if colon else default)
    if match is None or match[1] not in granularities:
        raise RecipeError(f'{axis}: no granularity "{said[:40]}"; there are {", ".join(granularities)}')
    per, number = match[1], match[2]
    sized = per in ("group", "block")
    if number and (not sized or int(number) == 0 or len(number) > 6):
        raise RecipeError(f'{axis}: "{said[:40]}" has a size; only group and block have one, from 1')
    if per == "one" and not name.startswith("fp8"):
        raise RecipeError(f"{axis}: scale 1.0 is for fp8, which holds plain values; {name} would be all but zero")
    return name, per, (int(number) if number else size) if sized else 0


def _axis_text(name: str, per: str, size: int) -> str:
    return f"{name}:{per}{size or ''}" if per else name


def _table() -> dict[str, Recipe]:
    rows = [line.split(maxsplit=1) for line in _TABLE.strip().splitlines()]
    return {row[0]: _from_axes(row[0], row[1] if len(row) > 1 else "") for row in rows}


RECIPES: Mapping[str, Recipe] = _table()
