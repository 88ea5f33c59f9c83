"""A relay between raw sockets: a scripted upstream that records bytes, a raw client, and the relay in between.

Everything runs on one uvloop loop in this process, on loopback, on ports that the system chooses.

    @on_uvloop
    async def test_something() -> None:
        async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
            await c.send(b"...")
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec

import uvloop

from proxy.exchange import Exchange, Lost, RelayEvent, Sampled
from proxy.metrics import RelayCounters
from proxy.relay import serve_relay
from proxy.settings import Settings

_P = ParamSpec("_P")
DEADLINE_S = 10.0
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
CHAT_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


def chat(body: bytes = b'{"a":1}', *headers: bytes) -> bytes:
    """The raw bytes of a chat request."""
    extra = b"".join(header + b"\r\n" for header in headers)
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)


GET = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"


def on_uvloop(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """The test, run on a uvloop loop of its own, as the product does."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        uvloop.run(test(*args, **kwargs))

    # pytest must see a plain function, not the coroutine function behind it.
    del run.__wrapped__
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


async def until(condition: Callable[[], Any], within_s: float = DEADLINE_S) -> None:
    """Returns once the condition holds; fails the test when it does not in time."""
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "the condition did not come to hold in time"
        await asyncio.sleep(0.005)


class Wire:
    """One end of a connection, with what it has received so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received = b""
        self.ended = asyncio.Event()
        self.reset = False
        self._news = asyncio.Event()
        self._go = asyncio.Event()
        self._go.set()
        self._task = asyncio.get_running_loop().create_task(self._collect())

    async def _collect(self) -> None:
        try:
            while True:
                await self._go.wait()
                data = await self.reader.read(65536)
                if not data:
                    break
                self.received += data
                self._news.set()
        except (ConnectionError, ssl.SSLError):
            self.reset = True
        self.ended.set()
        self._news.set()

    def stop_reading(self) -> None:
        """Leaves what comes in the socket, not in some buffer of ours."""
        self._go.clear()
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def go_on_reading(self) -> None:
        self._go.set()
        if not self.writer.transport.is_closing():
            self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def wait_for(self, condition: Callable[[bytes], bool], within_s: float = DEADLINE_S) -> bytes:
        """What was received, once the condition holds on it."""
        async with asyncio.timeout(within_s):
            while not condition(self.received):
                if self.ended.is_set():
                    raise EOFError(f"closed after {self.received[-2000:]!r}")
                self._news.clear()
                await self._news.wait()
        return self.received

    async def wait_bytes(self, wanted: bytes, within_s: float = DEADLINE_S) -> bytes:
        return await self.wait_for(lambda got: wanted in got, within_s)

    async def wait_end(self, within_s: float = DEADLINE_S) -> bytes:
        async with asyncio.timeout(within_s):
            await self.ended.wait()
        return self.received

    def kill(self) -> None:
        """Closes at once, in both directions."""
        self.writer.transport.abort()

    def crash(self) -> None:
        """Closes with a reset, as the system does for a process that died with bytes unread."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def aclose(self) -> None:
        self._task.cancel()
        self.writer.transport.abort()


Script = Callable[[Wire], Awaitable[None]]


@dataclass
class Upstream:
    """A candidate made of a script. `wires` are its connections, in the order they came."""

    port: int
    wires: list[Wire] = field(default_factory=list)

    @property
    def received(self) -> bytes:
        return b"".join(wire.received for wire in self.wires)

    async def wire(self, index: int = 0) -> Wire:
        await until(lambda: len(self.wires) > index)
        return self.wires[index]


