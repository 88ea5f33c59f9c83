"""The shadow client on real sockets: every way to misbehave becomes one of three errors, and nothing leaks."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import orjson
import pytest

from backends.base import Backend, BackendError, BackendProtocolError, BackendTimeout, BackendUnavailable
from backends.openai import USER_AGENT, OpenAIBackend
from backends.scripted import Fault, Script, ScriptedServer

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0})


@asynccontextmanager
async def client(
    url: str, *, key: str | None = None, max_reply_bytes: int = 1 << 20, max_connections: int = 4
) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend(
        "reference",
        url,
        api_key=key,
        connect_timeout_s=2.0,
        max_reply_bytes=max_reply_bytes,
        max_connections=max_connections,
    )
    try:
        yield backend
    finally:
        await backend.aclose()


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[str]:
    """A server that says exactly what a test tells it to."""

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left: that is what some of these tests are about
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def saying(*parts: bytes) -> Handler:
    """Reads one head, says the parts, hangs up."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()

    return handler


@pytest.mark.asyncio
async def test_a_whole_reply_with_our_key_and_name() -> None:
    async with ScriptedServer(Script(record=4)) as server, client(server.url, key="ours") as backend:
        typed: Backend = backend
        reply = await typed.post(CHAT, BODY, {**JSON, "Authorization": "Bearer the client's"}, 5.0)
        listing = await typed.get("/v1/models", 5.0)
        heads = [request.head.lower() for request in server.requests]
    assert reply.ok
    assert reply.content_type == "application/json"
    assert orjson.loads(reply.body)["object"] == "chat.completion"
    assert reply.duration_s > 0
    assert orjson.loads(listing.body)["data"][0]["id"] == "m"
    for head in heads:
        assert head.count(b"authorization:") == 1
        assert b"authorization: bearer ours" in head
        assert b"user-agent: " + USER_AGENT.encode() in head
        assert b"accept-encoding: identity" in head


@pytest.mark.asyncio
async def test_without_a_key_no_authorization_is_sent() -> None:
    async with ScriptedServer(Script(record=1)) as server, client(server.url) as backend:
        await backend.post(CHAT, BODY, JSON, 5.0)
        assert b"authorization" not in server.requests[0].head.lower()


@pytest.mark.asyncio
async def test_statuses_are_replies_not_errors() -> None:
    async with ScriptedServer(Script(faults={Fault.ERROR_500: 1.0})) as server, client(server.url) as backend:
        assert (await backend.post(CHAT, BODY, JSON, 5.0)).status == 500
        assert (await backend.post(CHAT, b"{", JSON, 5.0)).status == 400
        assert (await backend.get("/nothing", 5.0)).status == 404


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.CLOSE_AT_ONCE, BackendUnavailable),
        (Fault.CLOSE_IN_HEAD, BackendUnavailable),
        (Fault.CUT_STREAM, BackendUnavailable),
        (Fault.RESET, BackendUnavailable),
        (Fault.GARBAGE, BackendProtocolError),
        (Fault.STALL, BackendTimeout),
        (Fault.STALL_STREAM, BackendTimeout),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_misbehaviour_is_translated_once_and_the_pool_survives(
    fault: Fault, error: type[BackendError], streamed: bool
) -> None:
    body = orjson.dumps({**orjson.loads(BODY), "stream": streamed})
    async with (
        ScriptedServer(Script(faults={fault: 1.0})) as server,
        client(server.url, max_connections=1) as backend,
    ):
        for _ in range(3):
            with pytest.raises(error) as caught:
                await backend.post(CHAT, body, JSON, 0.3)
            assert type(caught.value) is error
            assert "\n" not in str(caught.value)
            assert "reference" in str(caught.value)
        assert server.stats["requests"] == 3, "nothing is ever sent twice"
        server.set_fault(fault, 0.0)
        assert (await backend.post(CHAT, body, JSON, 5.0)).ok, "the only connection of the pool came back"


