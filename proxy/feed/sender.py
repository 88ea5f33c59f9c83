"""The relay's side of the feed: writes the queue to the monitor's socket whenever there is one.

    offer -> FeedQueue -> (10 ms) -> _pump (256 KiB a turn, while the transport takes it) -> socket -> ack -> released

Nothing is released before the monitor acknowledged it, so the queue's bounds cover what lies in the transport
and in the kernel too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

from proxy.errors import FeedError
from proxy.exchange import LossReason, Order, RelayEvent
from proxy.feed import wire
from proxy.feed.endpoint import socket_path
from proxy.feed.queue import FeedQueue
from proxy.feed.sink import FeedCounters
from proxy.settings import FeedSettings

_log = logging.getLogger(__name__)

TURN_BYTES = 256 * 1024  # *choice*: what one turn of the loop may write; about 50 us of copying
CHUNK_BYTES = 64 * 1024  # *choice*
GATHER_S = 0.01  # *choice*: several events share one write, and the monitor does not wake while a reply is on its way
FRUITLESS_CONNECTIONS = 3  # *choice*: after so many that ended without one acknowledgement, the first event is given up


class UnixFeedSender:
    """Sends events to the monitor's Unix socket, whenever there is one. Implements FeedSink.

    Everything runs on the loop that `start` was called on. Raises FeedError when the socket's path is too long.
    """

    def __init__(
        self,
        settings: FeedSettings,
        *,
        worker: str,
        stats: Callable[[], dict[str, Any]],
        stats_interval_s: float = 1.0,
    ) -> None:
        self.counters = FeedCounters()
        self._path = socket_path(settings.socket)
        self._reconnect_interval_s = settings.reconnect_interval_s
        self._worker = worker
        self._stats = stats
        self._stats_interval_s = stats_interval_s
        self._queue = FeedQueue(settings, self.counters)
        self._link: _Link | None = None
        self._cursor: Iterator[bytes | memoryview] | None = None  # the frame being written
        self._stats_due = False
        self._pump_scheduled = False
        self._fruitless = 0
        self._closed = False
        self._take_order: Callable[[Order], None] | None = None
        self._drained = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._link is not None

    async def start(self) -> None:
        """Returns at once, whether or not a monitor is there; connects, and reconnects for ever, by itself."""
        self._task = asyncio.get_running_loop().create_task(self._keep_connected(), name="feed")

    def offer(self, event: RelayEvent) -> bool:
        """As `FeedSink.offer`."""
        if self._closed:
            self.counters.offered += 1
            self.counters.dropped[LossReason.FEED_DOWN] = self.counters.dropped.get(LossReason.FEED_DOWN, 0) + 1
            return False
        taken = self._queue.offer(event, LossReason.FEED_FULL if self.connected else LossReason.FEED_DOWN)
        self._wake(GATHER_S)
        return taken

    def subscribe(self, take: Callable[[Order], None]) -> None:
        """As `FeedSink.subscribe`."""
        self._take_order = take

    async def aclose(self, flush_s: float) -> None:
        """What is queued has `flush_s` to be acknowledged; the rest is dropped and counted, then the last stats go.

        An event that was written but not acknowledged in time counts as dropped, though it may have arrived.
        Units:  seconds.
        """
        if self._closed:
            return
        self._closed = True
        await self._flush(flush_s)
        self._queue.drop_all(LossReason.FEED_DOWN)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._link is not None:
            await self._say_goodbye(self._link)

    async def _flush(self, flush_s: float) -> None:
        if self._task is None or not len(self._queue):
            return
        self._drained.clear()
        try:
            await asyncio.wait_for(self._drained.wait(), flush_s)
        except TimeoutError:
            _log.warning("feed: %d events were not taken by the monitor within %g s", len(self._queue), flush_s)

    async def _say_goodbye(self, link: _Link) -> None:
        self._stats_due = True
        self._pump()  # unless the transport is full: then the stream stands inside a frame and can only be cut
        link.transport.close()
        try:
            await asyncio.wait_for(link.lost.wait(), self._reconnect_interval_s)
        except TimeoutError:
            link.transport.abort()

    # -- the connection

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        reported = False
        while True:
            link = _Link(self)
            try:
                await loop.create_unix_connection(lambda link=link: link, self._path)  # type: ignore[misc]  # a default binds it
            except OSError as error:
                if not reported:
                    _log.warning("feed: no monitor at %s yet (%s)", self._path, error.strerror or error)
                reported = True
            else:
                reported = False
                await self._tick_until_lost(link)
            await asyncio.sleep(self._reconnect_interval_s)

    async def _tick_until_lost(self, link: _Link) -> None:
        while True:
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that comes with the link's end, and `aclose`
                # would wait for ever.
                async with asyncio.timeout(self._stats_interval_s):
                    await link.lost.wait()
                return
            except TimeoutError:
                self._stats_due = True
                self._wake()

    def link_made(self, link: _Link) -> None:
        """A connection stands: the stream starts anew, on a frame's boundary."""
        self._link = link
        self._cursor = None
        self._stats_due = True
        self.counters.connections += 1
        link.transport.write(b"".join(wire.encode(wire.Hello(self._worker, os.getpid()))))
        _log.info("feed: connected to the monitor")
        self._wake()

    def link_lost(self, link: _Link) -> None:
        """The connection is gone: everything unacknowledged waits again."""
        if link is not self._link:
            return
        self._link = None
        self._cursor = None
        fruitless = link.acknowledged == 0 and self._queue.unacknowledged > 0
        self._fruitless = self._fruitless + 1 if fruitless else 0
        self._queue.rewind()
        if self._fruitless >= FRUITLESS_CONNECTIONS:
            # Perhaps the monitor cannot read just this one; without this it would hold up all others for ever.
            self._fruitless = 0
            self._queue.drop_oldest(LossReason.FEED_DOWN)
        _log.info("feed: the connection to the monitor is gone")

    def link_acknowledged(self, count: int) -> None:
        """The monitor took `count` more events. Raises: FeedError when there were not so many."""
        self._queue.acknowledge(count)
        self._fruitless = 0
        if not len(self._queue):
            self._drained.set()

    def link_ordered(self, order: Order) -> None:
        """The monitor said which share of the clients the candidate is to serve."""
        if self._take_order is not None:
            self._take_order(order)

    # -- writing

    def wake(self) -> None:
        """The transport takes more."""
        self._wake()

    def _wake(self, after_s: float = 0.0) -> None:
        # Never at once: the caller is on a client's path.
        if self._link is not None and not self._link.paused and not self._pump_scheduled:
            self._pump_scheduled = True
            self._link.loop.call_later(after_s, self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        link, budget = self._link, TURN_BYTES
        if link is None or link.transport.is_closing():
            return
        while not link.paused:
            if budget <= 0:
                self._wake()
                return
            if self._cursor is None:
                self._cursor = self._next_frame()
                if self._cursor is None:
                    return
            chunk = next(self._cursor, None)
            if chunk is None:
                self._cursor = None
                continue
            link.transport.write(chunk)
            budget -= len(chunk)

    def _next_frame(self) -> Iterator[bytes | memoryview] | None:
        if self._stats_due:
            self._stats_due = False
            return iter((self._stats_frame(),))
        entry = self._queue.take()
        return None if entry is None else wire.chunks(entry.buffers, CHUNK_BYTES)

    def _stats_frame(self) -> bytes:
        values: dict[str, Any] = {}
        try:
            values = self._stats()
            return b"".join(wire.encode(wire.Stats({**values, "feed": self.counters.as_dict()})))
        except Exception:  # noqa: BLE001 - the counts of others must not stop the feed, whatever is wrong with them
            _log.exception("feed: the worker's counts could not be sent")
            return b"".join(wire.encode(wire.Stats({"feed": self.counters.as_dict()})))


class _Link(asyncio.Protocol):
    """One connection to the monitor, from its birth to its loss."""

    def __init__(self, sender: UnixFeedSender) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost = asyncio.Event()
        self.paused = False
        self.acknowledged = 0
        self._sender = sender
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.transport.set_write_buffer_limits(high=TURN_BYTES)
        self._sender.link_made(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        whole = len(self._received) // wire.ACK.size * wire.ACK.size
        if not whole:
            return
        words = bytes(self._received[:whole])
        del self._received[:whole]
        taken = self.acknowledged
        try:
            for word in wire.decode_words(words):
                if isinstance(word, Order):
                    self._sender.link_ordered(word)
                else:
                    taken = word
            if taken < self.acknowledged:
                raise FeedError("the monitor's count of events went down")
            self._sender.link_acknowledged(taken - self.acknowledged)
            self.acknowledged = taken
        except FeedError as error:
            _log.warning("feed: %s; connecting again", error)
            self.transport.abort()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._sender.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender.link_lost(self)
        self.lost.set()