@asynccontextmanager
async def upstream(script: Script, *, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Upstream]:
    """A listening upstream that runs the script for each connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        up.wires.append(wire)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(wire)
        except (ConnectionError, RuntimeError, asyncio.CancelledError, EOFError):
            pass  # the relay closed it, or the test is over
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    up = Upstream(server.sockets[0].getsockname()[1])
    try:
        yield up
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        for wire in up.wires:
            await wire.aclose()


def body_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def read_request(wire: Wire, start: int = 0) -> tuple[bytes, bytes, int]:
    """The head, the body (as framed) and the position after the request that begins at `start`."""
    got = await wire.wait_for(lambda data: b"\r\n\r\n" in data[start:])
    end = got.index(b"\r\n\r\n", start) + 4
    head = got[start:end]
    if b"transfer-encoding: chunked" in head.lower():
        got = await wire.wait_for(lambda data: b"0\r\n\r\n" in data[end:])
        stop = got.index(b"0\r\n\r\n", end) + 5
    else:
        stop = end + body_length(head)
        got = await wire.wait_for(lambda data: len(data) >= stop)
    return head, got[end:stop], stop


def replies(*answers: bytes) -> Script:
    """Answers each request in turn, the last one for ever; keeps the connection."""

    async def script(wire: Wire) -> None:
        position = 0
        count = 0
        while not wire.ended.is_set():
            _, _, position = await read_request(wire, position)
            await wire.send(answers[min(count, len(answers) - 1)])
            count += 1

    return script


def replies_then_close(answer: bytes) -> Script:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(answer)
        wire.writer.close()

    return script


async def silence(wire: Wire) -> None:
    """Accepts, reads, and never answers."""
    await wire.ended.wait()


@dataclass
class Feed:
    """A feed that keeps what it is offered."""

    events: list[RelayEvent] = field(default_factory=list)
    accept: bool = True
    connected: bool = True

    def offer(self, event: RelayEvent) -> bool:
        self.events.append(event)
        return self.accept

    @property
    def sampled(self) -> list[Sampled]:
        return [event for event in self.events if isinstance(event, Sampled)]

    @property
    def exchanges(self) -> list[Exchange]:
        return [event for event in self.events if isinstance(event, Exchange)]

    @property
    def lost(self) -> list[Lost]:
        return [event for event in self.events if isinstance(event, Lost)]


def settings_for(candidate: str, relay: dict[str, Any] | None = None, **tables: dict[str, Any]) -> Settings:
    """Settings with a candidate, the tables given, and what else is required."""
    return Settings.model_validate(
        {
            "candidate": {"url": candidate},
            "reference": {"url": "http://127.0.0.1:1"},
            "relay": {"port": 0, **(relay or {})},
            "sampling": {"rate": 0.0, "large_body_rate": 0.0},
            "budgets": {"tool_call_mismatch": {"limit": 0.03, "critical": True}},
            **tables,
        },
        strict=False,
    )


@dataclass
class Relay:
    """A running relay."""

    host: str
    port: int
    counters: RelayCounters
    feed: Any
    shutdown: asyncio.Event
    task: asyncio.Task[None]
    tls: ssl.SSLContext | None = None


@asynccontextmanager
async def relay(
    up: Upstream | str,
    *,
    feed: Any = None,
    client_tls: ssl.SSLContext | None = None,
    candidate_tls: ssl.SSLContext | None = None,
    relay: dict[str, Any] | None = None,
    feed_table: dict[str, Any] | None = None,
    **tables: dict[str, Any],
) -> AsyncIterator[Relay]:
    """A relay before the upstream, on this loop. `relay`, `feed_table` and further tables are settings."""
    url = up if isinstance(up, str) else f"http{'s' if candidate_tls else ''}://127.0.0.1:{up.port}"
    settings = settings_for(url, relay, feed=feed_table or {}, **tables)
    listening: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
    counters = RelayCounters()
    feed = Feed() if feed is None else feed
    shutdown = asyncio.Event()
    task = asyncio.get_running_loop().create_task(
        serve_relay(
            settings,
            worker="w",
            feed=feed,
            counters=counters,
            shutdown=shutdown,
            on_listening=lambda host, port: listening.set_result((host, port)),
            candidate_tls=candidate_tls,
        )
    )
    await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    host, port = listening.result()
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    try:
        yield Relay(host, port, counters, feed, shutdown, task, client_tls)
    finally:
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not faults, f"exceptions in callbacks of the event loop: {faults}"


@asynccontextmanager
async def client(proxy: Relay) -> AsyncIterator[Wire]:
    """A raw client connection."""
    wire = await connect(proxy)
    try:
        yield wire
    finally:
        await wire.aclose()


async def connect(proxy: Relay) -> Wire:
    name = "localhost" if proxy.tls else None
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, ssl=proxy.tls, server_hostname=name)
    return Wire(reader, writer)


async def ask(proxy: Relay, data: bytes) -> bytes:
    """Everything that comes back on a connection of its own, until the relay closes it."""
    async with client(proxy) as wire:
        await wire.send(data)
        return await wire.wait_end()


def dechunk(data: bytes) -> tuple[bytes, bool]:
    """The body of a chunked message, and whether its last chunk is there."""
    body = b""
    while data:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return body, False
        size = int(line, 16)
        if size == 0:
            return body, data == b"\r\n"
        body += data[:size]
        if len(data) < size + 2:
            return body, False
        data = data[size + 2 :]
    return body, False
