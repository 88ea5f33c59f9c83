"""The candidate's side: one connection that reads replies, and the pool of idle ones.

A reply's head is read before anything goes to the client. Its body is passed on as it arrives, one write per
arrival: counted off when it has a length, through llhttp when it is chunked, until the end of the stream else.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Protocol, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.relay.head import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE, ReplyHead, parse_reply
from proxy.relay.refusal import Refusal
from proxy.relay.repeated import RepeatedReply
from proxy.settings import RelaySettings

MAX_REPLY_HEAD_BYTES = 64 * 1024  # choice: the same as the clients' default
MAX_INTERIM_REPLIES = 16  # choice: 100 and 103 come once or twice
_IDLE, _HEAD, _BODY = range(3)


class Taker(Protocol):
    """Whoever the reply is for: the client's side, as seen from here."""

    def reply_head(self, reply: ReplyHead) -> None: ...
    def reply_body(self, data: bytes) -> None: ...
    def reply_flush(self) -> None: ...
    def reply_end(self, data: bytes) -> None: ...
    def candidate_failed(self, refusal: Refusal) -> None: ...
    def pause_upload(self) -> None: ...
    def resume_upload(self) -> None: ...


class ConnectError(Exception):
    """No connection after all attempts; `refusal` is what the client is told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.name)
        self.refusal = refusal


class CandidateConnection(asyncio.Protocol):
    """One connection to the candidate, serving one request at a time."""

    transport: asyncio.Transport

    def __init__(self, pool: CandidatePool) -> None:
        self._pool = pool
        self._taker: Taker | None = None
        self._state = _IDLE
        self._framing = NO_BODY
        self._left = 0
        self._buffer = b""
        self._complete = False
        self._reusable = False
        self._reading_paused = False
        self._abandoned = False
        self._repeated = RepeatedReply()
        self._parser: HttpResponseParser | None = None
        self._parts: list[bytes] = []
        # llhttp calls this for each piece of a chunked body: a C method, so no Python frame per piece.
        self.on_body = self._parts.append
        self.idle_since_s = 0.0
        self.read_s = 0.0  # when the bytes that made the reply's head whole were read

    def begin(self, taker: Taker, *, to_head_request: bool, to_http11: bool) -> None:
        """A request is about to be written to `transport`; its reply goes to `taker`."""
        self._taker = taker
        self._to_head_request = to_head_request
        self._to_http11 = to_http11
        self._state = _HEAD
        self._buffer = b""
        self._complete = False
        self._interim_left = MAX_INTERIM_REPLIES
        self._parser = None

    def pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    def release(self, now_s: float, *, reuse: bool) -> None:
        """The taker is through with it: back to the pool, or closed at once."""
        self._taker = None
        if reuse and self._reusable and self._complete and self.transport.get_write_buffer_size() == 0:
            self.resume_reading()
            self._state = _IDLE
            self._pool.put(self, now_s)
        else:
            self.transport.abort()

    def abandon(self) -> None:
        """Nobody waits for this connection any more, whether or not it is made yet."""
        self._abandoned = True
        if hasattr(self, "transport"):
            self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class, which does not inherit from it
        self.transport.set_write_buffer_limits(high=self._pool.write_buffer_bytes)
        if self._abandoned:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is None:
            self.transport.abort()  # it speaks out of turn: nothing that follows could be trusted
        elif self._state == _HEAD:
            self._read_head(taker, data)
        elif self._framing == CHUNKED:
            self._read_chunked(taker, data)
        elif self._framing == LENGTH:
            self._read_length(taker, data)
        else:
            taker.reply_body(data)

    def eof_received(self) -> bool:
        self._ended(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        self._ended(exc)

    def pause_writing(self) -> None:
        if self._taker is not None:
            self._taker.pause_upload()

    def resume_writing(self) -> None:
        if self._taker is not None:
            self._taker.resume_upload()

    # llhttp

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("bytes after the end of the reply")

    def on_message_complete(self) -> None:
        self._complete = True

    # replies

    def _read_head(self, taker: Taker, data: bytes) -> None:
        self.read_s = time.monotonic()
        usual = self._to_http11 and not self._to_head_request
        if self._parser is None:
            again = self._repeated.read(data) if usual else None
            if again is not None:
                self._start_body(taker, *again)
                return
            self._parser = HttpResponseParser(self)
        seen = len(self._buffer)
        data = self._buffer + data
        while True:
            end = data.find(b"\r\n\r\n", seen - 3 if seen > 3 else 0)
            stop = len(data) if end < 0 else end + 4
            if stop > MAX_REPLY_HEAD_BYTES or not self._accepts(data[seen:stop]):
                taker.candidate_failed(Refusal.BAD_REPLY)
                return
            if end < 0:
                self._buffer = data
                return
            if not 100 <= self._parser.get_status_code() < 200 or data[9:12] == b"101":
                break
            # 100 and 103 were answers to nothing that we sent: Expect stays with us.
            if not self._interim_left:
                taker.candidate_failed(Refusal.BAD_REPLY)
                return
            self._interim_left -= 1
            data, seen = data[stop:], 0
            self._buffer = b""
            self._complete = False
            self._parser = HttpResponseParser(self)
            if not data:
                return
        reply = parse_reply(data[:end], to_head_request=self._to_head_request, to_http11=self._to_http11)
        if reply is None:
            taker.candidate_failed(Refusal.BAD_REPLY)
            return
        if usual:
            self._repeated.remember(data[:stop], reply)
        self._start_body(taker, reply, data[stop:])

    def _accepts(self, data: bytes) -> bool:
        assert self._parser is not None, "a head is read before its body"
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            return False
        return True

    def _start_body(self, taker: Taker, reply: ReplyHead, rest: bytes) -> None:
        self._state = _BODY
        self._buffer = b""
        self._framing = reply.framing
        self._left = reply.length
        self._reusable = reply.reusable
        taker.reply_head(reply)
        expected = 0 if reply.framing == NO_BODY else reply.length
        if reply.framing in (NO_BODY, LENGTH) and len(rest) >= expected:
            # The whole reply is here; whatever follows it was not asked for.
            self._complete = True
            self._left = 0
            self._reusable = reply.reusable and len(rest) == expected
            taker.reply_end(rest[:expected])
        elif rest:
            self.data_received(rest)
            taker.reply_flush()
        else:
            taker.reply_flush()

    def _read_length(self, taker: Taker, data: bytes) -> None:
        if len(data) > self._left:
            data = data[: self._left]
            self._reusable = False
        self._left -= len(data)
        if self._left:
            taker.reply_body(data)
        else:
            self._complete = True
            taker.reply_end(data)

    def _read_chunked(self, taker: Taker, data: bytes) -> None:
        broken = not self._accepts(data)
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if self._complete:
            self._reusable = self._reusable and not broken
            taker.reply_end(body)
        elif broken:  # whatever came with the bad chunk is dropped: a head not sent yet can still become a 502
            taker.candidate_failed(Refusal.BAD_REPLY)
        elif body:
            taker.reply_body(body)

    def _ended(self, exc: Exception | None) -> None:
        taker = self._taker
        if taker is None:
            return
        self._reusable = False
        # Over TLS a close without close_notify looks the same here, so a cut reply of this framing passes for a whole
        # one, as it does without TLS. vLLM frames every reply by length or chunks.
        if self._state == _BODY and self._framing == UNTIL_CLOSE and exc is None:
            self._complete = True
            taker.reply_end(b"")
        else:
            taker.candidate_failed(Refusal.CUT)


class CandidatePool:
    """Keep-alive connections to the candidate, the last used first.

    A request that went out is never sent again, so an idle connection must not be one that the candidate is about
    to close: they live for less than the candidate's own keep-alive time-out.
    """

    def __init__(self, url: str, settings: RelaySettings, *, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self.authority = parts.netloc.encode("ascii")
        self.write_buffer_bytes = settings.write_buffer_bytes
        self._settings = settings
        self._idle: list[CandidateConnection] = []
        self._closed = False

    def take(self, now_s: float) -> CandidateConnection | None:
        """The most recently used idle connection that is still fresh."""
        oldest_s = now_s - self._settings.pool_idle_timeout_s
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since_s > oldest_s and not connection.transport.is_closing():
                return connection
            connection.transport.abort()
        return None

    def put(self, connection: CandidateConnection, now_s: float) -> None:
        if self._closed or connection.transport.is_closing():
            connection.transport.abort()
            return
        connection.idle_since_s = now_s
        self._idle.append(connection)

    def forget(self, connection: CandidateConnection) -> None:
        """It was closed: if it lay idle here, it does no more."""
        if connection in self._idle:
            self._idle.remove(connection)

    async def connect(self) -> CandidateConnection:
        """A new connection. Connecting is the only thing that is ever retried.

        Raises:  ConnectError.
        """
        refusal = Refusal.CONNECT
        for _ in range(self._settings.connect_attempts):
            connection = CandidateConnection(self)
            try:
                async with asyncio.timeout(self._settings.connect_timeout_s):
                    await self._open(connection)
            except asyncio.CancelledError:
                connection.abandon()
                raise
            except Exception as fault:  # noqa: BLE001  a name may raise UnicodeError: the client gets its answer
                connection.abandon()
                refusal = Refusal.CONNECT_TIMEOUT if isinstance(fault, TimeoutError) else Refusal.CONNECT
            else:
                return connection
        raise ConnectError(refusal)

    async def _open(self, connection: CandidateConnection) -> None:
        name = self._host if self._tls else None
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, self._host, self._port, ssl=self._tls, server_hostname=name)

    def sweep(self, now_s: float) -> None:
        """Closes the idle ones that are no longer fresh; the oldest come first."""
        oldest_s = now_s - self._settings.pool_idle_timeout_s
        while self._idle and self._idle[0].idle_since_s <= oldest_s:
            self._idle.pop(0).transport.abort()

    def close(self) -> None:
        self._closed = True
        for connection in self._idle:
            connection.transport.abort()
        self._idle.clear()
