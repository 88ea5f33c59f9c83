"""Watches what the arms say they are. Evidence holds for one candidate and one reference; a changed one starts anew.

An arm that cannot be reached says nothing: its last known contract stands, because a restart is no change. A difference
is looked at twice before it is believed, so that one odd reply cannot throw away the evidence of a week.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from backends.base import Backend, BackendError
from backends.contract import Contract, observe

LOOK_INTERVAL_S = 30.0  # choice
CONFIRM_AFTER_S = 1.0  # choice

_log = logging.getLogger(__name__)


class ContractWatch:
    """Both arms' contracts as last seen. `contract` makes one JSON-ready value of them for the ledger."""

    def __init__(
        self,
        candidate: Backend,
        reference: Backend,
        *,
        candidate_model: str | None,
        reference_model: str | None,
        recipe: str,
    ) -> None:
        self._backends = {"candidate": candidate, "reference": reference}
        self._models = {"candidate": candidate_model, "reference": reference_model}
        self._recipe = recipe
        self._seen: dict[str, Contract] = {}
        self._errors: dict[str, str] = {}

    @property
    def unseen(self) -> tuple[str, ...]:
        """The arms that have never answered since the start."""
        return tuple(side for side in self._backends if side not in self._seen)

    @property
    def unreachable(self) -> Mapping[str, str]:
        """The arms that did not answer at the last look, and the one-line error."""
        return self._errors

    async def look(self) -> None:
        """Observes both arms. Never raises: an arm that does not answer keeps its last contract."""
        await asyncio.gather(*(self._look_at(side) for side in self._backends))

    def contract(self, standing: Mapping[str, Any] | None) -> dict[str, Any]:
        """What holds now; for an arm that was never seen, what the standing contract says of it."""
        known: dict[str, Any] = {"recipe": self._recipe}
        for side in self._backends:
            seen = self._seen.get(side)
            known[side] = seen.as_dict() if seen is not None else dict((standing or {}).get(side) or {})
        return known

    def alarms(self) -> list[str]:
        """Sentences about arms that cannot be compared as they are."""
        alarms = []
        for side, model in self._models.items():
            seen = self._seen.get(side)
            if seen is not None and seen.model is None and model is not None:
                alarms.append(f"the {side} does not list the model {model!r}")
        templates = {side: seen.template for side, seen in self._seen.items() if seen.template is not None}
        if len(set(templates.values())) > 1:
            alarms.append("candidate and reference turn the same conversation into different tokens")
        return alarms

    async def _look_at(self, side: str) -> None:
        try:
            self._seen[side] = await observe(self._backends[side], self._models[side])
            self._errors.pop(side, None)
        except BackendError as error:
            if side not in self._errors:
                _log.warning("the %s cannot be observed: %s", side, error)
            self._errors[side] = str(error)
        except Exception as error:  # noqa: BLE001  whatever an arm answers, the watch looks again
            if side not in self._errors:
                _log.exception("the %s said something that could not be read", side)
            self._errors[side] = f"its answer could not be read ({type(error).__name__})"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line per part of the contract that differs; empty when it still holds."""
    lines = []
    if before.get("recipe") != after.get("recipe"):
        lines.append(f"recipe: {before.get('recipe')} became {after.get('recipe')}")
    for side in ("candidate", "reference"):
        old, new = before.get(side) or {}, after.get(side) or {}
        lines += [
            f"{side} {key}: {old.get(key, 'absent')} became {new.get(key, 'absent')}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
    return lines
