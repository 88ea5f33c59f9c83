"""The pinned contract, checked while the monitor runs: all of it that an engine shows over HTTP.

An arm that cannot be reached says nothing, as with the watch. What is found broken is part of the epoch's contract, so
a break ends the epoch and its mending begins another; while it is broken the evidence is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.base import Backend
from backends.pinned.compare import compare_probed
from backends.pinned.pin import Pin
from backends.pinned.probes import probe

SHOWN = 3  # *choice*: in a sentence; a changed tokenizer changes every probe, and the contract has them all


class PinnedWatch:
    """A pin and what each of its arms was found to be. `name` is the pin file's, for people."""

    def __init__(self, name: str, pin: Pin) -> None:
        self._name = name
        self._pin = pin
        self._broken: dict[str, list[str]] = {}

    async def look(self, side: str, backend: Backend, model: str | None) -> None:
        """Compares one arm with the pin, when it is pinned. Raises: BackendError; what was found before stands then."""
        pinned = self._pin.arms.get(side)
        if pinned is None:
            return
        beat = pinned.heartbeat
        seen = await probe(backend, model, None if beat is None else beat.prompt)
        found = compare_probed(side, pinned, seen)
        # Without the heartbeat's figure: it may differ from look to look, and each other line would be another epoch.
        self._broken[side] = [one.line() if one.part != "heartbeat" else _HEARTBEAT.format(side) for one in found]

    def contract(self, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the epoch's contract holds of it, JSON-ready; of an arm not seen yet, what `before` said of this pin."""
        known = before if before is not None and before.get("seal") == self._pin.seal else {}
        earlier = known.get("broken", {})
        broken = {side: self._broken.get(side, earlier.get(side, [])) for side in self._pin.arms}
        return {
            "file": self._name,
            "seal": self._pin.seal,
            "broken": {side: what for side, what in broken.items() if what},
        }


_HEARTBEAT = "{} heartbeat: beyond the pinned tolerance"


def broken_in(contract: Mapping[str, Any]) -> str:
    """Why nothing is judged under this contract, in one sentence; "" while the pin holds, or there is none."""
    pin = contract.get("pin") or {}
    lines = [line for what in (pin.get("broken") or {}).values() for line in what]
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more"]
    return f"the pinned contract {pin.get('file')} does not hold: {'; '.join(lines)}" if lines else ""


def pin_changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    """One line per thing that broke or was mended, and for another pin."""
    old, new = before or {}, after or {}
    lines = []
    if old.get("seal") != new.get("seal"):
        lines.append(f"pinned contract: {old.get('seal', 'none')} became {new.get('seal', 'none')}")
    was = [line for what in (old.get("broken") or {}).values() for line in what]
    now = [line for what in (new.get("broken") or {}).values() for line in what]
    lines += [f"pinned contract broken: {line}" for line in now if line not in was]
    if was and not now and new:
        lines.append("the pinned contract holds again")
    elif set(was) - set(now):
        lines += [f"pinned contract: no longer {line}" for line in was if line not in now]
    return lines
