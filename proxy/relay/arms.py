"""Two engines behind one relay: which of them serves a request while a recipe is rolled out in steps.

A client stands at one place in [0, 1), the keyed hash of what tells it from others (a header's value); the candidate
serves those below the share that the monitor orders. So a client stays where it is, in every worker and on every
machine with the same salt, and one that has the candidate at 5 % still has it at 25 %.

Nothing here waits for the monitor. Before its first order, and once it has been silent for too long, the reference
serves: a candidate that is still being proven must not serve while nobody looks. What was promoted stays.
"""

from __future__ import annotations

import logging
import re
import time
from random import random

from proxy.exchange import Order, Phase, ServedBy
from proxy.metrics import ArmCounters
from proxy.relay.candidate import CandidatePool
from proxy.relay.head import RequestHead
from proxy.relay.refusal import Refusal
from proxy.sampling import Sampler
from proxy.settings import Settings

_FAILED_UNSEEN = frozenset({Refusal.CONNECT, Refusal.CONNECT_TIMEOUT, Refusal.CUT})  # before the reply's head was whole

_log = logging.getLogger(__name__)


class Arms:
    """Chooses the engine of each request of one worker. `pools` are those of the candidate and of the reference."""

    def __init__(self, settings: Settings, pools: tuple[CandidatePool, CandidatePool], salt: bytes) -> None:
        self.candidate, self.reference = pools
        self.counters = ArmCounters()
        self._failover = settings.relay.failover is not None
        self._free_bytes = settings.relay.max_failover_bytes
        self._order: Order | None = None
        self._heard_s = 0.0
        self._silent = False
        self._max_silence_s = 0.0
        self._keys: tuple[re.Pattern[bytes], ...] = ()
        if settings.rollout is None:
            self._share = 1.0
        else:
            self._share = 0.0
            self._max_silence_s = settings.rollout.max_silence_s
            self._keys = tuple(map(_value_of, settings.rollout.sticky))
        # The recipe is part of the key, so that it is not always the same clients who meet a new one first.
        key = salt + b"/rollout/" + settings.gate.recipe.encode()
        self._place_of = Sampler(key, rate=1.0, large_body_rate=1.0, large_body_bytes=1).fraction
        self.counters.share = self._share

    def choose(self, head: RequestHead) -> ServedBy:
        """The arm of a request that begins now."""
        share = self._share
        if share >= 1.0 or (share > 0.0 and self._place(head.forward) < share):
            self.counters.candidate += 1
            return ServedBy.CANDIDATE
        self.counters.reference += 1
        return ServedBy.REFERENCE

    def spare(self, arm: ServedBy) -> Spare | None:
        """Where to hold the body of a request to this arm, if the other may have to answer it."""
        return Spare(self) if self._failover and arm is ServedBy.CANDIDATE else None

    def hold(self, size: int) -> bool:
        """Whether there is room for so much more. Units: bytes; negative ones are given back."""
        if size > self._free_bytes:
            return False
        self._free_bytes -= size
        return True

    def follow(self, order: Order) -> None:
        """Takes an order of the monitor: it holds for every request that begins from now on."""
        self._heard_s = time.monotonic()
        if order != self._order or self._silent:
            self._order, self._silent = order, False
            self._serve(order.share)
            level = logging.WARNING if order.phase in (Phase.FAILED, Phase.ABORTED) else logging.INFO
            _log.log(level, "rollout: %s, step %d: the candidate serves %s", order.phase, order.step, _percent(order))

    def sweep(self, now_s: float) -> None:
        """Returns to the reference once the monitor has been silent for too long."""
        self.reference.sweep(now_s)
        order = self._order
        if order is None or self._silent or not self._max_silence_s or order.phase is Phase.PROMOTED:
            return
        if now_s - self._heard_s > self._max_silence_s:
            self._silent = True
            self.counters.silences += 1
            self._serve(0.0)
            _log.warning("rollout: the monitor was silent for %g s: the reference serves", self._max_silence_s)

    def _serve(self, share: float) -> None:
        self._share = self.counters.share = share

    def _place(self, head: bytes) -> float:
        for key in self._keys:
            found = key.search(head)
            if found is not None:
                return self._place_of(found[1].rstrip(b" \t").decode("latin-1"))
        return random()  # nothing to know the client by


def _value_of(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"\r\n(?i:%b):[ \t]*([^\r]+)" % re.escape(name.encode()))


class Spare:
    """What one request sent to the candidate, all of it or nothing, until the reply's head is there."""

    __slots__ = ("_arms", "_parts", "_size", "_whole")

    def __init__(self, arms: Arms) -> None:
        self._arms = arms
        self._parts: list[bytes] = []
        self._size = 0
        self._whole = True

    def add(self, *parts: bytes) -> None:
        """Holds what is being sent; without room for it, nothing any more."""
        size = sum(map(len, parts))
        if self._whole and self._arms.hold(size):
            self._parts.extend(parts)
            self._size += size
        elif self._whole:
            self._whole = False
            self._arms.counters.unheld += 1
            self.drop()

    def use(self, refusal: Refusal) -> list[bytes] | None:
        """What the reference is to get in the candidate's stead; None when it may not answer after such a failure."""
        if refusal not in _FAILED_UNSEEN or not self._whole:
            return None
        self._arms.counters.failovers[refusal.counter] += 1
        parts = self._parts
        self.drop()
        return parts

    def drop(self) -> None:
        """Gives the room back."""
        self._arms.hold(-self._size)
        self._parts = []
        self._size = 0


def _percent(order: Order) -> str:
    return f"{100 * order.share:g} % of the clients"
