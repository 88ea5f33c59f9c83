"""What the connections of one relay worker share: limits, counts, pool, tee, and who is connected."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from proxy.metrics import RelayCounters
from proxy.relay.arms import Arms
from proxy.relay.candidate import CandidatePool
from proxy.relay.capture import Tee
from proxy.settings import RelaySettings

_log = logging.getLogger(__name__)


class Member(Protocol):
    """A client's connection, as the worker sees it."""

    def sweep(self, now_s: float) -> None: ...
    def drain(self) -> None: ...
    def abort(self) -> None: ...


class Worker:
    """One per process and event loop."""

    def __init__(
        self,
        settings: RelaySettings,
        *,
        pool: CandidatePool,
        tee: Tee,
        counters: RelayCounters,
        arms: Arms | None = None,
    ) -> None:
        """`arms` where the reference may serve too; else everything goes to `pool`."""
        self.settings = settings
        self.pool = pool
        self.arms = arms
        self.tee = tee
        self.counters = counters
        self.allow_paths = frozenset(path.encode() for path in settings.allow_paths)
        self.draining = False
        self.empty = asyncio.Event()
        self.empty.set()
        self._members: set[Member] = set()

    def serves(self, path: bytes) -> bool:
        return path.startswith(b"/v1/") or path in self.allow_paths

    def join(self, member: Member) -> None:
        self._members.add(member)
        self.counters.connections = len(self._members)
        self.empty.clear()
        if self.draining:
            member.drain()

    def leave(self, member: Member) -> None:
        self._members.discard(member)
        self.counters.connections = len(self._members)
        if not self._members:
            self.empty.set()

    def sweep(self, now_s: float) -> None:
        """Looks at every connection's time limits: cheaper than a timer for each request."""
        for member in tuple(self._members):
            try:
                member.sweep(now_s)
            except Exception:  # noqa: BLE001  one connection's fault must not end the time limits of all others
                _log.exception("the time limits of a connection could not be applied")
        self.pool.sweep(now_s)
        if self.arms is not None:
            self.arms.sweep(now_s)

    async def drain(self, timeout_s: float) -> None:
        """Lets what is in flight end, then closes the rest."""
        self.draining = True
        for member in tuple(self._members):
            member.drain()
        try:
            async with asyncio.timeout(timeout_s):
                await self.empty.wait()
        except TimeoutError:
            for member in tuple(self._members):
                member.abort()
        self.pool.close()
        if self.arms is not None:
            self.arms.reference.close()
