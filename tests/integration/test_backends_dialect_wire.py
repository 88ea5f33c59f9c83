"""The scripted server's sockets: framing read exactly, bad HTTP refused, a client that leaves is noticed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import orjson
import pytest

from backends.scripted import Fault, Script, ScriptedServer

BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0})
STREAMED = BODY[:-1] + b',"stream":true}'


def head(body: bytes, *extra: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    lines = (b"POST " + path + b" HTTP/1.1", b"Host: x", b"Content-Type: application/json", *extra)
    length = () if any(b"ransfer" in line for line in extra) else (b"Content-Length: %d" % len(body),)
    return b"\r\n".join((*lines, *length, b"", b""))


async def talk(server: ScriptedServer, *parts: bytes) -> bytes:
    """Everything that the server says to these bytes until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(5.0):
        said = await reader.read()
    writer.close()
    return said


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("the condition never came true")


@pytest.mark.asyncio
async def test_requests_are_recorded_byte_for_byte() -> None:
    async with ScriptedServer(Script(record=2)) as server:
        odd = head(BODY, b"X-Odd:  two  spaces ", b"x-odd: again", b"Connection: close")
        said = await talk(server, odd[:20], odd[20:] + BODY[:5], BODY[5:])
        assert said.startswith(b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\n")
        (request,) = server.requests
    assert request.head == odd
    assert request.body == BODY
    assert request.header(b"x-odd") == "two  spaces"


@pytest.mark.asyncio
async def test_the_record_is_bounded() -> None:
    async with ScriptedServer(Script(record=2)) as server:
        for number in range(4):
            await talk(server, head(BODY, b"X-N: %d" % number, b"Connection: close") + BODY)
        assert [request.header(b"x-n") for request in server.requests] == ["2", "3"]
        assert server.stats["requests"] == 4
    async with ScriptedServer() as server:
        await talk(server, head(BODY, b"Connection: close") + BODY)
        assert server.requests == []


@pytest.mark.asyncio
async def test_a_chunked_upload_with_trailers_is_the_same_request() -> None:
    chunked = b"5;ext=1\r\n" + BODY[:5] + b"\r\n%x\r\n" % len(BODY[5:]) + BODY[5:] + b"\r\n0\r\nX-T: 1\r\n\r\n"
    async with ScriptedServer(Script(record=1)) as server:
        plain = await talk(server, head(BODY, b"Connection: close") + BODY)
        said = await talk(server, head(b"", b"Transfer-Encoding: chunked", b"Connection: close"), chunked)
        assert server.requests[0].body == BODY
    assert said == plain


@pytest.mark.asyncio
async def test_expect_is_answered_before_the_body() -> None:
    async with ScriptedServer() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(BODY, b"Expect: 100-continue", b"Connection: close"))
        async with asyncio.timeout(5.0):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        writer.close()


@pytest.mark.asyncio
async def test_pipelined_requests_are_answered_in_order() -> None:
    async with ScriptedServer() as server:
        said = await talk(
            server, head(BODY) + BODY + head(STREAMED) + STREAMED + head(BODY, b"Connection: close") + BODY
        )
    assert len(re.findall(rb"HTTP/1\.1 200 OK", said)) == 3
    assert said.count(b"data: [DONE]") == 1
    assert said.index(b'"chat.completion"') < said.index(b"[DONE]") < said.rindex(b'"chat.completion"')


@pytest.mark.asyncio
async def test_http_1_0_gets_a_stream_that_ends_with_the_connection() -> None:
    async with ScriptedServer() as server:
        said = await talk(server, head(STREAMED).replace(b"HTTP/1.1", b"HTTP/1.0") + STREAMED)
    assert b"transfer-encoding" not in said
    assert said.endswith(b"data: [DONE]\n\n")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nspaced : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabcd\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    ],
)
async def test_bad_http_is_refused_and_the_server_lives(said: bytes, status: int) -> None:
    async with ScriptedServer() as server:
        assert (await talk(server, said)).startswith(b"HTTP/1.1 %d " % status)
        assert (await talk(server, head(BODY, b"Connection: close") + BODY)).startswith(b"HTTP/1.1 200")


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [BODY, STREAMED])
@pytest.mark.parametrize("script", [Script(faults={Fault.STALL: 1.0}), Script(token_interval_s=0.5)])
async def test_a_client_that_leaves_is_noticed_within_a_second(body: bytes, script: Script) -> None:
    async with ScriptedServer(script) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(body) + body)
        await until(lambda: server.in_flight == 1)
        started = asyncio.get_running_loop().time()
        writer.close()
        await until(lambda: server.stats["aborted"] == 1)
        assert asyncio.get_running_loop().time() - started < 1.0
        await until(lambda: server.in_flight == 0)


@pytest.mark.asyncio
async def test_leaving_between_requests_is_no_abort() -> None:
    async with ScriptedServer() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(BODY) + BODY)
        await reader.readuntil(b'"metrics":null}')
        writer.close()
        await talk(server, head(BODY, b"Connection: close") + BODY)
        assert server.stats["aborted"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "body", "ends"),
    [
        (Fault.CLOSE_AT_ONCE, BODY, b"^$"),
        (Fault.CLOSE_IN_HEAD, BODY, rb"^HTTP/1\.1 200 OK\r\ncontent-ty$"),
        (Fault.GARBAGE, BODY, rb"^\x16\x03\x01"),
        (Fault.CUT_STREAM, BODY, rb"^HTTP/1\.1 200 OK\r\n[^{]*content-length: \d+\r\n\r\n\{.{50,}[^}]$"),
        (Fault.CUT_STREAM, STREAMED, rb'^HTTP/1\.1 200 OK\r\n(?s:.*)data: \{"id(?s:.*)\}\n\n\r\n$'),
    ],
)
async def test_rudeness_on_the_wire(fault: Fault, body: bytes, ends: bytes) -> None:
    async with ScriptedServer(Script(faults={fault: 1.0})) as server:
        said = await talk(server, head(body) + body)
        assert re.search(ends, said), said
        assert b"[DONE]" not in said
        assert server.faults.struck == {str(fault): 1}


@pytest.mark.asyncio
async def test_a_reset_is_a_reset() -> None:
    async with ScriptedServer(Script(faults={Fault.RESET: 1.0})) as server:
        with pytest.raises(ConnectionResetError):
            await talk(server, head(STREAMED) + STREAMED)
        assert server.stats["aborted"] == 0


@pytest.mark.asyncio
async def test_closing_ends_what_is_stalled() -> None:
    server = ScriptedServer(Script(faults={Fault.STALL: 1.0}))
    await server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(BODY) + BODY)
    await until(lambda: server.in_flight == 1)
    async with asyncio.timeout(2.0):
        await server.aclose()
    assert server.stats["aborted"] == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)
    writer.close()
