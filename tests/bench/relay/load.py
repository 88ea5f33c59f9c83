"""The clients: raw HTTP/1.1 over keep-alive connections, closed loop or at a fixed rate. Every reply is checked.

Units:  seconds throughout.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from tests.bench.relay.canned import TIME_CHARS

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_SENT_AT = b'"content":"0'  # no time on this machine's clock needs all its digits
_SPACED_SENT_AT = b'"content": "0'


@dataclass(slots=True)
class Seen:
    """What the clients of one run saw."""

    latencies_s: list[float] = field(default_factory=list)
    first_bytes_s: list[float] = field(default_factory=list)
    on_the_way_s: list[float] = field(default_factory=list)  # of a stream's events: from the engine to the client
    events: int = 0
    errors: int = 0
    took_s: float = 0.0


def requests(body_bytes: int, *, events: int = 0, pace_ms: int = 0, fresh_ids: bool = False) -> list[bytes]:
    """Chat completions to be sent in turn: bodies of about so many bytes, no two of one length; `events` make streams.

    As the SDKs', their heads differ in Content-Length alone; with `fresh_ids` in an X-Request-Id too, as behind an
    ingress that gives one.
    """
    number = 256 if fresh_ids else 64 if body_bytes < 10_000 else 4
    ids = (b"X-Request-Id: %032x\r\n" % (n * 0x9E3779B97F4A7C15) if fresh_ids else b"" for n in range(number))
    return [_request(body_bytes + n, more, events > 0, events, pace_ms) for n, more in enumerate(ids)]


def _request(body_bytes: int, more: bytes, stream: bool, events: int, pace_ms: int) -> bytes:
    """One chat completion, with the fields that steer the canned engine at its end."""
    steer = b',"stream":true,"max_tokens":%d,"seed":%d}' % (events, pace_ms) if stream else b',"max_tokens":9}'
    body = b'{"model":"bench","messages":[{"role":"user","content":"%b"}],"temperature":0'
    body = body % (b"lorem ipsum " * (body_bytes // 12))[: max(1, body_bytes - len(body) - len(steer))] + steer
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench.local\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nUser-Agent: OpenAI/Python 2.9.0\r\nAuthorization: Bearer sk-bench\r\n"
        b"X-Stainless-Lang: python\r\nX-Stainless-Runtime: CPython\r\n%bContent-Length: %d\r\n\r\n%b"
        % (more, len(body), body)
    )


class _Client(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._head = b""
        self._left = -1  # bytes of the body to come; -1: no head yet, -2: chunked
        self._tail = b""
        self._sent_s = 0.0
        self._began = False
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, message: bytes, due_s: float | None = None) -> None:
        self.busy, self._began = True, False
        self._head, self._left, self._tail = b"", -1, b""
        self._sent_s = time.monotonic() if due_s is None else due_s
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        if self._left == -1:
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            if not data.startswith(b"HTTP/1.1 200"):
                self._run.seen.errors += 1
                self._run.complain(data)
            length = _LENGTH.search(data, 0, end + 2)
            self._left = int(length[1]) if length else -2
            data = data[end + 4 :]
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._ended(now_s)
            return
        if not data:
            return
        joined = self._tail + data
        self._tail = joined[-16:]
        at = joined.find(_SENT_AT)
        if at < 0:
            at = joined.find(_SPACED_SENT_AT)
            at = at + 1 if at >= 0 else at
        if at >= 0:
            start = at + len(_SENT_AT) - 1
            try:
                self._run.seen.on_the_way_s.append(now_s - float(joined[start : start + TIME_CHARS]))
            except ValueError:
                pass  # cut in two by the proxy: the next read has another
            if not self._began:
                self._began = True
                self._run.seen.first_bytes_s.append(now_s - self._sent_s)
        self._run.seen.events += data.count(b"data: {")
        if self._tail.endswith(b"0\r\n\r\n"):
            self._ended(now_s)

    def _ended(self, now_s: float) -> None:
        self.busy = False
        self._run.seen.latencies_s.append(now_s - self._sent_s)
        self._run.ended(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost(self)


class _Run:
    """One run against one port: `connections` clients, `total` requests."""

    def __init__(self, port: int, messages: Sequence[bytes], connections: int, total: int) -> None:
        self.seen = Seen()
        self._port = port
        self._messages = itertools.cycle(messages)
        self._connections = connections
        self._total = total
        self._sent = self._done = 0
        self._clients: list[_Client] = []
        self._free: deque[_Client] = deque()
        self._waiting: deque[float] = deque()
        self._paced = False
        self._whole = asyncio.Event()
        self._closing = False
        self._complained = False

    async def closed_loop(self) -> Seen:
        await self._connect()
        began_s = time.monotonic()
        for client in self._clients:
            self._next(client)
        return await self._collected(began_s)

    async def open_loop(self, rate: float) -> Seen:
        """A request each 1/rate seconds whatever becomes of those before; latency counts from when it was due."""
        self._paced = True
        await self._connect()
        self._free.extend(self._clients)
        loop = asyncio.get_running_loop()
        began_s = time.monotonic()

        def due(number: int) -> None:
            if number < self._total:
                at_s = began_s + (number + 1) / rate
                loop.call_at(at_s, due, number + 1)
                self._waiting.append(began_s + number / rate)
                self._serve_waiting()

        due(0)
        return await self._collected(began_s)

    def _serve_waiting(self) -> None:
        while self._waiting and self._free:
            self._sent += 1
            self._free.popleft().send(next(self._messages), self._waiting.popleft())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            _, client = await loop.create_connection(lambda: _Client(self), "127.0.0.1", self._port)
            self._clients.append(client)

    async def _collected(self, began_s: float) -> Seen:
        try:
            async with asyncio.timeout(120):
                await self._whole.wait()
        except TimeoutError:
            self.seen.errors += self._total - self._done
        self.seen.took_s = time.monotonic() - began_s
        self._closing = True
        for client in self._clients:
            client.transport.abort()
        return self.seen

    def _next(self, client: _Client) -> None:
        if self._sent < self._total:
            self._sent += 1
            client.send(next(self._messages))

    def ended(self, client: _Client) -> None:
        self._done += 1
        if self._done >= self._total:
            self._whole.set()
        elif self._paced:
            self._free.append(client)
            self._serve_waiting()
        else:
            self._next(client)

    def lost(self, client: _Client) -> None:
        if client.busy and not self._closing:
            self.seen.errors += 1
            self._done += 1
            if self._done >= self._total:
                self._whole.set()

    def complain(self, reply: bytes) -> None:
        """Shows the first reply that is no 200: a benchmark of errors would look fast."""
        if not self._complained:
            self._complained = True
            print(f"port {self._port} answered {reply[:300]!r}", flush=True)


async def closed_loop(port: int, messages: Sequence[bytes], connections: int, total: int) -> Seen:
    """`total` requests over so many connections, each sending its next when its last has ended."""
    return await _Run(port, messages, connections, total).closed_loop()


async def open_loop(port: int, messages: Sequence[bytes], connections: int, total: int, rate: float) -> Seen:
    """`total` requests at `rate` per second over at most so many connections."""
    return await _Run(port, messages, connections, total).open_loop(rate)
