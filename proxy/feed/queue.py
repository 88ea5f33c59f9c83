"""What the relay holds for the monitor: one line, in order, bounded, dropping the newest.

One line and not two, so that a `Sampled` mark, which gives an exchange its place, always arrives before the
exchange or its loss. Exchanges are bounded in bytes and number; marks (`Sampled`, `Lost`: some hundred bytes
each) by a number of their own, so that a queue full of exchanges still takes marks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from proxy.errors import FeedError
from proxy.exchange import Exchange, LossReason, Lost, RelayEvent
from proxy.feed import wire
from proxy.feed.sink import FeedCounters
from proxy.settings import FeedSettings

MARKS_PER_EXCHANGE = 8  # *choice*: 16,384 marks at the default bound, about 8 MiB


@dataclass(frozen=True, slots=True)
class Entry:
    """One event on its way. `notice`: the feed made it itself, in place of an exchange that it dropped."""

    event: RelayEvent
    buffers: tuple[bytes, ...]
    size_bytes: int
    notice: bool


class FeedQueue:
    """The line. An entry leaves it when the monitor has acknowledged it, or by being dropped and counted."""

    def __init__(self, settings: FeedSettings, counters: FeedCounters) -> None:
        self._max_bytes = settings.max_queue_bytes
        self._max_exchanges = settings.max_queue_exchanges
        self._max_marks = settings.max_queue_exchanges * MARKS_PER_EXCHANGE
        self._max_frame_bytes = wire.max_frame_bytes(settings)
        self._counters = counters
        self._waiting: deque[Entry] = deque()
        self._unacknowledged: deque[Entry] = deque()
        self._marks = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._unacknowledged)

    @property
    def waiting(self) -> int:
        """How many were not yet written on this connection."""
        return len(self._waiting)

    @property
    def unacknowledged(self) -> int:
        """How many were written on this connection and not yet acknowledged."""
        return len(self._unacknowledged)

    def offer(self, event: RelayEvent, when_full: LossReason) -> bool:
        """True when the event is in the line; False when it was dropped and counted."""
        self._counters.offered += 1
        reason = self._admit(event, when_full, notice=False)
        if reason is None:
            return True
        self._drop(event, reason)
        return False

    def take(self) -> Entry | None:
        """The next entry to write; it stays held until it is acknowledged."""
        if not self._waiting:
            return None
        entry = self._waiting.popleft()
        self._unacknowledged.append(entry)
        return entry

    def acknowledge(self, count: int) -> None:
        """The oldest `count` written entries arrived. Raises: FeedError when fewer were written."""
        if count > len(self._unacknowledged):
            raise FeedError(f"the monitor acknowledged {count} events of {len(self._unacknowledged)} written")
        for _ in range(count):
            entry = self._unacknowledged.popleft()
            self._release(entry)
            if entry.notice:
                self._counters.notices_sent += 1
            else:
                self._counters.sent += 1

    def rewind(self) -> None:
        """The connection is gone: what was written and not acknowledged is to be written again, in order."""
        self._waiting.extendleft(reversed(self._unacknowledged))
        self._unacknowledged.clear()

    def drop_oldest(self, reason: LossReason) -> None:
        """The oldest waiting entry is given up."""
        if self._waiting:
            self._discard(self._waiting.popleft(), reason)

    def drop_all(self, reason: LossReason) -> None:
        """Everything is given up, without notices: nobody will read them."""
        self.rewind()
        for entry in self._waiting:
            self._release(entry)
            self._count_drop(entry, reason)
        self._waiting.clear()

    def _admit(self, event: RelayEvent, when_full: LossReason, *, notice: bool) -> LossReason | None:
        """None when the event was put in the line, else why not."""
        counters = self._counters
        size = event.size_bytes if isinstance(event, Exchange) else 0
        if isinstance(event, Exchange):
            if counters.queue_exchanges >= self._max_exchanges or counters.queue_bytes + size > self._max_bytes:
                return when_full
        elif self._marks >= self._max_marks:
            return when_full
        try:
            buffers = wire.encode(event)
        except FeedError:
            return LossReason.REQUEST_TOO_LARGE
        if sum(map(len, buffers)) > self._max_frame_bytes:
            return LossReason.REQUEST_TOO_LARGE
        self._waiting.append(Entry(event, buffers, size, notice))
        self._hold(isinstance(event, Exchange), size, 1, notice)
        return None

    def _release(self, entry: Entry) -> None:
        self._hold(isinstance(entry.event, Exchange), entry.size_bytes, -1, entry.notice)

    def _hold(self, exchange: bool, size: int, sign: int, notice: bool) -> None:
        if exchange:
            self._counters.queue_exchanges += sign
            self._counters.queue_bytes += sign * size
        else:
            self._marks += sign
        if notice:
            self._counters.queued_notices += sign
        else:
            self._counters.queued += sign

    def _discard(self, entry: Entry, reason: LossReason) -> None:
        self._release(entry)
        if entry.notice:
            self._count_drop(entry, reason)
        else:
            self._drop(entry.event, reason)

    def _count_drop(self, entry: Entry, reason: LossReason) -> None:
        if entry.notice:
            self._counters.notices_dropped += 1
        else:
            self._count(entry.event, reason)

    def _drop(self, event: RelayEvent, reason: LossReason) -> None:
        """Counts the drop; a dropped exchange leaves its loss in the line in its place."""
        self._count(event, reason)
        if not isinstance(event, Exchange):
            return
        self._counters.notices += 1
        if self._admit(Lost(event.id, event.worker, event.sequence, reason), reason, notice=True) is not None:
            self._counters.notices_dropped += 1

    def _count(self, event: RelayEvent, reason: LossReason) -> None:
        self._counters.dropped[reason] = self._counters.dropped.get(reason, 0) + 1
        if not isinstance(event, Exchange):
            self._counters.dropped_marks += 1
