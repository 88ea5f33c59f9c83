"""Tokens in, logits out. Rounds to BF16 where an engine stores BF16; sums in float32.

The points of rounding are those of vLLM 0.32 on the CPU: after each linear layer, the rotary embedding (once),
attention (its weights stay float32), silu and its product (each), each norm before its weight and after it, each
addition to the residual; the norm that follows an addition reads the sum before that rounding (`ir/ops/layernorm.py`).
transformers rounds the products in the rotary embedding too, and normalises the rounded sum. Decoding multiplies each
sequence by itself, so a reply never depends on what else runs.

Shapes:  x is (sequences, positions, hidden): many sequences with one position each, or one with many.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backends.emulator.cache import CHUNK, Slot
from backends.emulator.formats import BF16, Floats
from backends.emulator.network import Layer, Network


class Forward:
    """Runs one network."""

    def __init__(self, network: Network) -> None:
        self.network = network
        shape = network.shape
        self._heads = shape.heads
        self._both = shape.heads + shape.kv_heads
        self._grouped = (shape.kv_heads, shape.heads // shape.kv_heads)
        self._scale = np.float32(shape.head**-0.5)
        self._epsilon = np.float32(shape.epsilon)
        self._future = np.triu(np.full((CHUNK, CHUNK), -np.inf, np.float32), 1)

    def prefill(self, slot: Slot, ids: Sequence[int]) -> Floats:
        """The hidden states after the next at most CHUNK tokens of a sequence. Shapes: (tokens, hidden)."""
        positions = np.arange(slot.length, slot.length + len(ids))[None]
        slot.length += len(ids)
        hidden: Floats = self._through(self.network.embedding[np.asarray(ids)][None], positions, [slot])[0]
        return hidden

    def decode(self, slots: Sequence[Slot], ids: Sequence[int]) -> Floats:
        """The logits after one more token of each sequence. Shapes: (sequences, vocabulary)."""
        positions = np.array([[slot.length] for slot in slots])
        for slot in slots:
            slot.length += 1
        return self.logits(self._through(self.network.embedding[np.asarray(ids)][:, None], positions, slots))[:, 0]

    def logits(self, hidden: Floats) -> Floats:
        """Logits of hidden states, in BF16 as engines have them. Shapes: (..., hidden) to (..., vocabulary)."""
        return _held(hidden @ self.network.head)

    def _through(self, x: Floats, positions: NDArray[np.int64], slots: Sequence[Slot]) -> Floats:
        """All layers and the last norm. Shapes: x in and out, positions (sequences, positions)."""
        turns = self.network.cos[positions][:, :, None], self.network.sin[positions][:, :, None]
        with np.errstate(over="ignore", under="ignore"):  # a gate far below zero overflows exp and becomes 0, rightly
            for number, layer in enumerate(self.network.layers):
                for_qkv, for_output, for_gate_up, for_down = layer.round_inputs
                y = self._norm(x, layer.before_attention)  # x: a sum not yet rounded, as the norms read it
                y = self._attend(number, layer, for_qkv(y) if for_qkv else y, turns, slots)
                total = _held(x) + _held((for_output(y) if for_output else y) @ layer.output)
                y = self._norm(total, layer.before_mlp)
                y = _gated(_held((for_gate_up(y) if for_gate_up else y) @ layer.gate_up))
                x = _held(total) + _held((for_down(y) if for_down else y) @ layer.down)
            return self._norm(x, self.network.norm)

    def _attend(
        self, number: int, layer: Layer, x: Floats, turns: tuple[Floats, Floats], slots: Sequence[Slot]
    ) -> Floats:
        """What attention makes of the normed input. Shapes: (sequences, positions, hidden) to (..., heads * head)."""
        batch, steps = x.shape[:2]
        qkv = _held(x @ layer.qkv).reshape(batch, steps, -1, self.network.shape.head)
        turned = qkv[:, :, : self._both]
        if layer.query_key_norm is not None:
            turned = self._norm(turned, layer.query_key_norm)
        turned = _turned(turned, *turns)
        keys, values = turned[:, :, self._heads :], qkv[:, :, self._both :]
        if layer.round_keys:
            keys = layer.round_keys(keys)
        if layer.round_values:
            values = layer.round_values(values)
        queries = turned[:, :, : self._heads] * self._scale
        out = np.empty((batch, steps, self._heads, self.network.shape.head), np.float32)
        look = self._look_once if steps == 1 else self._look_back
        for row, slot in enumerate(slots):
            end = slot.length
            held_keys, held_values = slot.keys[number], slot.values[number]
            held_keys[:, :, end - steps : end] = keys[row].transpose(1, 2, 0)
            held_values[:, end - steps : end] = values[row].transpose(1, 0, 2)
            look(queries[row], held_keys[:, :, :end], held_values[:, :end], out[row])
        return _held(out).reshape(batch, steps, -1)

    def _look_once(self, queries: Floats, keys: Floats, values: Floats, out: Floats) -> None:
        """One position's attention over all before it. Shapes: queries and out (1, heads, head), keys and values as a
        slot has them."""
        seen = _softmax_of(queries.reshape(*self._grouped, -1) @ keys) @ values
        out[0] = seen.reshape(out.shape[1:])

    def _look_back(self, queries: Floats, keys: Floats, values: Floats, out: Floats) -> None:
        """Many positions' attention, each over those before it. Shapes: as `_look_once`, with (positions, ...)."""
        steps, end = len(queries), values.shape[1]
        groups = queries.reshape(steps, *self._grouped, -1).transpose(1, 2, 0, 3)
        scores = (groups.reshape(self._grouped[0], -1, groups.shape[-1]) @ keys).reshape(*self._grouped, steps, end)
        scores[..., end - steps :] += self._future[:steps, :steps]
        seen = _softmax_of(scores).reshape(self._grouped[0], -1, end) @ values
        out[:] = seen.reshape(*self._grouped, steps, -1).transpose(2, 0, 1, 3).reshape(out.shape)

    def _norm(self, x: Floats, weight: Floats) -> Floats:
        size = np.vecdot(x, x) * np.float32(1 / x.shape[-1])
        size += self._epsilon
        np.sqrt(size, out=size)
        y = _held(x / size[..., None])
        y *= weight
        return _held(y)


def _held(x: Floats) -> Floats:
    """As BF16 memory holds it."""
    return x.astype(BF16).astype(np.float32)


def _softmax_of(scores: Floats) -> Floats:
    """Softmax along the last axis, in place."""
    scores -= np.maximum.reduce(scores, -1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, -1, keepdims=True)
    return scores


def _turned(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Rotary embedding. Shapes: x (sequences, positions, heads, head), the sines signed for its halves."""
    y = x.reshape(*x.shape[:-1], 2, -1)[..., ::-1, :].reshape(x.shape) * sin
    y += x * cos
    return _held(y)


def _gated(x: Floats) -> Floats:
    """silu(gate) * up. Shapes: (..., 2 * intermediate), gate first, to (..., intermediate)."""
    half = x.shape[-1] // 2
    gate = x[..., :half]
    y = np.exp(-gate)
    y += 1
    y = _held(np.divide(gate, y, out=y))
    y *= x[..., half:]
    return _held(y)
