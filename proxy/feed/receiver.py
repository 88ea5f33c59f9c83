"""The monitor's side of the feed: listens, reads frames, calls back.

One turn of the loop handles at most EVENTS_PER_TURN frames of a connection, so that a flood leaves the loop alive;
`pause` stops reading altogether, and the relays' own bounds then drop and count.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from proxy.errors import FeedError
from proxy.exchange import Order, RelayEvent
from proxy.feed import wire
from proxy.feed.endpoint import listen, socket_path

_log = logging.getLogger(__name__)

EVENTS_PER_TURN = 64  # *choice*: some milliseconds of callbacks
MAX_CONNECTIONS = 128  # *choice*: relay.workers is at most 64, and an old and a new one may overlap
HELLO_TIMEOUT_S = 5.0  # *choice*
MAX_UNREAD_ACKS_BYTES = 64 * 1024  # *choice*: a relay reads its acknowledgements; whoever does not is none
_BACKLOG = 128


@dataclass(slots=True)
class ReceiverCounters:
    """Counts since the start. Bad connections are closed and counted; an event is counted when called back."""

    connections: int = 0
    events: int = 0
    malformed: int = 0  # connections closed for a frame that cannot be read, or too large
    refused: int = 0  # connections past MAX_CONNECTIONS, or without a hello in time
    callback_errors: int = 0  # callbacks that raised; the event is gone


class UnixFeedReceiver:
    """Listens for relay workers and hands their events on, in the order in which each sent them.

    `on_connection(worker, True)` comes before a worker's first event and `(worker, False)` after its last. An event
    may come twice (see the package): ignore what is known by (kind of event, worker, sequence).
    Callbacks run on the loop of `start` and should return soon.
    """

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
        self.max_frame_bytes = max_frame_bytes
        self.paused = False
        self._path = socket_path(path)
        self._on_event = on_event
        self._on_stats = on_stats
        self._on_connection = on_connection
        self._connections: set[_Connection] = set()
        self._workers: dict[str, int] = {}  # name -> how many connections; an old and a new one may overlap
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._order = b""

    async def start(self) -> None:
        """Listening, with the socket file readable by this user alone.

        Raises:  FeedError when another process listens there, or the path cannot be used.
        """
        listener = listen(self._path)
        self._inode = os.stat(self._path).st_ino
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self), sock=listener, backlog=_BACKLOG)

    async def aclose(self) -> None:
        """Every connection and the socket file are gone; unread events stay with the relays."""
        if self._server is None:
            return
        self._server.close()
        self.paused = False
        for connection in list(self._connections):
            connection.abandon()
        self._server = None
        try:
            if os.stat(self._path).st_ino == self._inode:  # else it is another monitor's by now
                os.unlink(self._path)
        except FileNotFoundError:
            pass

    def pause(self) -> None:
        """Reads no more: the relays' queues fill, and then drop and count."""
        self.paused = True
        for connection in self._connections:
            connection.read_on()

    def resume(self) -> None:
        """Reads on."""
        self.paused = False
        for connection in self._connections:
            connection.read_on()

    def order(self, order: Order) -> None:
        """Tells every relay worker, those that connect later too. Say it again and again: silence means something."""
        self._order = wire.encode_order(order)
        for connection in self._connections:
            if connection.worker is not None:
                connection.tell(self._order)

    # -- what a connection reports

    def admit(self, connection: _Connection) -> bool:
        """False when there are too many already."""
        if len(self._connections) >= MAX_CONNECTIONS:
            self.counters.refused += 1
            return False
        self._connections.add(connection)
        self.counters.connections += 1
        return True

    def dispatch(self, connection: _Connection, message: wire.Message) -> None:
        """Hands one message on. Raises: FeedError when it does not belong here."""
        if isinstance(message, wire.Hello):
            if connection.worker is not None:
                raise FeedError("a second hello")
            connection.worker = message.worker
            self._workers[message.worker] = self._workers.get(message.worker, 0) + 1
            if self._workers[message.worker] == 1:
                self._call(self._on_connection, message.worker, True)
            if self._order:
                connection.tell(self._order)
        elif connection.worker is None:
            raise FeedError("no hello came first")
        elif isinstance(message, wire.Stats):
            self._call(self._on_stats, connection.worker, message.values)
        else:
            self.counters.events += 1
            connection.taken += 1
            self._call(self._on_event, message)

    def finished(self, connection: _Connection) -> None:
        """The connection is gone and everything that it brought was handed on."""
        self._connections.discard(connection)
        worker = connection.worker
        if worker is None:
            return
        self._workers[worker] -= 1
        if not self._workers[worker]:
            del self._workers[worker]
            self._call(self._on_connection, worker, False)

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001 - one event that the monitor stumbles over must not end the stream of all others
            self.counters.callback_errors += 1
            _log.exception("feed: a callback failed")


