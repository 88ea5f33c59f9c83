"""What was measured, read against the recipe: the cardinal rule, the axis that the pattern points at, the noise floor.

Source:  DESIGN 2.4 (a budget is at most 3 times the floor), 2.8 (failure patterns), 2.9 (the cardinal rule).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from backends.recipes.finding import Finding
from backends.recipes.formats import SIXTEEN_BIT
from backends.recipes.recipe import Recipe

CATEGORIES = ("tool_calls", "knowledge", "code", "long_context", "chat", "embedding")
DEFINING: Mapping[str, str] = {
    "agent": "tool_calls", "chat": "chat", "code": "code", "long_context": "long_context",
    "batch": "knowledge", "embedding": "embedding", "edge": "chat",
}  # fmt: skip
ACCEPTED_POINTS = 3.0
"""*choice*: what a product accepts by default, the 3 % of the agent preset's tool_call_mismatch."""

_AXIS = {"tool_calls": "weights", "long_context": "kv_cache", "code": "activations"}
_WHY = {
    "tool_calls": "weight quantization touched rare-vocabulary projections",
    "long_context": "the cache lost precision that only distant tokens need",
    "code": "activation quantization in the MLP, where one wrong token breaks a program",
}
_FIX = {
    "tool_calls": "scales per channel or finer blocks, calibration on tool use; else INT4 AWQ calibrated on tool use",
    "long_context": 'kv_cache.per = "head" or "token-head", or one step up: FP8 for INT4, 16 bits for FP8',
    "code": "weights only, with 16-bit activations; or QuaRot",
}


def read_deltas(recipe: Recipe, deltas: Mapping[str, float], accepted: float = ACCEPTED_POINTS) -> list[Finding]:
    """What measured differences to the reference say, in points (below 0: lost). Errors: the recipe must not ship.

    The workload-defining metric alone can forbid; nothing that another metric or the throughput gains outvotes it.
    """
    found = []
    defining = DEFINING[recipe.workload]
    for category, delta in deltas.items():
        if delta >= 0 or -delta <= accepted:
            continue
        axis, others = _AXIS.get(category), [value for name, value in deltas.items() if name != category]
        stable = all(-value <= accepted for value in others)
        quantized = axis is not None and getattr(recipe, axis).format not in SIXTEEN_BIT
        why, fix = "", "read 20 requests that used to pass; take one axis back to 16 bits at a time"
        if axis and quantized and stable:
            why = f"; with the rest stable it points at {axis} ({recipe.axes()[axis]}): {_WHY[category]}"
            fix = f"{_FIX[category]}; prove it: {_proof(recipe, axis)}"
        rule = (
            f"{category} defines the {recipe.workload} workload, so this recipe does not ship, whatever it gains in "
            "throughput or elsewhere"
            if category == defining
            else f"{category} does not define the {recipe.workload} workload: accept it by name, not by default"
        )
        found.append(
            Finding(
                "error" if category == defining else "warning",
                f"{axis}.format" if axis and quantized else category,
                f"{category} down {-delta:g} points (accepted: {accepted:g}); {rule}{why}",
                fix,
                "cardinal-rule" if category == defining else "delta-per-category",
                "DESIGN 2.8, 2.9",
            )
        )
    return found


def _proof(recipe: Recipe, axis: str) -> str:
    """The one-knob change that tells whether the axis is to blame. Low activations have no 16-bit weights beside them,
    so weights are proven guilty with the activations taken away."""
    if axis == "weights" and recipe.activations.format not in SIXTEEN_BIT:
        return "the same weights with 16-bit activations; if the loss stays, it is theirs"
    return f"take {axis} alone back to 16 bits; if the loss goes, it was theirs"


@dataclass(frozen=True, slots=True)
class Floored:
    """Whether a candidate's metric is within its budget, and the arithmetic.

    Units:  those of the runs (points).
    """

    mean: float
    lowest: float
    floor: float
    multiple: float
    accepted: float | None
    budget: float
    candidate: float
    drop: float

    @property
    def within(self) -> bool:
        """Whether the drop is inside the budget. A gain always is."""
        return self.drop <= self.budget

    def lines(self) -> list[str]:
        """The arithmetic, a line each."""
        product = f", at most the {self.accepted:g} that the product accepts" if self.accepted is not None else ""
        times = self.drop / self.floor if self.floor else float("inf")
        return [
            f"reference: mean {self.mean:.4g} of its runs",
            f"floor: {self.floor:.4g}, the spread between runs of the reference itself",
            f"budget: {self.multiple:g} x {self.floor:.4g} = {self.multiple * self.floor:.4g}{product} "
            f"-> {self.budget:.4g}",
            f"drop: {self.mean:.4g} - {self.candidate:.4g} = {self.drop:.4g}, which is {times:.3g} x the floor",
            f"against the reference's lowest run: {self.lowest:.4g} - {self.candidate:.4g} = "
            f"{self.lowest - self.candidate:.4g}",
            f"{self.drop:.4g} {'<=' if self.within else '>'} {self.budget:.4g}: "
            + ("within the budget" if self.within else "outside the budget: it does not ship on this metric"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "within": self.within, "arithmetic": self.lines()}


def floored(reference: tuple[float, ...], candidate: float, multiple: float, accepted: float | None = None) -> Floored:
    """The discipline's arithmetic on whole-suite metrics: floor = max - min of the reference's own runs.

    It is for reading a table of suite results. What promotes is the gate's anytime-valid verdict over pairs: two runs
    give a floor without an interval.

    Raises:  ValueError for fewer than two runs, which have no spread, and for what is no finite number.
    """
    if len(reference) < 2:
        raise ValueError("one run of the reference has no spread; run it twice, with another seed and batch")
    if not all(math.isfinite(one) for one in (*reference, candidate)):
        raise ValueError("a run must be a finite number")
    # Rounded to 12 digits: 78.6 - 78.2 is 0.3999... in binary, and a drop at exactly the budget is inside it.
    mean, floor = round(sum(reference) / len(reference), 12), round(max(reference) - min(reference), 12)
    budget = round(multiple * floor, 12)
    if accepted is not None:
        budget = min(budget, accepted)
    return Floored(mean, min(reference), floor, multiple, accepted, budget, candidate, round(mean - candidate, 12))
