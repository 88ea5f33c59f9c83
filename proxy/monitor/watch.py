"""Watches what the arms say they are. Evidence holds for one candidate and one reference; a changed one starts anew.

An arm that cannot be reached says nothing: its last known contract stands, because a restart is no change. A difference
is looked at twice before it is believed, so that one odd reply cannot throw away the evidence of a week.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from backends.base import Backend, BackendError
from backends.contract import Contract, observe
from backends.weights import WeightFiles
from proxy.errors import LedgerError
from proxy.monitor.capability_watch import CapabilityWatch
from proxy.monitor.lacks import lack_changes
from proxy.monitor.pinned import PinnedWatch, pin_changes
from proxy.monitor.prompt_tokens import AGREE, DIFFER, Word, templates_differ, word_of
from scorers.judge import Budget, GateRules, start

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
        gate: Mapping[str, Any],
        weights: Mapping[str, WeightFiles] | None = None,
        pinned: PinnedWatch | None = None,
        capabilities: CapabilityWatch | None = None,
    ) -> None:
        """`gate` is what is asked of the arms: the evidence is about that too. `weights` are the arms' files, by side;
        without them no file is looked at. `pinned` is what the arms are held against.
        `capabilities` asks what they can do; without it nothing is lacking."""
        self._backends = {"candidate": candidate, "reference": reference}
        self._models = {"candidate": candidate_model, "reference": reference_model}
        self._recipe = recipe
        self._gate = gate
        self._weights = weights or {}
        self._pinned = pinned
        self._capabilities = capabilities
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

    def contract(self, standing: Mapping[str, Any] | None, prompts: Word | None = None) -> dict[str, Any]:
        """What holds now; for an arm that was never seen, what the standing contract says of it.

        `prompts` is what the rows say of the prompt tokens, by default what the standing contract does. It is about the
        arms as they stand: where one changed, or another recipe is said to be there, they are taken to agree.
        """
        before = standing or {}
        known: dict[str, Any] = {"recipe": self._recipe, "gate": self._gate}
        for side in self._backends:
            known[side] = self._arm(side, before.get(side) or {})
        if self._pinned is not None:
            known["pin"] = self._pinned.contract(before.get("pin"))
        if self._capabilities is not None:
            lacks = self._capabilities.contract(before.get("lacks"))
            known |= {"lacks": lacks} if lacks else {}
        parts = ("recipe", *self._backends, "pin", "lacks")
        same = standing is not None and all(known.get(part) == before.get(part) for part in parts)
        known["prompt_tokens"] = (prompts or word_of(before)) if same else AGREE
        if templates_differ(known):
            known["prompt_tokens"] = DIFFER  # known before any row
        return known

    def _arm(self, side: str, before: Mapping[str, Any]) -> dict[str, Any]:
        seen, files = self._seen.get(side), self._weights.get(side)
        if seen is None:
            return dict(before)
        arm = seen.as_dict()
        if files is not None and files.unsure and "weights" in before:
            arm["weights"] = before["weights"]
        return arm

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
            seen = await observe(self._backends[side], self._models[side], weights=self._weights.get(side))
            if self._pinned is not None:
                await self._pinned.look(side, self._backends[side], self._models[side])
            if self._capabilities is not None:
                await self._capabilities.look(side, self._backends[side], self._models[side], seen)
            self._seen[side] = seen
            self._errors.pop(side, None)
        except BackendError as error:
            if side not in self._errors:
                _log.warning("the %s cannot be observed: %s", side, error)
            self._errors[side] = str(error)
            if self._capabilities is not None:
                self._capabilities.away(side)
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
        lines += _differences(side, old, new)
    if word_of(before) != word_of(after):
        lines.append(f"prompt tokens: {word_of(before)} became {word_of(after)}")
    lines += lack_changes(before.get("lacks"), after.get("lacks"))
    lines += pin_changes(before.get("pin"), after.get("pin"))
    return lines + _gate_changes(before.get("gate") or {}, after.get("gate") or {})


def gate_of(budgets: Sequence[Budget], rules: GateRules) -> dict[str, Any]:
    """What the evidence is to decide, as the contract holds it. JSON-ready; `read_gate` reads it."""
    return {"budgets": [budget.as_dict() for budget in budgets], "rules": rules.as_dict()}


def read_gate(contract: Mapping[str, Any]) -> tuple[tuple[Budget, ...], GateRules]:
    """The budgets and rules of a stored contract.

    Raises:  LedgerError when it has none (it was written before they were part of it) or they cannot be read.
    """
    gate = contract.get("gate")
    if not gate:
        raise LedgerError(
            "this epoch was recorded by a version that did not keep its budgets; "
            "let the present version run on this ledger: it opens a new epoch, which can be judged"
        )
    try:
        budgets, rules = tuple(Budget(**budget) for budget in gate["budgets"]), GateRules(**gate["rules"])
        start(budgets, rules)  # refuses what could never be judged
        return budgets, rules
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"the budgets of this epoch cannot be read: {error}") from error


def _gate_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    if before == after:
        return []
    if not before:
        return ["gate: its budgets were not recorded before"]
    old, new = ({budget["name"]: budget for budget in gate.get("budgets", ())} for gate in (before, after))
    lines = [f"budget {name} was removed" for name in old.keys() - new.keys()]
    lines += [f"budget {name} was added" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        lines += _differences(f"budget {name}", old[name], new[name])
    lines += _differences("rule", before.get("rules", {}), after.get("rules", {}))
    return sorted(lines) or ["gate: the order of its budgets changed"]


def _differences(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{what} {key}: {old.get(key, 'absent')} became {new.get(key, 'absent')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
