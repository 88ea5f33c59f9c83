"""A model ready to multiply: its matrices after a recipe, fused as engines fuse them, and what rounds between them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from backends.emulator.checkpoint import Shape, Tensors, read_shape
from backends.emulator.formats import GRIDS, Floats, bf16, scale_of, through
from backends.emulator.recipes import Recipe, RecipeError
from backends.emulator.weights import stored

Rounding: TypeAlias = Callable[[Floats], Floats]

SITES = ("qkv", "output", "gate_up", "down")
"""The linear layers of a decoder layer whose inputs are quantized on their own."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The largest magnitudes seen in calibration.

    Shapes: inputs (layers, 4) in the order of SITES; keys and values (layers, kv_heads).
    """

    inputs: Floats
    keys: Floats
    values: Floats


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Matrices are (in, out). A rounding is None where nothing is quantized."""

    before_attention: Floats
    qkv: Floats
    query_key_norm: Floats | None
    output: Floats
    before_mlp: Floats
    gate_up: Floats
    down: Floats
    round_inputs: tuple[Rounding | None, ...] = (None,) * len(SITES)
    round_keys: Rounding | None = None
    round_values: Rounding | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A model under one recipe. `cos` and `sin` are full width, the sines signed for the two halves of a head.

    Shapes: embedding (vocabulary, hidden), head (hidden, vocabulary), cos and sin (context, head).
    """

    shape: Shape
    recipe: Recipe
    embedding: Floats
    layers: tuple[Layer, ...]
    norm: Floats
    head: Floats
    cos: Floats
    sin: Floats
    digest: str


def load(directory: Path, recipe: Recipe) -> Network:
    """The model in a directory with its weights as the recipe stores them; activations and cache are not yet rounded.

    Raises:  ModelError, RecipeError.
    """
    shape = read_shape(directory)
    tensors = Tensors(directory)
    take = tensors.take

    def linear(name: str, outputs: int, inputs: int) -> Floats:
        return stored(take(f"{name}.weight", (outputs, inputs)), recipe.weights)

    width, kv_width, hidden, inner = (
        shape.heads * shape.head,
        shape.kv_heads * shape.head,
        shape.hidden,
        shape.intermediate,
    )
    layers = []
    for number in range(shape.layers):
        at = f"model.layers.{number}"
        attention, mlp = f"{at}.self_attn", f"{at}.mlp"
        heads = [
            linear(f"{attention}.q_proj", width, hidden),
            linear(f"{attention}.k_proj", kv_width, hidden),
            linear(f"{attention}.v_proj", kv_width, hidden),
        ]
        gates = [linear(f"{mlp}.gate_proj", inner, hidden), linear(f"{mlp}.up_proj", inner, hidden)]
        norms = None
        if shape.normalised:
            q, k = (take(f"{attention}.{one}_norm.weight", (shape.head,)) for one in "qk")
            norms = np.concatenate([np.tile(q, (shape.heads, 1)), np.tile(k, (shape.kv_heads, 1))])
        layers.append(
            Layer(
                before_attention=take(f"{at}.input_layernorm.weight", (hidden,)),
                qkv=_ready(np.concatenate(heads)),
                query_key_norm=norms,
                output=_ready(linear(f"{attention}.o_proj", hidden, width)),
                before_mlp=take(f"{at}.post_attention_layernorm.weight", (hidden,)),
                gate_up=_ready(np.concatenate(gates)),
                down=_ready(linear(f"{mlp}.down_proj", hidden, inner)),
            )
        )
    embedding = take("model.embed_tokens.weight", (shape.vocabulary, hidden))
    head = embedding if shape.tied else take("lm_head.weight", (shape.vocabulary, hidden))
    cos, sin = _turns(shape)
    digest = _digest(directory, recipe)
    norm = take("model.norm.weight", (hidden,))
    return Network(shape, recipe, embedding, tuple(layers), norm, _ready(head), cos, sin, digest)


def needs_reach(recipe: Recipe) -> bool:
    """Whether a recipe has scales that must be calibrated."""
    return recipe.activations.per == "tensor" or recipe.kv_cache.per in ("tensor", "head")


def quantized(network: Network, reach: Reach | None) -> Network:
    """The same network with inputs and cache rounded as its recipe says, fixed scales taken from `reach`.

    Raises:  RecipeError when blocks do not fit.
    """
    block, head = network.recipe.kv_cache, network.shape.head
    if block.per == "block" and head % block.size:
        raise RecipeError(f"kv {block}: a block of {block.size} does not divide a head of {head}; choose a divisor")
    recipe, layers = network.recipe, []
    for number, layer in enumerate(network.layers):
        inputs = [None] * len(SITES) if reach is None else list(reach.inputs[number])
        keys, values = (None, None) if reach is None else (reach.keys[number], reach.values[number])
        layers.append(
            replace(
                layer,
                round_inputs=tuple(_inputs(recipe, top) for top in inputs),
                round_keys=_kv(recipe, keys),
                round_values=_kv(recipe, values),
            )
        )
    return replace(network, layers=tuple(layers))


def _inputs(recipe: Recipe, top: np.float32 | None) -> Rounding | None:
    axis = recipe.activations
    if axis.format == "bf16":
        return None
    grid = GRIDS[axis.format]
    if axis.per == "token":
        return lambda x: through(x, grid, scale_of(x, grid, -1))
    if top is None:
        raise AssertionError("a fixed scale needs calibration")
    fixed = np.float32(max(float(top), 1e-12) / grid.reach)
    return lambda x: through(x, grid, fixed)


def _kv(recipe: Recipe, tops: Floats | None) -> Rounding | None:
    """What keys or values go through on their way into the cache. Shapes: (..., kv_heads, head) in and out."""
    axis = recipe.kv_cache
    if axis.format == "bf16":
        return None
    grid = GRIDS[axis.format]
    if axis.per == "one":
        return grid.round
    if axis.per in ("tensor", "head"):
        if tops is None:
            raise AssertionError("a fixed scale needs calibration")
        held = np.maximum(tops if axis.per == "head" else tops.max(), np.float32(1e-12))
        fixed = (np.reshape(held, (-1, 1)) / np.float32(grid.reach)).astype(np.float32)
        return lambda x: through(x, grid, fixed)
    if axis.per == "block":
        return lambda x: _blocks(x, axis.size, lambda blocks: through(blocks, grid, scale_of(blocks, grid, -1)))
    axes = -1 if axis.per == "token-head" else (-2, -1)
    return lambda x: through(x, grid, scale_of(x, grid, axes))


def _blocks(x: Floats, size: int, make: Rounding) -> Floats:
    return make(x.reshape(*x.shape[:-1], x.shape[-1] // size, size)).reshape(x.shape)


def _ready(matrix: Floats) -> Floats:
    """(out, in) to (in, out), the order in which a row vector is multiplied fastest."""
    return np.ascontiguousarray(matrix.T)


def _turns(shape: Shape) -> tuple[Floats, Floats]:
    """Rotary tables in BF16, as engines keep them beside BF16 weights."""
    angles = np.outer(np.arange(shape.context, dtype=np.float32), np.array(shape.rope_frequencies, np.float32))
    cos, sin = bf16(np.cos(angles)), bf16(np.sin(angles))
    return np.concatenate([cos, cos], 1), np.concatenate([-sin, sin], 1)


def _digest(directory: Path, recipe: Recipe) -> str:
    """Names the weights and the recipe: two servers with equal digests answer alike."""
    hasher = hashlib.sha256(repr((recipe.weights, recipe.activations, recipe.kv_cache)).encode())
    for path in sorted([*directory.glob("*.safetensors"), directory / "config.json"]):
        with path.open("rb") as file:
            hasher.update(hashlib.file_digest(file, "sha256").digest())
    return hasher.hexdigest()[:8]
