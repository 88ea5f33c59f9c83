"""The monitor's side of the feed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.exchange import RelayEvent


@dataclass(slots=True)
class ReceiverCounters:
    """Counts since the start."""

    connections: int = 0
    events: int = 0
    malformed: int = 0
    refused: int = 0
    callback_errors: int = 0


class UnixFeedReceiver:
    """Listens for relay workers and hands their events on, in the order in which each sent them."""

    def __init__(
        self,
        path: Path,
        *,
        on_event: Callable[[RelayEvent], None],
        on_stats: Callable[[str, dict[str, Any]], None],
        on_connection: Callable[[str, bool], None],
        max_frame_bytes: int,
    ) -> None:
        self.counters = ReceiverCounters()

    async def start(self) -> None:
        """Listening. Raises FeedError."""

    async def aclose(self) -> None:
        """Every connection and the socket file are gone."""

    def pause(self) -> None:
        """Reads no more: the relays' queues fill, and then drop and count."""

    def resume(self) -> None:
        """Reads on."""
