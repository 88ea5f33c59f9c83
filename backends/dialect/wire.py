"""HTTP/1.1 on a raw socket, polite or rude: reads requests byte-exactly, writes replies, and can misbehave on purpose.

A client that closes its side cancels the work on its request at once, as vLLM does; that is counted by the owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,8}$")


class BadHttp(Exception):
    """What came is not HTTP that we read. `status` is the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(_REASONS[status])
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `head` is raw, up to and including its empty line; `body` has its transfer coding removed."""

    method: str
    target: str
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    head: bytes

    def header(self, name: bytes) -> str:
        """The first value of a header, by lower-case name; empty when absent."""
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == name), "")

    @property
    def keeps_alive(self) -> bool:
        said = self.header(b"connection").lower()
        return said != "close" if self.version == "HTTP/1.1" else said == "keep-alive"


class Connection(asyncio.StreamReaderProtocol):
    """One client connection: reads one request at a time and hands it to `serve`.

    `busy` is true while a request is being answered; when the client goes then, the task is cancelled.
    """

    def __init__(self, serve: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES, loop=self._loop)
        super().__init__(self.reader, loop=self._loop)
        self._serve = serve
        self.busy = False
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class does not inherit from it
        self.writer = asyncio.StreamWriter(self.transport, self, self.reader, self._loop)
        self.task = self._loop.create_task(self._serve(self))

    def eof_received(self) -> bool:
        super().eof_received()
        self._gone()
        return False  # a half-closed client counts as gone, as with uvicorn

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone()

    def _gone(self) -> None:
        if self.busy and self.task is not None:
            self.task.cancel()

    async def read_request(self) -> Request | None:
        """The next request, or None when the client is done. Raises: BadHttp."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise BadHttp(431) from error
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        method, target, version, headers = _parse_head(head)
        named = {name.lower(): value for name, value in headers}
        if named.get(b"expect", b"").lower() == b"100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await self._read_body(named)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Request(method, target, version, headers, body, head)

    async def _read_body(self, named: dict[bytes, bytes]) -> bytes:
        if named.get(b"transfer-encoding", b"").lower() == b"chunked":
            return await self._read_chunked()
        length = named.get(b"content-length", b"0")
        if not length.isdigit():
            raise BadHttp(400)
        if int(length) > MAX_BODY_BYTES:
            raise BadHttp(413)
        return await self.reader.readexactly(int(length))

    async def _read_chunked(self) -> bytes:
        body = bytearray()
        while True:
            size = (await self._line()).partition(b";")[0].strip()
            if not _CHUNK_SIZE.match(size):
                raise BadHttp(400)
            if not int(size, 16):
                break
            if len(body) + int(size, 16) > MAX_BODY_BYTES:
                raise BadHttp(413)
            body += await self.reader.readexactly(int(size, 16))
            if await self.reader.readexactly(2) != b"\r\n":
                raise BadHttp(400)
        while await self._line():
            pass  # trailers: read and dropped
        return bytes(body)

    async def _line(self) -> bytes:
        try:
            return (await self.reader.readuntil(b"\r\n"))[:-2]
        except asyncio.LimitOverrunError as error:
            raise BadHttp(431) from error

    async def reply(self, status: int, body: bytes, content_type: str = "application/json", *, close: bool) -> None:
        """One whole reply."""
        self.writer.write(head_of(status, content_type if body else "", len(body), close=close) + body)
        await self.writer.drain()

    async def hang_up(self) -> None:
        """An orderly end of the connection after what was written."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """A TCP reset, now; unsent bytes are dropped."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def head_of(status: int, content_type: str, length: int | None, *, close: bool, chunked: bool = False) -> bytes:
    """A reply head, named as vLLM's server names itself. No date: equal requests get equal bytes.

    `length` None goes with chunked or with closing.
    """
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}", "server: uvicorn"]
    if content_type:
        lines.append(f"content-type: {content_type}")
    if length is not None:
        lines.append(f"content-length: {length}")
    if chunked:
        lines.append("transfer-encoding: chunked")
    if close:
        lines.append("connection: close")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _parse_head(head: bytes) -> tuple[str, str, str, tuple[tuple[bytes, bytes], ...]]:
    lines = head[:-4].split(b"\r\n")
    parts = lines[0].decode("latin-1").split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadHttp(400)
    headers: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise BadHttp(400)
        headers.append((name, value.strip(b" \t")))
    return parts[0], parts[1], parts[2], tuple(headers)
