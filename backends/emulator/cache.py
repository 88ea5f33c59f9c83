"""Keys and values of running sequences: slots of one arena, taken and given back, never grown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backends.emulator.checkpoint import Shape
from backends.emulator.formats import Floats

MAX_SLOTS = 8  # *choice*: more sequences at once make each slower and the whole no faster on one core
MAX_ARENA_BYTES = 160 << 20  # *choice*: five slots of the shipped model; two arms of the demo stay well below 1 GB


@dataclass(slots=True)
class Slot:
    """Room for one sequence. Keys lie transposed: the scores of a query are then one product with unit stride.

    Shapes: keys (layers, kv_heads, head, context), values (layers, kv_heads, context, head); `length` positions hold.
    """

    number: int
    keys: Floats
    values: Floats
    length: int = 0


class Arena:
    """All slots. Memory is reserved at once and becomes resident where it is first written, so that short
    conversations cost little; the slot that was given back last is taken first."""

    def __init__(self, shape: Shape, slots: int = MAX_SLOTS) -> None:
        per_slot = 2 * 4 * shape.layers * shape.kv_heads * shape.head * shape.context
        count = max(1, min(slots, MAX_ARENA_BYTES // per_slot))
        keys = np.empty((count, shape.layers, shape.kv_heads, shape.head, shape.context), np.float32)
        values = np.empty((count, shape.layers, shape.kv_heads, shape.context, shape.head), np.float32)
        self.slots = count
        self._free = [Slot(number, keys[number], values[number]) for number in reversed(range(count))]

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> Slot | None:
        """An empty slot, or None when all are taken."""
        if not self._free:
            return None
        slot = self._free.pop()
        slot.length = 0
        return slot

    def give(self, slot: Slot) -> None:
        """A slot back; its contents are void."""
        self._free.append(slot)
