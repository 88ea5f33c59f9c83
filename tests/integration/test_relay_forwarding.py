"""What goes through the relay comes out the same, on real sockets."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.relay_rig import (
    GET,
    OK,
    Wire,
    ask,
    chat,
    client,
    dechunk,
    on_uvloop,
    read_request,
    relay,
    replies,
    replies_then_close,
    silence,
    until,
    upstream,
)


@on_uvloop
async def test_request_reaches_the_candidate_verbatim_but_for_hop_by_hop() -> None:
    sent = (
        b"POST /v1/chat/completions?a=%20b&c HTTP/1.1\r\nhost: Some.Host:123\r\nX-Dup: 1\r\nx-dup:2\r\nX-DUP:  3 \r\n"
        b"Connection: keep-alive, X-Named\r\nX-Named: gone\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n"
        b"TE: trailers\r\nTrailer: x\r\nUpgrade: h2c\r\nExpect: nonsense\r\nAuthorization: Bearer sk\r\n"
        b"X-Parity-Mirror: off\r\nContent-Length: 7\r\n\r\n\x00\xff{bad}"
    )
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(sent)
        assert await c.wait_bytes(b"{}") == OK
    assert up.received == (
        b"POST /v1/chat/completions?a=%20b&c HTTP/1.1\r\nhost: Some.Host:123\r\nX-Dup: 1\r\nx-dup:2\r\nX-DUP:  3 \r\n"
        b"Authorization: Bearer sk\r\nX-Parity-Mirror: off\r\nContent-Length: 7\r\n\r\n\x00\xff{bad}"
    )


@on_uvloop
async def test_upgrade_request_is_served_as_a_plain_one() -> None:
    # Java's HTTP client asks for h2c on every first request; llhttp then stops framing the body.
    sent = chat(b"0123456789", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(sent + GET)
        await c.wait_for(lambda got: got.count(b"{}") == 2)
    assert up.received == chat(b"0123456789") + GET


REPLIES = {
    "status and headers": b"HTTP/1.1 418 I'm a  teapot\r\nX-A: 1\r\nx-a:2\r\nContent-Length: 3\r\n\r\nabc",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    "empty reason": b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx",
    "server error": b'HTTP/1.1 500 Oh\r\nContent-Length: 9\r\nRetry-After: 3\r\n\r\n{"e": 12}',
    "no content": b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
    "accel": b"HTTP/1.1 200 OK\r\nX-Accel-Buffering: no\r\ncontent-length: 1\r\n\r\nx",
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx: y\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "server's own": b"HTTP/1.1 200 OK\r\ndate: x\r\nserver: uvicorn\r\ncontent-length: 1\r\n\r\nx",
}


@pytest.mark.parametrize("name", REPLIES)
@on_uvloop
async def test_reply_reaches_the_client_byte_for_byte(name: str) -> None:
    answer = REPLIES[name]
    async with upstream(replies(answer)) as up, relay(up) as proxy, client(proxy) as c:
        for turn in range(1, 4):
            await c.send(chat())
            await c.wait_for(lambda got, turn=turn: len(got) >= len(answer) * turn)
        assert c.received == answer * 3
        assert len(up.wires) == 1, "the connection to the candidate was not kept"


@on_uvloop
async def test_hop_by_hop_headers_of_the_reply_are_dropped() -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nA: b\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    async with upstream(replies(answer)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(GET)
        got = await c.wait_bytes(b"{}")
    assert got == b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\n{}"


@on_uvloop
async def test_head_request_has_no_body_and_keeps_its_length() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"
    async with upstream(replies(answer)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(b"HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
        await c.wait_for(lambda got: got == answer)
        await c.send(b"HEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
        got = await c.wait_for(lambda got: got.count(b"\r\n\r\n") == 2)
        assert got.endswith(b"\r\n\r\n")
        assert b"404" in got


@on_uvloop
async def test_informational_replies_are_skipped() -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK
    async with upstream(replies(answer, OK)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(chat())
        assert await c.wait_bytes(b"{}") == OK
        await c.send(chat())
        await c.wait_for(lambda got: got == OK * 2)


@on_uvloop
async def test_informational_reply_split_anywhere() -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK

    async def script(wire: Wire) -> None:
        await read_request(wire)
        for at in range(len(answer)):
            await wire.send(answer[at : at + 1])
            await asyncio.sleep(0)

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(chat())
        assert await c.wait_bytes(b"{}") == OK


@on_uvloop
async def test_chunked_upload_keeps_its_bytes() -> None:
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"5\r\nhel", b"lo\r\n6;ext=1\r\n world\r\n0\r\nTrail: er\r\n", b"\r\n"):
            await c.send(piece)
            await asyncio.sleep(0.01)
        await c.wait_bytes(b"{}")
        head, body, _ = await read_request(up.wires[0])
    assert head.lower().count(b"transfer-encoding: chunked") == 1
    assert b"content-length" not in head.lower()
    assert dechunk(body) == (b"hello world", True)


@on_uvloop
async def test_expect_is_answered_before_the_body_and_not_forwarded() -> None:
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n")
        assert await c.wait_bytes(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await c.send(b"abc")
        await c.wait_bytes(OK)
    assert b"xpect" not in up.received
    assert up.received.endswith(b"\r\n\r\nabc")


@on_uvloop
async def test_each_chunk_arrives_before_the_next_is_sent() -> None:
    more = asyncio.Event()

    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(5):
            await wire.send(b"9\r\ndata: %d\n\n\r\n" % number)
            await more.wait()
            more.clear()
        await wire.send(b"0\r\n\r\n")

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(chat())
        for number in range(5):
            await c.wait_bytes(b"9\r\ndata: %d\n\n\r\n" % number)
            more.set()
        got = await c.wait_bytes(b"0\r\n\r\n")
    assert dechunk(got.partition(b"\r\n\r\n")[2]) == (b"".join(b"data: %d\n\n" % n for n in range(5)), True)


@on_uvloop
async def test_reply_until_close_becomes_chunked() -> None:
    answer = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello"
    async with (
        upstream(replies_then_close(answer)) as up,
        relay(up) as proxy,
        client(proxy) as c,
    ):
        await c.send(GET)
        got = await c.wait_bytes(b"0\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert dechunk(got.partition(b"\r\n\r\n")[2]) == (b"hello", True)
        assert not c.ended.is_set()


@on_uvloop
async def test_http10_client_gets_plain_bytes_and_a_close() -> None:
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    async with upstream(replies(answer)) as up, relay(up) as proxy:
        got = await ask(proxy, b"GET /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert got == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello!"
        assert up.received == b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % up.port


@on_uvloop
async def test_http10_keep_alive_is_honoured_and_told() -> None:
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
        for turn in (1, 2):
            await c.send(b"GET /v1/models HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            await c.wait_for(lambda got, turn=turn: got.count(b"{}") == turn)
        assert c.received.count(b"\r\nConnection: keep-alive\r\n") == 2


@on_uvloop
async def test_http10_reply_is_passed_on() -> None:
    async with (
        upstream(replies_then_close(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")) as up,
        relay(up) as proxy,
        client(proxy) as c,
    ):
        await c.send(GET)
        assert await c.wait_bytes(b"{}") == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@on_uvloop
async def test_connection_close_is_obeyed() -> None:
    async with upstream(replies(OK)) as up, relay(up) as proxy:
        got = await ask(proxy, chat(b"{}", b"Connection: close"))
        assert got == OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@on_uvloop
async def test_pipelined_requests_are_served_one_at_a_time_in_order() -> None:
    turn = asyncio.Semaphore(0)

    async def script(wire: Wire) -> None:
        position = 0
        for number in range(3):
            _, body, position = await read_request(wire, position)
            assert len(wire.received) == position, "the next request came before the reply to this one"
            assert body == b"%d" % number
            await turn.acquire()
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n" + body)

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(b"".join(chat(b"%d" % number) for number in range(3)))
        for number in range(3):
            turn.release()
            await c.wait_for(lambda got, number=number: got.endswith(b"\r\n\r\n%d" % number))
        assert proxy.counters.requests["chat_completions"]["2xx"] == 3


@on_uvloop
async def test_pipelined_after_a_chunked_body_in_one_segment() -> None:
    first = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(first + GET + b"\r\n" + GET)
        await c.wait_for(lambda got: got.count(b"{}") == 3)
    assert up.received == first + GET + GET


@on_uvloop
async def test_thousands_of_pipelined_refusals_do_not_recurse() -> None:
    one = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    async with upstream(silence) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(one * 3_000)
        await until(lambda: c.received.count(b"HTTP/1.1 404") == 3_000)
        await c.send(one)
        await until(lambda: c.received.count(b"HTTP/1.1 404") == 3_001)


@on_uvloop
async def test_each_request_keeps_its_own_ids() -> None:
    # As behind an ingress: the heads of one connection differ in ids, traces, keys and lengths alone.
    sent = [
        chat(
            b"x" * number,
            b"X-Request-Id: %032x" % number,
            b"Connection: keep-alive",
            b"traceparent: 00-%032x-%016x-01" % (number * 7, number * 3),
            b"Authorization: Bearer sk-%d" % (number // 4),
            b"Keep-Alive: 5",
            b"X-Forwarded-For: 10.0.0.%d, 10.1.0.1" % number,
        )
        for number in range(40)
    ]
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
        for turn, one in enumerate(sent, 1):
            await c.send(one)
            await c.wait_for(lambda got, turn=turn: got.count(b"{}") == turn)
        await c.send(b"".join(sent))  # and pipelined
        await c.wait_for(lambda got: got.count(b"{}") == 2 * len(sent))
    passed = b"".join(sent * 2)
    for hop in (b"Connection: keep-alive\r\n", b"Keep-Alive: 5\r\n"):
        passed = passed.replace(hop, b"")
    assert up.received == passed


@on_uvloop
async def test_head_in_single_bytes() -> None:
    async with upstream(replies(OK)) as up, relay(up) as proxy, client(proxy) as c:
        for byte in chat(b"abc"):
            await c.send(bytes([byte]))
            await asyncio.sleep(0)
        await c.wait_bytes(OK)
    assert up.received == chat(b"abc")


@on_uvloop
async def test_early_reply_is_passed_on_and_ends_the_connection() -> None:
    async def script(wire: Wire) -> None:
        await wire.wait_bytes(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\n{}")
        await wire.ended.wait()

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
        assert await c.wait_end() == b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\nConnection: close\r\n\r\n{}"
        await up.wires[0].wait_end()


@on_uvloop
async def test_allowed_paths_and_unknown_ones() -> None:
    async with upstream(replies(OK)) as up, relay(up, relay={"allow_paths": ["/health"]}) as proxy, client(proxy) as c:
        await c.send(b"GET /health?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await c.wait_bytes(OK)
        for path in (b"/healthz", b"/", b"/v1", b"/metrics", b"/V1/models"):
            seen = len(c.received)
            await c.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            got = await c.wait_for(lambda got, seen=seen: got[seen:].endswith(b"}}"))
            assert got[seen:].startswith(b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n")
            assert got[seen:].endswith(
                b'{"error":{"message":"This path is not served; /v1/ is, and relay.allow_paths.",'
                b'"type":"invalid_request_error","param":null,"code":"unknown_path"}}'
            )
        assert len(up.wires) == 1
        assert proxy.counters.errors["unknown_path"] == 5
