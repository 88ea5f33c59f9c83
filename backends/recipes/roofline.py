"""Roofline: bytes, capacity, and the ceilings that bandwidth and arithmetic set. No engine reaches them.

A decode step of b sequences reads every weight once and each sequence's cache, and computes 2 FLOP a parameter and
sequence, and 4 x layers x heads x head_dim FLOP for each cached token:

    bytes   = weights read + b x context x KV bytes per token
    seconds = max(bytes / bandwidth, FLOP / rate)

It is memory-bound while FLOP / bytes lies under the ridge, rate / bandwidth. Weights are computed in the activations'
format where the card has it, else at 16 bits; attention at 16 bits. Cards add up (tensor parallelism without a cost).

Source:  Williams et al., "Roofline" (2009); precision, "Three axes". Figures it is held against: docs/recipes.md.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from backends.recipes.formats import SIXTEEN_BIT, kv_bits, weight_bits
from backends.recipes.recipe import Recipe
from backends.recipes.serving import computes_in
from backends.recipes.shapes import Shape

UTILIZATION = 0.92  # vLLM 0.32's gpu_memory_utilization
PREFILL_TOKENS = 8192  # *choice*: max_num_batched_tokens, vLLM's default on data-centre cards
RUNTIME_BYTES = 2**30  # *choice*, per card: CUDA context, NCCL and CUDA graphs; vLLM's log says 0.35 GiB without graphs


@dataclass(frozen=True, slots=True)
class Roofline:
    """What a recipe could do at best at a batch.

    Units:  bytes; seconds; FLOP per byte for intensity and ridge; tokens/s for the ceilings, over all sequences.
    ridge_batch: sequences from which decode is compute-bound; None where no batch is, because one more sequence costs
                 more in cache reads than in arithmetic.
    """

    batch: int
    weight_bytes: float
    weight_bytes_read: float
    kv_bytes_per_token: float
    kv_bytes_per_sequence: float
    activation_bytes: float
    reserved_bytes: float
    memory_bytes: float
    kv_room: float
    sequences: int
    decode_bytes: float
    decode_flop: float
    decode_seconds: float
    decode_tokens_s: float
    intensity: float
    ridge: float
    bound: str
    ridge_batch: int | None
    prefill_tokens_s: float
    prefill_seconds: float
    computes_in: str
    bandwidth: float
    rate: float

    @property
    def fits(self) -> bool:
        """Whether at least one sequence of the whole context does."""
        return self.sequences >= 1

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "fits": self.fits}


class NoRoofline(ValueError):
    """The card's memory and rates are not known here. str() is one line."""


def roofline(recipe: Recipe, shape: Shape, batch: int | None = None) -> Roofline:
    """The ceilings of a recipe at a batch; by default the recipe's own concurrency.

    Raises:  NoRoofline for a card without rates (a CPU).
    """
    card, cards = recipe.card, recipe.gpus
    if not card.rates:
        raise NoRoofline(f"{card.label} has no roofline here: its bandwidth and rates differ from machine to machine")
    b = batch or recipe.concurrency
    resident, read = weight_bytes(recipe, shape)
    kv_token = kv_bytes_per_token(recipe, shape)
    kv_sequence = kv_token * recipe.context_tokens
    activations = _activation_bytes(shape, b)
    reserved = activations + RUNTIME_BYTES * cards
    memory = card.memory * cards * UTILIZATION
    room = memory - resident - reserved
    bandwidth = card.bandwidth * cards
    kind = computes_in(recipe)
    rate, plain = card.rate(kind) * cards, card.rate("16-bit") * cards

    head = shape.embedding  # the output head; it stays at 16 bits
    attention = 4 * shape.layers * shape.heads * shape.head_dim  # FLOP per query token and cached token
    flop_one = 2 * (shape.linear + head) + attention * recipe.context_tokens
    compute_one = 2 * shape.linear / rate + (2 * head + attention * recipe.context_tokens) / plain
    bytes_step, flop_step = read + b * kv_sequence, b * flop_one
    memory_s, compute_s = bytes_step / bandwidth, b * compute_one
    step = max(memory_s, compute_s)
    ridge = (flop_step / compute_s) / bandwidth  # of the mix of rates that this step has
    spare = compute_one - kv_sequence / bandwidth  # what one more sequence adds to the arithmetic over the reading

    half = attention * recipe.context_tokens / 2  # causal: a prompt token sees half of the prompt on average
    prompt_s = max(
        recipe.context_tokens * (2 * shape.linear / rate + half / plain),
        read / bandwidth,
    )
    return Roofline(
        batch=b,
        weight_bytes=resident,
        weight_bytes_read=read,
        kv_bytes_per_token=kv_token,
        kv_bytes_per_sequence=kv_sequence,
        activation_bytes=activations,
        reserved_bytes=reserved,
        memory_bytes=memory,
        kv_room=room,
        sequences=max(0, int(room // kv_sequence)),
        decode_bytes=bytes_step,
        decode_flop=flop_step,
        decode_seconds=step,
        decode_tokens_s=b / step,
        intensity=flop_step / bytes_step,
        ridge=ridge,
        bound="memory" if memory_s >= compute_s else "compute",
        ridge_batch=math.ceil(read / bandwidth / spare) if spare > 0 else None,
        prefill_tokens_s=recipe.context_tokens / prompt_s,
        prefill_seconds=prompt_s,
        computes_in=kind,
        bandwidth=bandwidth,
        rate=rate,
    )


def overtakes(one: Recipe, other: Recipe, shape: Shape, limit: int = 4096) -> int | None:
    """The smallest batch at which `other` has the higher decode ceiling; None up to `limit`."""
    for batch in range(1, limit + 1):
        if roofline(other, shape, batch).decode_tokens_s > roofline(one, shape, batch).decode_tokens_s * (1 + 1e-9):
            return batch
    return None


def weight_bytes(recipe: Recipe, shape: Shape) -> tuple[float, float]:
    """Bytes of all weights, and of those that a decode step reads: not the input embedding, of which it needs a row.

    Embeddings, norms and the output head stay at 16 bits; other ignored layers are not counted apart.
    """
    weights = recipe.weights
    asymmetric = weights.made_by == "awq"  # llm-compressor's W4A16_ASYM
    bits = weight_bits(weights.format, weights.granularity, weights.group, zero_points=asymmetric)
    linear = shape.linear * bits / 8
    rest = (shape.parameters - shape.linear) * 2
    return linear + rest, linear + rest - (0 if shape.tied else shape.embedding * 2)


def kv_bytes_per_token(recipe: Recipe, shape: Shape) -> float:
    """Bytes that one token takes in the cache, over all layers; skipped layers keep 16 bits."""
    cache = recipe.kv_cache
    values = shape.kv_values_per_token
    low = values * kv_bits(cache.format, cache.granularity, shape.head_dim) / 8
    if cache.format in SIXTEEN_BIT:
        return low
    skipped = sum(1 for layer in set(cache.skipped_layers) if layer.isdecimal() and int(layer) < shape.layers)
    share = skipped / shape.layers
    return low * (1 - share) + values * 2 * share


def _activation_bytes(shape: Shape, sequences: int) -> float:
    """The peak of a prefill batch: the stream and its norm, gate, up and their product, at 16 bits; and FP32 logits.

    Source: held against vLLM's log in issue vllm-project/vllm 10517: 8B, 109.8 KB per token measured, 102.4 here.
    """
    per_token = (2 * shape.hidden + 3 * shape.intermediate) * 2
    return PREFILL_TOKENS * per_token + sequences * shape.vocabulary * 4
