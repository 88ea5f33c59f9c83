"""Fixed scales: what the model's own keys, values and layer inputs reach on a fixed set of conversations.

Engines calibrate the same way (llm-compressor's kv_cache_scheme, static activations): the largest magnitude seen, per
layer. The set is small because a maximum settles soon; a value beyond it later is clipped, as it is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backends.emulator.cache import CHUNK, Arena
from backends.emulator.formats import Floats
from backends.emulator.forward import Forward
from backends.emulator.network import SITES, Network, Reach

SEED = 20_261_123  # any number; fixed, so that equal checkpoints get equal scales
_PLACES = ("harbor", "station", "quarry", "library", "mill", "garden", "depot", "tower")
_THINGS = ("access code", "opening hour", "order number", "contact", "delivery date", "room")
_FILLER = (
    "The morning shift wrote its report and went home.",
    "Nothing unusual was seen near the river that week.",
    "A new lamp was put up beside the door.",
    "Visitors came at noon and asked for the way.",
)
_TOOLS = tuple(
    {"type": "function", "function": {"name": name, "description": text, "parameters": {
        "type": "object", "properties": {one: {"type": kind} for one, kind in fields.items()}}}}
    for name, text, fields in (
        ("get_weather", "Weather forecast of a city", {"city": "string", "days": "integer"}),
        ("book_table", "Book a table in a restaurant", {"name": "string", "people": "integer", "outside": "boolean"}),
        ("convert", "Convert an amount between currencies", {"amount": "number", "target": "string"}),
    )
)  # fmt: skip


def conversations() -> Iterable[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """(messages, tools) of each conversation: sums, tool calls, lists of facts, and facts in long text."""
    rng = random.Random(SEED)
    for _ in range(4):
        yield [_said("user", f"What is {rng.randrange(100)} + {rng.randrange(100)}?"), _said("assistant", "112")], []
    for ask in ("Weather in Lisbon for 3 days?", "Book a table for 4 under Chen.", "Convert 250 from EUR to CHF."):
        yield [_said("system", "Use tools when they fit."), _said("user", ask)], list(_TOOLS)
    for facts, filler in ((6, 0), (24, 0), (4, 40), (8, 160)):
        lines = [_FILLER[rng.randrange(len(_FILLER))] for _ in range(filler)]
        for _ in range(facts):
            place, thing = rng.choice(_PLACES), rng.choice(_THINGS)
            lines.insert(
                rng.randrange(len(lines) + 1), f"The {thing} of the {place} is {rng.randrange(1_000, 999_999)}."
            )
        yield [_said("user", "\n".join(lines) + "\nWhat is the access code of the mill?")], []


def reach(network: Network, prompts: Iterable[Sequence[int]]) -> Reach:
    """The largest magnitudes over prompts given as token ids, with nothing quantized but the weights."""
    shape = network.shape
    found = Reach(
        np.zeros((shape.layers, len(SITES)), np.float32),
        np.zeros((shape.layers, shape.kv_heads), np.float32),
        np.zeros((shape.layers, shape.kv_heads), np.float32),
    )
    layers = tuple(
        replace(
            layer,
            round_inputs=tuple(_watch(found.inputs[number, site : site + 1], None) for site in range(len(SITES))),
            round_keys=_watch(found.keys[number], (0, 1, 3)),
            round_values=_watch(found.values[number], (0, 1, 3)),
        )
        for number, layer in enumerate(network.layers)
    )
    forward, arena = Forward(replace(network, layers=layers)), Arena(shape, slots=1)
    for prompt in prompts:
        ids = list(prompt)[: shape.context]
        slot = arena.take()
        if slot is None:
            raise AssertionError("the only slot was not given back")
        for start in range(0, len(ids), CHUNK):
            forward.prefill(slot, ids[start : start + CHUNK])
        arena.give(slot)
    return found


def _watch(top: Floats, axes: tuple[int, ...] | None) -> Callable[[Floats], Floats]:
    """Passes values on and keeps the largest magnitude in `top`."""

    def seen(x: Floats) -> Floats:
        np.maximum(top, np.abs(x).max(axis=axes), out=top)
        return x

    return seen


def _said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}
