"""One knob at a time: on which axes two recipes differ, and what a second axis would need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backends.recipes.formats import SIXTEEN_BIT
from backends.recipes.recipe import AXES, Recipe

_AROUND = ("workload", "hardware", "gpus", "context_tokens", "concurrency", "engine", "attention_backend")

# Which scores answer for which axis, in the words of the budgets; DESIGN 2.8 is the other direction.
EVIDENCE = {
    "weights": "tool calls and top-1 on this change alone",
    "activations": "top-1 on code and long generations on this change alone",
    "kv_cache": "recall at the served context length on this change alone",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One axis that differs: what it was and what it is."""

    axis: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What two recipes differ in.

    axes:     the precision axes, in the order weights, activations, kv_cache.
    around:   what else differs and changes no precision: (key, before, after).
    model:    whether they serve different models, so that nothing about them can be compared.
    """

    axes: tuple[Change, ...]
    around: tuple[Change, ...]
    model: bool

    @property
    def one_knob(self) -> bool:
        """Whether a difference in a score could have one cause only."""
        return len(self.axes) <= 1 and not self.model

    def advice(self) -> list[str]:
        """What follows, one sentence each."""
        said = []
        if self.model:
            said.append("they serve different models: no score of one says anything about the other")
        named = [change.axis for change in self.axes]
        if not named and not self.model:
            said.append("no precision axis differs")
        if len(named) == 1:
            said.append(f"one knob: {named[0]}; whatever a score loses is its doing")
        if len(named) > 1:
            said.append(f"{len(named)} knobs at once: {', '.join(named)}; a loss could come from any of them")
            said += [
                f"evidence for {one.axis}: a recipe that changes only {one.before} -> {one.after}, passed; "
                f"{EVIDENCE[one.axis]}"
                for one in self.axes
            ]
        if "weights" in named and "activations" in named:
            said.append(
                "one weight-and-activation scheme is still two knobs: prove the weights with 16-bit activations first"
            )
        said += [
            f"{one.axis} also differs, {one.before} -> {one.after}: another kernel or card has another noise floor"
            for one in self.around
            if one.axis in ("hardware", "engine", "attention_backend", "gpus")
        ]
        return said

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""

        def rows(changes: tuple[Change, ...]) -> list[dict[str, str]]:
            return [{"axis": one.axis, "before": one.before, "after": one.after} for one in changes]

        return {
            "axes": rows(self.axes), "around": rows(self.around), "other_model": self.model,
            "one_knob": self.one_knob, "advice": self.advice(),
        }  # fmt: skip


def difference(before: Recipe, after: Recipe) -> Difference:
    """What `after` changes. BF16 and FP16 are both unquantized: their exchange is told, and is no axis."""
    changed, around = [], []
    for axis in AXES:
        old, new = getattr(before, axis), getattr(after, axis)
        if old.format in SIXTEEN_BIT and new.format in SIXTEEN_BIT:
            if old.format != new.format:
                around.append(Change(f"{axis} (16 bits)", old.format, new.format))
        elif _meaning(old) != _meaning(new):
            changed.append(Change(axis, *_told_apart(old, new)))
    for key in _AROUND:
        old, new = getattr(before, key), getattr(after, key)
        if old != new:
            around.append(Change(key, str(old or "default"), str(new or "default")))
    model = (before.model.size, before.model.path, before.model.name) != (
        after.model.size, after.model.path, after.model.name
    )  # fmt: skip
    return Difference(tuple(changed), tuple(around), model)


def _meaning(axis: Any) -> tuple[Any, ...]:
    """An axis with its defaults filled in: what is said and what is left to the default are the same."""
    layers = getattr(axis, "ignored_layers", ()) or getattr(axis, "skipped_layers", ())
    return str(axis), tuple(sorted(layers))


def _told_apart(old: Any, new: Any) -> tuple[str, str]:
    if str(old) != str(new):
        return str(old), str(new)
    layers = "ignored_layers" if hasattr(old, "ignored_layers") else "skipped_layers"
    said = [f"{one}, {layers} {list(getattr(one, layers))}" for one in (old, new)]
    return said[0], said[1]