@pytest.mark.asyncio
async def test_a_cancelled_call_gives_its_connection_back() -> None:
    async with (
        ScriptedServer(Script(faults={Fault.STALL: 1.0})) as server,
        client(server.url, max_connections=1) as backend,
    ):
        for expected in range(1, 4):
            call = asyncio.create_task(backend.post(CHAT, BODY, JSON, 30.0))
            await until(lambda: server.in_flight == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda count=expected: server.stats["aborted"] == count)  # type: ignore[misc]
        server.set_fault(Fault.STALL, 0.0)
        assert (await backend.post(CHAT, BODY, JSON, 5.0)).ok


@pytest.mark.asyncio
async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused at once, and nobody else can take the port
        async with client(f"http://127.0.0.1:{taken.getsockname()[1]}") as backend:
            with pytest.raises(BackendUnavailable, match="cannot connect"):
                await backend.post(CHAT, BODY, JSON, 5.0)


@pytest.mark.asyncio
async def test_a_closed_backend_says_so() -> None:
    async with client("http://127.0.0.1:9") as backend:
        pass
    with pytest.raises(BackendUnavailable, match="closed"):
        await backend.get("/health", 1.0)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "reply",
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n", b"x" * 10),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 600, b"x" * 600),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"),
    ],
)
async def test_a_body_past_the_bound(reply: tuple[bytes, ...]) -> None:
    async with raw_server(saying(*reply)) as url, client(url, max_reply_bytes=1000) as backend:
        with pytest.raises(BackendProtocolError, match="larger than 1000 bytes"):
            await backend.get("/", 5.0)


@pytest.mark.asyncio
async def test_refused_bodies_give_their_connection_back() -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"
    async with raw_server(saying(said)) as url, client(url, max_reply_bytes=1000, max_connections=1) as backend:
        for _ in range(3):
            with pytest.raises(BackendProtocolError, match="larger"):
                await backend.get("/", 2.0)


@pytest.mark.asyncio
async def test_a_body_at_the_bound_is_whole() -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000
    async with raw_server(saying(said)) as url, client(url, max_reply_bytes=1000) as backend:
        assert (await backend.get("/", 5.0)).body == b"x" * 1000


@pytest.mark.asyncio
async def test_a_content_coding_that_was_not_asked_for() -> None:
    bomb = gzip.compress(b"\0" * 1_000_000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with raw_server(saying(head + bomb)) as url, client(url) as backend:
        with pytest.raises(BackendProtocolError, match="gzip"):
            await backend.get("/", 5.0)


@pytest.mark.asyncio
async def test_redirects_are_replies() -> None:
    said = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n"
    async with raw_server(saying(said)) as url, client(url) as backend:
        assert (await backend.post(CHAT, BODY, JSON, 5.0)).status == 307


@pytest.mark.asyncio
async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with ScriptedServer() as server, client(server.url) as backend:
        assert (await backend.get("/health", 5.0)).ok


@pytest.mark.asyncio
async def test_a_dripping_reply_ends_at_the_total_time_out() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with raw_server(drip) as url, client(url) as backend:
        with pytest.raises(BackendTimeout):
            async with asyncio.timeout(3.0):
                await backend.get("/", 0.4)


@pytest.mark.asyncio
async def test_connections_are_kept() -> None:
    connections = 0

    async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with raw_server(polite) as url, client(url) as backend:
        for _ in range(5):
            assert (await backend.get("/", 5.0)).body == b"ok"
    assert connections == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("value", "sent"), [("plain", b"plain"), ("caf\xc3\xa9", b"caf\xc3\xa9"), ("caf\xe9", b"caf\xc3\xa9")]
)
async def test_header_values_travel_as_utf_8(value: str, sent: bytes) -> None:
    """Values come here as latin-1, one character for each byte; what was UTF-8 leaves with the same bytes."""
    async with ScriptedServer(Script(record=1)) as server, client(server.url) as backend:
        assert (await backend.post(CHAT, BODY, {**JSON, "x-team": value}, 5.0)).ok
        assert b"x-team: " + sent + b"\r\n" in server.requests[0].head


async def until(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; fails the test after 5 s."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("the condition never came true")
