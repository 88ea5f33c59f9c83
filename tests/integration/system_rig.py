"""The real relay and the real monitor as processes, between a recording candidate and any reference.

async with Program.relay(folder, candidate, reference, rate=1.0) as relay, Program.monitor(...) as monitor:
    reply = await Caller(relay.port).send(case)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools

DEADLINE_S = 30.0
_HOP_BY_HOP = (b"connection", b"keep-alive", b"transfer-encoding")


async def until(condition: Callable[[], Any], within_s: float = DEADLINE_S) -> None:
    """Returns once the condition holds; fails the test when it does not in time."""
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "the condition did not come to hold in time"
        await asyncio.sleep(0.01)


def write_settings(folder: Path, candidate: str, reference: str, *, rate: float, more: str = "") -> Path:
    """A settings file for one relay and one monitor in a folder of their own; `more` may hold further tables."""
    config = folder / "parity.toml"
    config.write_text(
        f"""
[candidate]
url = "{candidate}"
[reference]
url = "{reference}"
[relay]
port = 0
[control]
port = 0
[sampling]
rate = {rate}
large_body_rate = {rate}
[feed]
socket = "{folder}/feed"
reconnect_interval_s = 0.05
[ledger]
path = "{folder}/ledger.sqlite"
[budgets.tool_call_mismatch]
limit = 0.03
critical = true
{more}
"""
    )
    return config


@dataclass
class Program:
    """A `parity` command as a process of its own."""

    command: str
    process: asyncio.subprocess.Process
    listening: dict[str, Any]
    errors: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listening["port"])

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """As the system's out-of-memory killer would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    def rss_bytes(self) -> int:
        """What the process holds in memory now. Source: proc(5), VmRSS."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.command} is gone")


@contextlib.asynccontextmanager
async def program(command: str, config: Path, *, through: tuple[str, ...] = ()) -> AsyncIterator[Program]:
    """`parity COMMAND --config CONFIG`, listening; ended by SIGTERM, or killed when that takes too long.

    `through` is a command that runs it.
    """
    process = await asyncio.create_subprocess_exec(
        *(*through, sys.executable),
        *("-m", "proxy.cli", command, "--config", str(config), "--log-level", "warning"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reading = asyncio.ensure_future(_collect(process.stderr, errors))
    try:
        first = await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
        assert first, f"parity {command} ended at once: {''.join(errors)}"
        yield Program(command, process, json.loads(first), errors)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), DEADLINE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading


async def _collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode(errors="replace"))


@contextlib.asynccontextmanager
async def stalled() -> AsyncIterator[str]:
    """The url of an upstream that takes every request and never answers."""
    writers: set[asyncio.StreamWriter] = set()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while await reader.read(65536):
                pass
        writers.discard(writer)
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in tuple(writers):
            writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply as it was on the wire: the raw head, and the body without its transfer coding.

    Units:  seconds from the request's last byte sent to the reply's first byte received.
    """

    head: bytes
    body: bytes
    first_byte_s: float

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    def end_to_end(self) -> tuple[list[bytes], bytes]:
        """The reply less what is of one connection only."""
        return end_to_end(self.head), self.body


def end_to_end(head: bytes) -> list[bytes]:
    """A head's lines in order, less the hop-by-hop headers."""
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    return [first, *(line for line in lines if line.partition(b":")[0].lower() not in _HOP_BY_HOP)]


class Caller:
    """One keep-alive connection that sends raw requests, one at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, raw: bytes) -> Answer:
        """The whole reply to one raw request. Raises: ConnectionError, TimeoutError: the client's errors."""
        async with asyncio.timeout(DEADLINE_S):
            if self._connection is None:
                self._connection = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._connection
            writer.write(raw)
            await writer.drain()
            started_s = time.perf_counter()
            return await self._receive(reader, started_s)

    async def _receive(self, reader: asyncio.StreamReader, started_s: float) -> Answer:
        reply = _Reply()
        parser = httptools.HttpResponseParser(reply)
        raw = b""
        first_byte_s = 0.0
        while not reply.complete:
            data = await reader.read(1 << 18)
            if not data:
                raise ConnectionResetError("the reply was cut")
            first_byte_s = first_byte_s or time.perf_counter() - started_s
            if not reply.head_complete:
                raw += data
            parser.feed_data(data)
        if not parser.should_keep_alive():
            await self.aclose()
        return Answer(raw[: raw.index(b"\r\n\r\n") + 4], b"".join(reply.parts), first_byte_s)

    async def aclose(self) -> None:
        """The connection, if any, is closed; the next request opens another."""
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None


class _Reply:
    """What llhttp calls back on."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.head_complete = False
        self.complete = False

    def on_headers_complete(self) -> None:
        self.head_complete = True

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self.complete = True
