"""The staged rollout: which step it stands at, what that still needs, and when it returns to the reference.

    stepping --pairs, time, no budget over--> next step ... --and the verdict pass--> promoted
    any of them --verdict fail--> failed      an operator: pause, resume, abort, promote (the next step, needs or not)

Each place is an event in the ledger: upwards it is durable before a relay hears of it, downwards the relay hears first.
A restart goes on from the latest place; new evidence (an epoch, a reset) begins at the first step, because nothing is
proven then. An abort outlives that: it was an operator's, and ends by `resume` or a reset.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from proxy.errors import LedgerError, RolloutError
from proxy.exchange import Order, Phase
from proxy.settings import RolloutSettings, StepSettings
from scorers.judge import Verdict

TICK_S = 1.0  # choice: how often the order is repeated; relay workers count the silence in tens of seconds
ACTS = ("pause", "resume", "abort", "promote")
_AT_THE_REFERENCE = frozenset({Phase.FAILED, Phase.ABORTED})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rollout stands. `pairs` is how many the evidence held when the step began.

    Units:  step from 0; since_unix_s seconds since the Unix epoch, when the step began.
    """

    epoch: int
    phase: Phase
    step: int
    pairs: int
    since_unix_s: float
    reason: str

    def order(self, steps: Sequence[StepSettings]) -> Order:
        """What the relays are told."""
        share = 0.0 if self.phase in _AT_THE_REFERENCE else steps[self.step].share
        return Order(share, self.phase, self.step + 1)

    def as_dict(self, steps: Sequence[StepSettings]) -> dict[str, Any]:
        """JSON-ready, with the share that it stands for."""
        return {**asdict(self), "phase": self.phase.value, "share": self.order(steps).share}


def recalled(told: Mapping[str, Any], steps: Sequence[StepSettings]) -> Place:
    """The place of an event. Under other steps than it was made, the last of them that is no larger than its own.

    Raises:  KeyError, TypeError, ValueError when it is no such event.
    """
    phase, step, last = Phase(told["phase"]), int(told["step"]), len(steps) - 1
    if phase is Phase.PROMOTED:
        step = last
    elif phase in _AT_THE_REFERENCE:
        step = min(step, last)
    else:  # the whole is served by promotion alone
        step = max((n for n, one in enumerate(steps[:-1]) if one.share <= float(told["share"])), default=0)
    return Place(int(told["epoch"]), phase, step, int(told["pairs"]), float(told["since_unix_s"]), str(told["reason"]))


def begun(verdict: Verdict, now_unix_s: float, reason: str) -> Place:
    """The first step, on the evidence as it stands."""
    return Place(verdict.epoch or 0, Phase.STEPPING, 0, verdict.samples, now_unix_s, reason)


def fallen(place: Place, verdict: Verdict, now_unix_s: float) -> Place:
    """Where the place falls to by itself: after a fail, or when the evidence that it rests on is gone. Else itself."""
    if place.phase is Phase.ABORTED:
        return place
    if verdict.state == "fail":
        if place.phase is Phase.FAILED and place.epoch == verdict.epoch:
            return place
        why = f"the verdict is fail: {verdict.reasons[0]}"
        return replace(place, epoch=verdict.epoch or 0, phase=Phase.FAILED, since_unix_s=now_unix_s, reason=why)
    if place.epoch != verdict.epoch:
        return begun(verdict, now_unix_s, "a new epoch began: nothing is proven in it yet")
    if place.phase is Phase.FAILED or verdict.samples < place.pairs:
        return begun(verdict, now_unix_s, "the evidence was reset")
    return place


def needs(place: Place, verdict: Verdict, steps: Sequence[StepSettings], now_unix_s: float) -> list[str]:
    """What keeps the rollout at its step, in sentences; empty when the next one may begin."""
    if place.phase is Phase.PROMOTED:
        return []
    if place.phase is not Phase.STEPPING:
        return [f"it is {place.phase}: {place.reason}"]
    step = steps[place.step]
    said = []
    seen, waited_s = verdict.samples - place.pairs, now_unix_s - place.since_unix_s
    if seen < step.pairs:
        said.append(f"{seen} of {step.pairs} pairs at this step")
    if waited_s < step.seconds:
        said.append(f"{waited_s:.0f} of {step.seconds:g} s at this step")
    for name, budget in verdict.budgets.items():
        if budget.state == "fail" or (budget.value is not None and budget.value > budget.limit):
            said.append(f"{name} is over its limit")
    if place.step + 1 == len(steps) - 1 and verdict.state != "pass":
        said.append(f"the last step needs the verdict pass, and it is {verdict.state}: {verdict.reasons[0]}")
    return said


def stepped(place: Place, verdict: Verdict, steps: Sequence[StepSettings], now_unix_s: float, reason: str) -> Place:
    """The next step."""
    step = place.step + 1
    phase = Phase.PROMOTED if step == len(steps) - 1 else Phase.STEPPING
    return Place(place.epoch, phase, step, verdict.samples, now_unix_s, reason)


