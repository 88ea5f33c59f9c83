"""Relay -> monitor: a bounded transport that the relay never waits for.

    sink.py      FeedSink, all that the relay knows of it; FeedCounters
    wire.py      frames: what is on the socket, both ways
    queue.py     what is held for the monitor, and its bounds
    endpoint.py  the socket's path, and listening there alone
    sender.py    UnixFeedSender, the relay's side: queue, bounds, reconnection
    receiver.py  UnixFeedReceiver, the monitor's side: limits, pause and resume

Delivery is at least once while both ends live: a frame stays in the relay's queue until the monitor has
acknowledged it, and after a reconnection every unacknowledged frame is sent again, in order. So the
monitor may see an event twice and MUST ignore what it knows by (kind of event, worker, sequence). What the
monitor had acknowledged and not yet written when it was killed is gone. The next monitor knows which numbers those
were from the worker's next event, or from its stats frame once nothing is queued (`sampled`), and counts them as lost.
"""

from __future__ import annotations

from proxy.feed.receiver import ReceiverCounters, UnixFeedReceiver
from proxy.feed.sender import UnixFeedSender
from proxy.feed.sink import FeedCounters, FeedSink
from proxy.feed.wire import max_frame_bytes

__all__ = [
    "FeedCounters",
    "FeedSink",
    "ReceiverCounters",
    "UnixFeedReceiver",
    "UnixFeedSender",
    "max_frame_bytes",
]
