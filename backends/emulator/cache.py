"""Keys and values of running sequences: slots of one arena, taken and given back, never grown.

A prompt that begins as an earlier one did takes its keys and values over, as an engine's prefix cache does: whole
chunks only, so that every sum runs over the same numbers in the same order and the reply stays the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.emulator.checkpoint import Shape
from backends.emulator.formats import Floats

CHUNK = 256  # *choice*: positions of a prompt at once; decoding waits no longer than one such step (about 50 ms)
MAX_SLOTS = 8  # *choice*: more sequences at once make each slower and the whole no faster on one core
MAX_ARENA_BYTES = 160 << 20  # *choice*: five slots of the shipped model; two arms of the demo stay well below 1 GB


@dataclass(slots=True)
class Slot:
    """Room for one sequence. Keys lie transposed: the scores of a query are then one product with unit stride.

    Shapes: keys (layers, kv_heads, head, context), values (layers, kv_heads, context, head); `length` positions hold.
    `prefix` are the tokens of the prompt whose whole chunks lie in it, also after it was given back.
    """

    number: int
    keys: Floats
    values: Floats
    length: int = 0
    prefix: tuple[int, ...] = ()

    def has_read(self, prompt: tuple[int, ...]) -> None:
        """The first `length` tokens of the prompt lie in it."""
        self.prefix = prompt[: self.length // CHUNK * CHUNK]

    def shares(self, prompt: Sequence[int]) -> int:
        """How many of a prompt's tokens it holds: whole chunks, and never the last token, whose logits are wanted."""
        most = min(len(self.prefix), (len(prompt) - 1) // CHUNK * CHUNK)
        at = 0
        while at < most and self.prefix[at : at + CHUNK] == prompt[at : at + CHUNK]:
            at += CHUNK
        return at


class Arena:
    """All slots. Memory is reserved at once and becomes resident where it is first written."""

    def __init__(self, shape: Shape, slots: int = MAX_SLOTS) -> None:
        per_slot = 2 * 4 * shape.layers * shape.kv_heads * shape.head * shape.context
        count = max(1, min(slots, MAX_ARENA_BYTES // per_slot))
        keys = np.empty((count, shape.layers, shape.kv_heads, shape.head, shape.context), np.float32)
        values = np.empty((count, shape.layers, shape.kv_heads, shape.context, shape.head), np.float32)
        self.slots = count
        self._all = [Slot(number, keys[number], values[number]) for number in range(count)]
        self._free = list(self._all)  # the one that was given back longest ago first

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, prompt: tuple[int, ...] = ()) -> Slot | None:
        """A slot that holds as much of the prompt as any does, its `length` tokens; None when all are taken."""
        if not self._free:
            return None
        held = {slot.number: slot.shares(prompt) for slot in self._all}
        source = max(self._all, key=lambda slot: held[slot.number])
        shared = held[source.number]
        own = max(self._free, key=lambda slot: held[slot.number])
        if shared == 0 or held[own.number] < shared:
            own = min(self._free, key=lambda slot: len(slot.prefix) > 0)  # an untouched one, else the oldest
            own.keys[..., :shared] = source.keys[..., :shared]
            own.values[:, :, :shared] = source.values[:, :, :shared]
        self._free.remove(own)
        own.length, own.prefix = shared, prompt[:shared]
        return own

    def give(self, slot: Slot) -> None:
        """A slot back; whoever begins as it did may still take it over."""
        self._free.append(slot)

    def forget(self) -> None:
        """Nothing is taken over any more: another network fills the slots."""
        for slot in self._all:
            slot.prefix = ()