class Rollout:
    """Keeps the place, writes it down, and tells the relays.

    `record` makes an event durable or raises LedgerError; `record_soon` does so when the ledger can. `wall` is seconds
    since the Unix epoch. All on the monitor's loop.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        record: Callable[[Mapping[str, Any]], Awaitable[None]],
        record_soon: Callable[[Mapping[str, Any]], None],
        wall: Callable[[], float],
    ) -> None:
        self._steps = settings.steps
        self._record = record
        self._record_soon = record_soon
        self._wall = wall
        self._tell: Callable[[Order], None] = lambda order: None
        self._place: Place | None = None
        self._needs: list[str] = []

    def attach(self, tell: Callable[[Order], None]) -> None:
        """`tell` is the way to the relays."""
        self._tell = tell

    def resume(self, told: Mapping[str, Any] | None, verdict: Verdict) -> None:
        """Goes on from the latest event, or begins."""
        place = None
        if told is not None:
            try:
                place = recalled(told, self._steps)
            except (KeyError, TypeError, ValueError) as error:
                _log.error("the rollout's last place cannot be read (%r): it begins at its first step", error)
        if place is None:
            self._move(begun(verdict, self._wall(), "the rollout begins"))
        else:
            self._place = place
        self.look(verdict)

    def look(self, verdict: Verdict) -> None:
        """Falls back, if it must, at once; then says the order, also when it is the same: silence means something."""
        if self._place is None or verdict.epoch is None:
            return
        place = fallen(self._place, verdict, self._wall())
        if place is not self._place:
            self._move(place)
        self._needs = needs(place, verdict, self._steps, self._wall())
        self._tell(place.order(self._steps))

    async def go_on(self, verdict: Verdict) -> None:
        """Takes the next step, if this one needs nothing more and the ledger has written the next down."""
        place = self._place
        if place is None or place.phase is not Phase.STEPPING or self._needs:
            return
        seen = verdict.samples - place.pairs
        await self._climb(place, stepped(place, verdict, self._steps, self._wall(), f"{seen} pairs, no budget over"))

    async def keep(self, verdict: Callable[[], Verdict]) -> None:
        """For ever: what time brings, and the order again."""
        while True:
            now = verdict()
            self.look(now)
            try:
                await self.go_on(now)
            except (LedgerError, RolloutError) as error:
                _log.warning("rollout: the next step was not taken: %s", error)
            await asyncio.sleep(TICK_S)

    async def act(self, act: str, reason: str, verdict: Verdict) -> Mapping[str, Any]:
        """Where it stands after an operator's act.

        Raises:  RolloutError when it does not allow that now; LedgerError when a step could not be recorded.
        """
        place = self._place
        if place is None:
            raise RolloutError("the monitor is still reading its ledger; try again when /readyz says that it resumed")
        why, phase = f"an operator: {act}" + (f" ({reason})" if reason else ""), place.phase
        if act == "abort" and phase is not Phase.ABORTED:
            self._move(replace(place, phase=Phase.ABORTED, reason=why))
        elif act == "pause" and phase is Phase.STEPPING:
            self._move(replace(place, phase=Phase.PAUSED, reason=why))
        elif act == "resume" and phase is Phase.PAUSED:
            await self._climb(place, replace(place, phase=Phase.STEPPING, reason=why))
        elif act == "resume" and phase is Phase.ABORTED:
            await self._climb(place, begun(verdict, self._wall(), why))
        elif act == "promote" and phase in (Phase.STEPPING, Phase.PAUSED) and verdict.state != "fail":
            await self._climb(place, stepped(place, verdict, self._steps, self._wall(), why))
        else:
            hint = "; POST /gate/reset begins anew" if phase is Phase.FAILED else ""
            raise RolloutError(f"the rollout is {phase} and does not take {act}{hint}")
        self.look(verdict)
        return self.state()

    def begin_again(self, verdict: Verdict) -> None:
        """The evidence was reset: the first step, also after an abort."""
        if self._place is not None:
            self._move(begun(verdict, self._wall(), "an operator reset the evidence"))
            self.look(verdict)

    def state(self) -> Mapping[str, Any]:
        """JSON-ready: the place, and what it needs; empty while the ledger is being read."""
        place = self._place
        if place is None:
            return {}
        shares = [step.share for step in self._steps]
        return {**place.as_dict(self._steps), "step": place.step + 1, "steps": shares, "needs": list(self._needs)}

    async def _climb(self, before: Place, place: Place) -> None:
        """Upwards: written down first. Whoever fell meanwhile has fallen."""
        await self._record(place.as_dict(self._steps))
        if self._place is before:
            self._move(place, recorded=True)
        elif self._place is not None:
            self._record_soon(self._place.as_dict(self._steps))  # the latest event is to be where it stands
            raise RolloutError(f"meanwhile the rollout is {self._place.phase}: {self._place.reason}")

    def _move(self, place: Place, *, recorded: bool = False) -> None:
        self._place = place
        order = place.order(self._steps)
        self._tell(order)
        if not recorded:
            self._record_soon(place.as_dict(self._steps))
        level = logging.WARNING if place.phase in _AT_THE_REFERENCE else logging.INFO
        said = "rollout: %s, step %d of %d, the candidate serves %g %% of the clients: %s"
        _log.log(level, said, place.phase, order.step, len(self._steps), 100 * order.share, place.reason)
