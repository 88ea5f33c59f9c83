"""When the verdict changed: an event in the ledger for each change, and since when the present one holds.

The events are for people. Evidence is a fold over rows and never reads them; a ledger from before there were any says
less, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from proxy.monitor.rows import VERDICT, Opening
from scorers.judge import Verdict

MAX_REASON_CHARS = 300  # *choice*: one sentence; the gate has the present ones whole


class Event(Protocol):
    """An event as the ledger's reader gives it."""

    @property
    def at_unix_s(self) -> float: ...

    @property
    def kind(self) -> str: ...

    @property
    def detail(self) -> Mapping[str, Any]: ...


class Since(NamedTuple):
    """Since when a verdict stands as it does. `exact` is false where it may have come earlier."""

    at_unix_s: float
    exact: bool


def note_of(verdict: Verdict, *, found: bool = False) -> dict[str, Any]:
    """The event of a verdict: JSON-ready, without anything that a client said.

    `found`: a starting monitor found it so in a ledger that tells of no such change; it came about earlier.
    """
    told = {
        "epoch": verdict.epoch,
        "state": verdict.state,
        "stage": verdict.stage,
        "samples": verdict.samples,
        "reason": (verdict.reasons[0] if verdict.reasons else "")[:MAX_REASON_CHARS],
    }
    return {**told, "found": True} if found else told


def same(told: Mapping[str, Any] | None, verdict: Verdict) -> bool:
    """Whether the latest event says what the verdict says. An epoch begins inconclusive, which needs no event."""
    if told is None or told.get("epoch") != verdict.epoch:
        return verdict.state == "inconclusive" and verdict.stage == "proving"
    return told.get("state") == verdict.state and told.get("stage") == verdict.stage


def since(verdict: Verdict, events: Sequence[Event], openings: Sequence[Opening]) -> Since | None:
    """Since when the state has been what it is, in its epoch; None when nothing tells. `events`: latest first."""
    began: Event | None = None
    own = (event for event in events if event.kind == VERDICT and event.detail.get("epoch") == verdict.epoch)
    for event in own:
        if event.detail.get("state") != verdict.state:
            break
        began = event
    else:  # back to the epoch's beginning without another state
        opened = next((one.opened_unix_s for one in openings if one.epoch == verdict.epoch), None)
        if verdict.state == "inconclusive" and opened is not None:
            return Since(opened, True)
    return None if began is None else Since(began.at_unix_s, not began.detail.get("found"))
