"""What both arms can do, asked at the monitor's start and again when an arm came back or is another one.

An arm that does not answer says nothing: what was found before stands. A finding is asked for twice before it is left
alone, so that one odd reply is not kept for a month.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backends.base import Backend
from backends.capabilities import Asking, Capabilities, Finding, asking, find
from backends.contract import Contract
from proxy.monitor.lacks import BEARING, SIDES, Lack, Lacking, lacking, told

_log = logging.getLogger(__name__)


class CapabilityWatch:
    """Both arms' capabilities as last found. All calls on the monitor's loop."""

    def __init__(self, top_logprobs: int) -> None:
        """`top_logprobs` is what shadow calls ask for where both arms give it."""
        self._top = top_logprobs
        self._found: dict[str, Capabilities] = {}
        self._settled: dict[str, Contract] = {}

    async def look(self, side: str, backend: Backend, model: str | None, seen: Contract) -> None:
        """Asks one arm, unless it is the one that was asked before. Never raises for what it answers."""
        before = self._found.get(side)
        if before is not None and self._settled.get(side) == seen:
            return
        heard = await find(backend, model, top_logprobs=self._top, teacher_forcing=side == "reference")
        found = heard if before is None else _kept(before, heard)
        self._found[side] = found
        if before is not None and before.findings == found.findings and heard.answered:
            self._settled[side] = seen
        if before is None or before.findings != found.findings:
            self._tell(side, found)

    def away(self, side: str) -> None:
        """The arm did not answer: it is asked again once it does."""
        self._settled.pop(side, None)

    def asking(self) -> tuple[Asking, Asking]:
        """How shadow calls are made to the candidate and to the reference."""
        candidate, reference = (self._found.get(side, Capabilities()) for side in SIDES)
        return asking(candidate, reference, self._top)

    def contract(self, before: Mapping[str, Lacking] | None) -> dict[str, Lacking]:
        """The contract's part of it: both arms' lacks. What is not known of an arm is as `before` has it."""
        stand = {side: _standing(self._found.get(side, Capabilities()), (before or {}).get(side, {})) for side in SIDES}
        return {side: lacks for side, lacks in stand.items() if lacks}

    def lacks(self) -> list[Lack]:
        """Every lack of both arms, in sentences."""
        return [lack for side in SIDES if side in self._found for lack in told(side, self._found[side])]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, by side; an arm that was never asked is absent."""
        return {side: self._found[side].as_dict() for side in SIDES if side in self._found}

    def _tell(self, side: str, found: Capabilities) -> None:
        """Once, and when it is another: what bears on the scores as a warning."""
        for lack in told(side, found):
            _log.log(logging.WARNING if lack.capability in BEARING else logging.INFO, "%s", lack.sentence)


def _standing(of: Capabilities, before: Lacking) -> dict[str, str]:
    """What an arm lacks as far as it is known, and for the rest what it lacked before."""
    unknown = {str(one) for one in BEARING if of.of(one) is Finding.UNKNOWN}
    return {**{name: how for name, how in before.items() if name in unknown}, **lacking(of)}


def _kept(before: Capabilities, found: Capabilities) -> Capabilities:
    """What was found now, and for what is unknown now what was known."""
    silent = [one for one, finding in found.findings.items() if finding is Finding.UNKNOWN]
    if not silent:
        return found
    findings = {**found.findings, **{one: before.of(one) for one in silent}}
    length = found.top_logprobs if found.top_logprobs is not None else before.top_logprobs
    return replace(found, findings=findings, top_logprobs=length, engine=found.engine or before.engine)
