"""How far the model's keys and values spread: what one scale for a whole layer has to cover.

A step of INT4 is a fifteenth of the largest magnitude's double. It hurts where the largest is far above the rest: in a
few outlying channels, or when one head's values dwarf those of another that shares the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.emulator.cache import CHUNK, Arena
from backends.emulator.engine import prepared
from backends.emulator.formats import Floats
from backends.emulator.forward import Forward
from backends.emulator.recipes import parsed
from backends.emulator.vocabulary import Vocabulary
from tests.bench.damage.items import Item

PROMPTS = 8  # *choice*: a maximum over some 13,000 tokens has settled


def spread(directory: Path, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Per layer, for keys and values: largest magnitude over RMS, and how unequal the heads are. Units: ratios."""
    network = prepared(directory, parsed("bf16"), Vocabulary.of(directory))
    forward, arena = Forward(network), Arena(network.shape, slots=1)
    slot = arena.take()
    if slot is None:
        raise AssertionError("a new arena has a slot")
    keys: list[Floats] = []
    values: list[Floats] = []
    for item in [one for one in items if one.column == "needle 2048"][:PROMPTS]:
        slot.length = 0
        for start in range(0, len(item.ids), CHUNK):
            forward.prefill(slot, item.ids[start : start + CHUNK])
        keys.append(slot.keys[..., : slot.length].copy())
        values.append(slot.values[:, :, : slot.length].swapaxes(2, 3).copy())
    sides = {"keys": np.concatenate(keys, -1), "values": np.concatenate(values, -1)}  # (layers, heads, head, tokens)
    return [
        {"layer": layer, **{f"{name}_{what}": one for name, side in sides.items() for what, one in _of(side[layer])}}
        for layer in range(network.shape.layers)
    ]


def _of(side: Floats) -> list[tuple[str, float]]:
    """Shapes: (heads, head, tokens)."""
    tops = np.abs(side).max((1, 2))
    return [
        ("largest_over_rms", round(float(tops.max() / np.sqrt((side**2).mean())), 2)),
        ("head_over_head", round(float(tops.max() / tops.min()), 2)),
    ]
