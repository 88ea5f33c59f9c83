"""The relay's side of the feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.exchange import RelayEvent
from proxy.feed.sink import FeedCounters
from proxy.settings import FeedSettings


class UnixFeedSender:
    """Sends events to the monitor's Unix socket, whenever there is one. Implements FeedSink."""

    def __init__(
        self,
        settings: FeedSettings,
        *,
        worker: str,
        stats: Callable[[], dict[str, Any]],
        stats_interval_s: float = 1.0,
    ) -> None:
        self.counters = FeedCounters()

    @property
    def connected(self) -> bool:
        return False

    async def start(self) -> None:
        """Returns at once, whether or not a monitor is there."""

    async def aclose(self, flush_s: float) -> None:
        """The rest is sent within flush_s or dropped and counted; the socket is closed."""

    def offer(self, event: RelayEvent) -> bool:
        """As `FeedSink.offer`."""
        return False
