"""What the relay knows of the feed: a place to offer events to, which always answers at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy.exchange import LossReason, Order, RelayEvent


class FeedSink(Protocol):
    """Where the relay leaves what it saw."""

    @property
    def connected(self) -> bool:
        """True while a monitor is at the other end."""
        ...

    def offer(self, event: RelayEvent) -> bool:
        """False when the event was dropped, which is then already counted. Never blocks, never raises.

        Call it on the loop that the feed was started on. A dropped `Exchange` becomes known to the monitor
        as `Lost` by the feed itself; the caller has nothing more to do.
        """
        ...

    def subscribe(self, take: Callable[[Order], None]) -> None:
        """`take` gets every order of the monitor, on the loop that the feed was started on; the same one again and
        again, so that its silence can be told."""
        ...


@dataclass(slots=True)
class FeedCounters:
    """Counts since the start of this worker. Always: offered == sent + sum(dropped) + queued.

    `sent` is what the monitor acknowledged. Notices are the `Lost` events that the feed itself makes for
    exchanges that it dropped; they are not among the offered, and have the same balance of their own.
    Whoever sums loss takes `dropped`: the notices tell of the same drops again.

    Units:  queue_bytes are bytes of the exchanges held, as `Exchange.size_bytes` counts them.
    """

    offered: int = 0
    sent: int = 0
    dropped: dict[LossReason, int] = field(default_factory=dict)
    dropped_marks: int = 0  # of the dropped, those that were Sampled or Lost: tiny events past their own bound
    notices: int = 0
    notices_sent: int = 0
    notices_dropped: int = 0
    queued_notices: int = 0
    queued: int = 0
    queue_exchanges: int = 0
    queue_bytes: int = 0
    connections: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, cumulative."""
        return {
            "offered": self.offered,
            "sent": self.sent,
            "dropped": {reason.value: count for reason, count in self.dropped.items()},
            "dropped_marks": self.dropped_marks,
            "notices": self.notices,
            "notices_sent": self.notices_sent,
            "notices_dropped": self.notices_dropped,
            "queued_notices": self.queued_notices,
            "queued": self.queued,
            "queue_exchanges": self.queue_exchanges,
            "queue_bytes": self.queue_bytes,
            "connections": self.connections,
        }
