"""The client's side: one connection, one request at a time.

    IDLE    between requests, or reading a head
    FLIGHT  a request is in flight; what comes after its body is pipelined and held, boundedly
    LINGER  we answered and closed our side; what still comes is thrown away, so that no reset eats the answer
    CLOSED  nothing more is read; the last bytes are being flushed

Decided here, as nginx does: the client's end of stream aborts the request in flight (a half-close looks the same as
a client that left). While an upload is held back its end of stream lies behind bytes not read yet; the sweep asks the
kernel then, which knows once the client's last bytes have arrived (not while they wait on the client's side).
Expect: 100-continue is answered by us, as soon as the request has its place in flight.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from proxy.metrics import route_of
from proxy.relay.flight import Flight
from proxy.relay.head import RequestHead, parse_request
from proxy.relay.kernel import hang_up, left_unseen, undelivered_bytes
from proxy.relay.refusal import Refusal, RefusedError
from proxy.relay.repeated import RepeatedRequest
from proxy.relay.worker import Worker

LINGER_S = 2.0  # choice, after the last byte either way; nginx's lingering_timeout is 5 s
MAX_LINGER_S = 30.0  # nginx's lingering_time
DRAIN_GRACE_S = 0.5  # choice: a request that crossed SIGTERM on its way is answered, with Connection: close
_IDLE, _FLIGHT, _LINGER, _CLOSED = range(4)


class _NoCallbacks:
    """llhttp only validates heads here; head.py reads them."""


_NO_CALLBACKS = _NoCallbacks()


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    transport: asyncio.Transport

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._settings = worker.settings
        self._counters = worker.counters
        self._phase = _IDLE
        self._flight: Flight | None = None
        self._parser: HttpRequestParser | None = None
        self._repeated = RepeatedRequest()
        self._buffer = b""  # a head that is not whole, or what was pipelined
        self._held_too_much = False
        self._next_waits = False
        self._reading = True
        self._started_s = 0.0
        self._deadline_s = time.monotonic() + worker.settings.head_timeout_s
        self._stall_deadline_s = inf
        self._stall_bytes = 0
        self.write_paused = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not inherit from it
        self.transport.set_write_buffer_limits(high=self._settings.write_buffer_bytes)
        if self._counters.connections >= self._settings.max_connections:
            self._turn_away()
        else:
            self._worker.join(self)

    def _turn_away(self) -> None:
        """Holds nothing for a connection too many: it is closed at once, the answer being read if it can be."""
        self._counters.errors["overload"] += 1
        self._phase = _CLOSED
        if self.transport.get_extra_info("ssl_object") is None:
            retry_after_s = self._settings.retry_after_s
            self.transport.write(Refusal.OVERLOAD.reply(retry_after_s=retry_after_s, close=True, head_only=False))
            self.transport.close()
        else:
            self.transport.abort()  # a close would wait for the client's

    def data_received(self, data: bytes) -> None:
        self._counters.bytes_in += len(data)
        if self._phase == _IDLE:
            self._read_head(data)
        elif self._phase == _FLIGHT:
            if self._flight is not None and not self._flight.body_whole:
                self._flight.read_body(data)
            else:
                self.hold(data)
        elif self._phase == _LINGER:
            self._deadline_s = min(time.monotonic() + LINGER_S, self._linger_end_s)

    def eof_received(self) -> bool:
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self._worker.leave(self)

    def pause_writing(self) -> None:
        self.write_paused = True
        self._stall_bytes = undelivered_bytes(self.transport)
        self._stall_deadline_s = time.monotonic() + self._settings.body_idle_timeout_s
        if self._flight is not None:
            self._flight.pause_reply()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._stall_deadline_s = inf
        if self._flight is not None:
            self._flight.resume_reply()
        elif self._next_waits:
            self._next_waits = False
            asyncio.get_running_loop().call_soon(self._next)

    # requests

    def _read_head(self, data: bytes) -> None:
        seen = len(self._buffer)
        if seen:
            data = self._buffer + data
        else:
            if data[0] in b"\r\n":
                data = data.lstrip(b"\r\n")  # empty lines before a request (RFC 9112 2.2)
                if not data:
                    return
            self._started_s = time.monotonic()
            again = self._repeated.read(data)
            if again is not None:
                self._take(*again)
                return
            self._deadline_s = self._started_s + self._settings.head_timeout_s
            self._parser = HttpRequestParser(_NO_CALLBACKS)
        end = data.find(b"\r\n\r\n", seen - 3 if seen > 3 else 0)
        stop = len(data) if end < 0 else end + 4
        if stop > self._settings.max_head_bytes:
            self._refuse(Refusal.LARGE_HEAD)
        elif not self._accepts(data[seen:stop]):
            self._refuse(Refusal.BAD_HEAD)
        elif end < 0:
            self._buffer = data
        else:
            self._buffer = b""
            self._read_request(data[:stop], data[stop:])

    def _accepts(self, data: bytes) -> bool:
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # as if it had not asked: Upgrade is not forwarded, and head.py frames the body
        except HttpParserError:
            return False
        return True

    def _read_request(self, raw: bytes, rest: bytes) -> None:
        settings = self._settings
        try:
            head = parse_request(raw[:-2], authority=self._worker.pool.authority, max_headers=settings.max_headers)
        except RefusedError as refused:
            self._refuse(refused.refusal)
            return
        self._repeated.remember(raw, head, settings.max_head_bytes)
        self._take(head, rest)

    def _take(self, head: RequestHead, rest: bytes) -> None:
        """Serves an accepted request, or says why not."""
        if not self._worker.serves(head.path):
            self._refuse(Refusal.UNKNOWN_PATH, head, rest)
        elif head.length > self._settings.max_body_bytes:
            self._refuse(Refusal.LARGE_BODY, head, rest)
        elif self._counters.in_flight >= self._settings.max_in_flight:
            self._refuse(Refusal.OVERLOAD, head, rest)
        else:
            self._phase = _FLIGHT
            self._deadline_s = inf
            self._flight = Flight(self, self._worker, head, self._started_s)
            self._flight.start(rest)

    def hold(self, data: bytes) -> None:
        """Keeps what was pipelined until its turn; past the bound, stops reading."""
        self._buffer += data
        if len(self._buffer) > self._settings.max_head_bytes and not self._held_too_much:
            self._held_too_much = True
            self.pace_reading()

    def _next(self) -> None:
        """Takes up what was pipelined, once the answers before it are on their way: each may be another answer."""
        if self._phase != _FLIGHT or self.transport.is_closing():
            return
        if self.write_paused:
            self._next_waits = True
            return
        self._phase = _IDLE
        self._deadline_s = time.monotonic() + self._settings.keepalive_timeout_s
        data, self._buffer = self._buffer, b""
        self._held_too_much = False
        self._read_head(data)
        self.pace_reading()

    # replies and endings

    def flight_ended(self, now_s: float, *, close: bool, linger: bool) -> None:
        """The reply is whole."""
        self._flight = None
        close = close or self._worker.draining  # the head may have gone out before the drain began
        if close and (linger or self._buffer):
            self._linger()
        elif close:
            self._close()
        elif self._buffer:
            # Not from here: thousands of pipelined requests would be as many frames deep.
            self._phase = _FLIGHT
            self._deadline_s = inf
            asyncio.get_running_loop().call_soon(self._next)
        else:
            self._phase = _IDLE
            self._deadline_s = now_s + self._settings.keepalive_timeout_s

    def flight_refused(self, refusal: Refusal, head: RequestHead | None, *, close: bool) -> None:
        """Answers in our own name, and goes on unless what follows could not be told from an unread body."""
        if self.transport.is_closing():
            return  # uvloop raises on writes from here on; connection_lost is on its way
        close = close or self._worker.draining or head is None or not (head.keep_alive and head.http11)
        head_only = head is not None and head.method == b"HEAD"
        out = refusal.reply(retry_after_s=self._settings.retry_after_s, close=close, head_only=head_only)
        self._counters.bytes_out += len(out)
        self.transport.write(out)
        self.flight_ended(time.monotonic(), close=close, linger=True)

    def flight_cut(self, *, reset: bool) -> None:
        """The reply cannot be finished, and the client must see that."""
        self._flight = None
        if reset and not self.transport.is_closing():
            hang_up(self.transport)
        self._close()

    def _refuse(self, refusal: Refusal, head: RequestHead | None = None, rest: bytes = b"") -> None:
        self._counters.errors[refusal.counter] += 1
        self._counters.count_request("other" if head is None else route_of(head.path), refusal.status)
        self._buffer = b""
        if rest:
            self.hold(rest)
        self.flight_refused(refusal, head, close=head is None or head.chunked or head.length > 0)

    def _linger(self) -> None:
        self._phase = _LINGER
        now_s = time.monotonic()
        self._deadline_s = now_s + LINGER_S
        self._linger_end_s = now_s + MAX_LINGER_S
        self._buffer = b""
        self._held_too_much = False
        self.pace_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def _close(self) -> None:
        self._phase = _CLOSED
        self._deadline_s = time.monotonic() + LINGER_S
        self.transport.close()

    def _gone(self) -> None:
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.client_gone()
        self._phase = _CLOSED
        self.transport.abort()

    # time and pace

    def sweep(self, now_s: float) -> None:
        """Applies the time limits; called a few times a second."""
        if self._flight is not None:
            self._flight.sweep(now_s)
        if self._deadline_s <= now_s:
            self._timed_out(now_s)
        elif self._stall_deadline_s <= now_s:
            self._stalled(now_s)
        elif not self._reading and not self.transport.is_closing() and left_unseen(self.transport):
            self._gone()

    def drain(self) -> None:
        """Closes the connection soon unless a request is on its way."""
        if self._phase == _IDLE and not self._buffer:
            self._deadline_s = min(self._deadline_s, time.monotonic() + DRAIN_GRACE_S)

    def abort(self) -> None:
        self._gone()

    def pace_reading(self) -> None:
        """Reads exactly while there is room for what comes."""
        reading = not self._held_too_much and not (self._flight is not None and self._flight.upload_paused)
        if reading == self._reading or self.transport.is_closing():
            return
        self._reading = reading
        if reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _timed_out(self, now_s: float) -> None:
        self._deadline_s = inf
        if self._phase == _IDLE and self._buffer:
            self._refuse(Refusal.SLOW_HEAD)
        elif self._phase == _IDLE:
            self._close()
        elif held := undelivered_bytes(self.transport):
            # The last reply is still on its way: that has the time of a stalled reader, and lingers after it.
            if self._stall_deadline_s == inf:
                self._stall_bytes = held
                self._stall_deadline_s = now_s + self._settings.body_idle_timeout_s
            self._deadline_s = now_s + LINGER_S
        else:
            self.transport.abort()

    def _stalled(self, now_s: float) -> None:
        held = undelivered_bytes(self.transport)
        if held < self._stall_bytes:
            self._stall_bytes = held
            self._stall_deadline_s = now_s + self._settings.body_idle_timeout_s
        else:
            self._counters.errors["client_timeout"] += 1
            self._gone()