class _Connection(asyncio.Protocol):
    """One relay worker's connection."""

    def __init__(self, receiver: UnixFeedReceiver) -> None:
        self.worker: str | None = None
        self.taken = 0
        self._receiver = receiver
        self._reader = wire.FrameReader(receiver.max_frame_bytes)
        self._loop = asyncio.get_running_loop()
        self._turn_scheduled = False
        self._admitted = False
        self._reading = True
        self._gone = False  # the socket is; frames may be left
        self._done = False
        self._acknowledged = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._admitted = self._receiver.admit(self)
        if not self._admitted:
            self._transport.abort()
            return
        self._hello_timer = self._loop.call_later(HELLO_TIMEOUT_S, self._without_hello)
        # Not yet: after this call uvloop starts reading, whatever was said before.
        self._loop.call_soon(self._follow_receiver)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if not self._turn_scheduled:
            self._turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        if not self._admitted:
            return
        self._hello_timer.cancel()
        if not self._turn_scheduled:
            self._turn()

    def abandon(self) -> None:
        """Closed at once, and what is left unread with it."""
        self._transport.abort()
        self._finish()

    def read_on(self) -> None:
        """Reads or does not, as the receiver now says."""
        if not self._turn_scheduled and not self._receiver.paused:
            self._turn_scheduled = True
            self._loop.call_soon(self._next_turn)
        self._follow_receiver()

    def _follow_receiver(self) -> None:
        self._set_reading(not self._receiver.paused and not self._turn_scheduled)

    def _next_turn(self) -> None:
        self._turn_scheduled = False
        self._turn()

    def _turn(self) -> None:
        """Some frames; if there may be more, the rest in a later turn, and nothing is read until then."""
        more = False
        try:
            more = self._dispatch_some()
        except FeedError as error:
            self._receiver.counters.malformed += 1
            _log.warning("feed: closing a connection of %s: %s", self.worker or "no known worker", error)
            self._transport.abort()
            self._finish()
        self._acknowledge()
        if more:
            self._turn_scheduled = True
            self._loop.call_soon(self._next_turn)
        elif self._gone and not self._receiver.paused:
            self._finish()
        self._set_reading(not more and not self._receiver.paused)

    def _dispatch_some(self) -> bool:
        """True when more frames may be whole."""
        for _ in range(EVENTS_PER_TURN):
            if self._done or self._receiver.paused:
                return False
            message = self._reader.next()
            if message is None:
                return False
            self._receiver.dispatch(self, message)
        return True

    def _acknowledge(self) -> None:
        if self.taken == self._acknowledged or self._gone or self._transport.is_closing():
            return
        self._acknowledged = self.taken
        self.tell(wire.ACK.pack(self.taken))

    def tell(self, word: bytes) -> None:
        """Says one word to the relay."""
        if self._gone or self._transport.is_closing():
            return
        self._transport.write(word)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_ACKS_BYTES:
            self._receiver.counters.malformed += 1
            self._transport.abort()

    def _set_reading(self, reading: bool) -> None:
        if reading == self._reading or self._gone or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _without_hello(self) -> None:
        if self.worker is None and not self._receiver.paused:
            self._receiver.counters.refused += 1
            self._transport.abort()

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            self._receiver.finished(self)
