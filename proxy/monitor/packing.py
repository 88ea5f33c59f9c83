"""How the scores of a row become a few bytes, and an Observation again, fast.

Rows look alike: the same scores, the same reasons, other numbers. What is alike is a `Shape`, stored once and
named by a small integer; what is left of a row is its numbers, eight little-endian bytes each. Reading a million
rows back then costs one `struct.unpack` and two dict builds a row, and every float is what it was to the last bit.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from proxy.errors import LedgerError
from proxy.monitor.rows import ScoreRow
from scorers.records import Arm, Reason

Slot: TypeAlias = tuple[Arm, str, Reason | None]  # None: a number stands there

_EMPTY: Mapping[str, float | Reason] = {}


@dataclass(frozen=True, slots=True)
class Shape:
    """What rows have in common: per score its arm, its name, and the reason when it has no number.

    Numbers are packed candidate first, then noise, each in slot order.
    """

    slots: tuple[Slot, ...]
    candidate_names: tuple[str, ...] = field(init=False)
    noise_names: tuple[str, ...] = field(init=False)
    candidate_reasons: dict[str, float | Reason] = field(init=False)
    noise_reasons: dict[str, float | Reason] = field(init=False)
    layout: struct.Struct = field(init=False)

    def __post_init__(self) -> None:
        if len({(arm, name) for arm, name, _ in self.slots}) != len(self.slots):
            raise LedgerError("a row holds one score twice for one arm; the evidence could not tell which one counts")
        numbers = [(arm, name) for arm, name, reason in self.slots if reason is None]
        derive = object.__setattr__  # frozen: these are functions of `slots`, set once
        derive(self, "candidate_names", tuple(name for arm, name in numbers if arm == "candidate"))
        derive(self, "noise_names", tuple(name for arm, name in numbers if arm == "noise"))
        derive(self, "candidate_reasons", {n: r for a, n, r in self.slots if a == "candidate" and r is not None})
        derive(self, "noise_reasons", {n: r for a, n, r in self.slots if a == "noise" and r is not None})
        derive(self, "layout", struct.Struct(f"<{len(numbers)}d"))

    def sides(self, packed: bytes) -> tuple[Mapping[str, float | Reason], Mapping[str, float | Reason]]:
        """(candidate, noise) as an Observation holds them."""
        values = self._values(packed)
        candidate = self.candidate_reasons.copy()
        candidate.update(zip(self.candidate_names, values, strict=False))  # noise numbers follow: stop at the names
        if not self.noise_names:
            return candidate, self.noise_reasons or _EMPTY
        noise = self.noise_reasons.copy()
        noise.update(zip(self.noise_names, values[len(self.candidate_names) :], strict=True))
        return candidate, noise

    def rows(self, packed: bytes, explanations: Sequence[Mapping[str, Any]] | None = None) -> tuple[ScoreRow, ...]:
        """The scores in the order in which they were written."""
        values = self._values(packed)
        numbers: dict[Arm, Any] = {
            "candidate": iter(values[: len(self.candidate_names)]),
            "noise": iter(values[len(self.candidate_names) :]),
        }
        told = explanations if explanations is not None else ({},) * len(self.slots)
        return tuple(
            ScoreRow(arm, name, next(numbers[arm]) if reason is None else None, reason, explanation)
            for (arm, name, reason), explanation in zip(self.slots, told, strict=True)
        )

    def to_text(self) -> str:
        """The shape as JSON, as the ledger stores it."""
        return json.dumps([[arm, name, reason] for arm, name, reason in self.slots], separators=(",", ":"))

    @staticmethod
    def from_text(text: str) -> Shape:
        """Raises: LedgerError on anything that `to_text` did not write."""
        try:
            slots = tuple(
                (_arm(arm), str(name), None if reason is None else Reason(reason))
                for arm, name, reason in json.loads(text)
            )
        except (ValueError, TypeError) as error:
            raise LedgerError(f"the ledger holds a score layout that this version does not know: {error}") from error
        return Shape(slots)

    def _values(self, packed: bytes) -> tuple[float, ...]:
        try:
            values = cast(tuple[float, ...], self.layout.unpack(packed))
        except struct.error as error:
            raise LedgerError(f"the ledger is corrupt: a row's scores do not fit their layout ({error})") from error
        if not math.isfinite(sum(values)) and not all(map(math.isfinite, values)):  # one look for all is quicker
            raise LedgerError("the ledger is corrupt: a row holds a score that is not a number")
        return values


def slots_of(scores: Sequence[ScoreRow]) -> tuple[Slot, ...]:
    """The slots of a row's scores: the key of its shape."""
    return tuple((score.arm, score.name, None if score.value is not None else score.reason) for score in scores)


def pack(scores: Sequence[ScoreRow]) -> bytes:
    """The numbers of a row's scores, candidate first.

    Raises:  LedgerError when a score is not a finite number and has no reason either.
    """
    candidate: list[float] = []
    noise: list[float] = []
    for score in scores:
        value = score.value
        if value is None:
            if score.reason is None:
                raise LedgerError(f"{score.name}: neither a number nor a reason")
            continue
        if not math.isfinite(value):
            raise LedgerError(f"{score.name}: {value} is not a number; a score that cannot be given has a reason")
        (candidate if score.arm == "candidate" else noise).append(value)
    numbers = candidate + noise
    return struct.pack(f"<{len(numbers)}d", *numbers)


def _arm(text: str) -> Arm:
    if text == "candidate":
        return "candidate"
    if text == "noise":
        return "noise"
    raise ValueError(f"{text!r} is no arm")
