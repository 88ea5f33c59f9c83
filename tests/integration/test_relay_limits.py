"""Bounds, time-outs, disconnects, back-pressure and drain, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from tests.integration.relay_rig import (
    GET,
    OK,
    Wire,
    ask,
    chat,
    client,
    connect,
    dechunk,
    on_uvloop,
    read_request,
    relay,
    replies,
    silence,
    until,
    upstream,
)

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
UPLOAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# failures 1 and 5 of contracts.md: disconnects, dead backends


@pytest.mark.parametrize("how", ["abort", "close", "half-close"])
@pytest.mark.parametrize("when", ["before the reply", "mid-stream", "mid-upload"])
@on_uvloop
async def test_client_disconnect_reaches_the_candidate_within_a_second(how: str, when: str) -> None:
    async def script(wire: Wire) -> None:
        if when == "mid-stream":
            await read_request(wire)
            await wire.send(STREAM_HEAD + b"2\r\nhi\r\n")
        await wire.ended.wait()

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(UPLOAD + b"3\r\nabc\r\n" if when == "mid-upload" else chat())
        if when == "mid-stream":
            await c.wait_bytes(b"hi")
        candidate = await up.wire()
        await candidate.wait_bytes(b"abc" if when == "mid-upload" else b'{"a":1}')
        began = time.monotonic()
        if how == "abort":
            c.kill()
        elif how == "close":
            c.writer.close()
        else:
            c.writer.write_eof()
        await candidate.wait_end(within_s=1.0)
        assert time.monotonic() - began < 1.0
        await until(lambda: proxy.counters.in_flight == 0)
        assert proxy.counters.client_disconnects == 1
        assert sum(by_class["aborted"] for by_class in proxy.counters.requests.values()) == 1


@on_uvloop
async def test_disconnect_is_seen_behind_a_paused_upload() -> None:
    hold = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.stop_reading()
        await hold.wait()
        wire.go_on_reading()
        await wire.ended.wait()

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        c.writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 20_000_000
        )
        await (await up.wire()).wait_for(lambda got: True)
        seen = -1
        while seen != proxy.counters.bytes_in:  # until the relay has stopped reading the upload
            seen = proxy.counters.bytes_in
            await asyncio.sleep(0.1)
        c.crash()
        await until(lambda: proxy.counters.client_disconnects == 1, within_s=1.0)
        hold.set()
        await up.wires[0].wait_end(within_s=1.0)


@on_uvloop
async def test_crash_of_a_client_under_a_flood_raises_nothing() -> None:
    """uvloop raises on writes between the failed one and connection_lost: the rig fails on what that would leave."""

    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(STREAM_HEAD)
        while not wire.ended.is_set():
            wire.writer.write(b"5\r\nhello\r\n")
            await asyncio.sleep(0)

    async with upstream(script) as up, relay(up) as proxy:
        for turn in range(60):
            async with client(proxy) as c:
                await c.send(chat())
                await c.wait_bytes(b"hello")
                c.crash()
            await until(lambda turn=turn: proxy.counters.client_disconnects == turn + 1)
        await until(lambda: all(wire.ended.is_set() for wire in up.wires))


@on_uvloop
async def test_dead_candidate_is_502_after_all_attempts() -> None:
    async with relay(f"http://127.0.0.1:{free_port()}") as proxy, client(proxy) as c:
        await c.send(chat())
        got = await c.wait_bytes(b"}}")
        assert got.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b'"type":"server_error"' in got
        assert proxy.counters.errors["connect"] == 1
        await c.send(chat())  # the connection is still good
        await c.wait_for(lambda got: got.count(b"502 Bad") == 2)


@on_uvloop
async def test_connect_time_out_is_504() -> None:
    with socket.socket() as full:  # a listener whose backlog is full does not answer further connections
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with relay(url, relay={"connect_timeout_s": 0.2, "connect_attempts": 2}) as proxy, client(proxy) as c:
            began = time.monotonic()
            await c.send(chat())
            assert (await c.wait_bytes(b"}}")).startswith(b"HTTP/1.1 504 ")
            assert time.monotonic() - began > 0.39  # two time-outs of 0.2 s, whose timers count whole milliseconds
        for filler in fillers:
            filler.close()


@on_uvloop
async def test_candidate_that_comes_back_is_used_at_once() -> None:
    port = free_port()
    async with relay(f"http://127.0.0.1:{port}") as proxy, client(proxy) as c:
        await c.send(chat())
        assert (await c.wait_bytes(b"}}")).startswith(b"HTTP/1.1 502 ")
        async with upstream(replies(OK), port=port):
            await c.send(chat())
            await c.wait_bytes(OK)


@on_uvloop
async def test_first_byte_time_out_is_504_and_closes_the_candidate() -> None:
    async with upstream(silence) as up, relay(up, relay={"first_byte_timeout_s": 0.2}) as proxy, client(proxy) as c:
        await c.send(chat())
        assert (await c.wait_bytes(b"}}")).startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        await up.wires[0].wait_end(within_s=1.0)
        assert proxy.counters.errors["first_byte_timeout"] == 1
        assert proxy.counters.in_flight == 0


@on_uvloop
async def test_no_time_out_on_the_stream_as_a_whole() -> None:
    limits = dict.fromkeys(
        ("first_byte_timeout_s", "head_timeout_s", "body_idle_timeout_s", "keepalive_timeout_s"), 0.3
    )

    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(STREAM_HEAD + b"1\r\na\r\n")
        await asyncio.sleep(1.0)
        await wire.send(b"1\r\nb\r\n0\r\n\r\n")

    async with upstream(script) as up, relay(up, relay=limits) as proxy, client(proxy) as c:
        await c.send(chat())
        assert await c.wait_bytes(b"0\r\n\r\n") == STREAM_HEAD + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"


# failure 2: no hidden retry


@pytest.mark.parametrize("reused", [False, True])
@on_uvloop
async def test_no_retry_after_the_request_went_out(reused: bool) -> None:
    count = 0

    async def script(wire: Wire) -> None:
        nonlocal count
        position = 0
        while True:
            _, _, position = await read_request(wire, position)
            count += 1
            if count == (2 if reused else 1):
                wire.kill()
                return
            await wire.send(OK)

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        if reused:
            await c.send(chat())
            await c.wait_bytes(OK)
        await c.send(chat())
        await c.wait_bytes(b"HTTP/1.1 502 Bad Gateway")
        await asyncio.sleep(0.05)
        assert count == (2 if reused else 1)
        assert proxy.counters.errors["cut"] == 1


# failure 3: keep-alive races


@on_uvloop
async def test_idle_connections_to_the_candidate_are_dropped_in_time() -> None:
    async with upstream(replies(OK)) as up, relay(up, relay={"pool_idle_timeout_s": 0.2}) as proxy, client(proxy) as c:
        for turn in (1, 2):
            await c.send(chat())
            await c.wait_for(lambda got, turn=turn: got.count(b"{}") == turn)
            await up.wires[turn - 1].wait_end(within_s=1.0)
        assert len(up.wires) == 2


@on_uvloop
async def test_connection_that_the_candidate_closed_is_not_used_again() -> None:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(OK)
        wire.writer.close()

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        for turn in range(1, 21):
            await c.send(chat())
            await c.wait_for(lambda got, turn=turn: got.count(b"{}") == turn)
            await up.wires[turn - 1].wait_end()
        assert proxy.counters.errors["cut"] == 0


@on_uvloop
async def test_connection_that_speaks_out_of_turn_is_not_used_again() -> None:
    async with (
        upstream(replies(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL")) as up,
        relay(up) as proxy,
        client(proxy) as c,
    ):
        for turn in (1, 2, 3):
            await c.send(chat())
            await c.wait_for(lambda got, turn=turn: got.count(b"{}") == turn)
        assert b"EVIL" not in c.received
        assert len(up.wires) == 3


@on_uvloop
async def test_idle_connection_that_speaks_is_not_used_again() -> None:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(OK)
        await idle.wait()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL")

    idle = asyncio.Event()
    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(chat())
        await c.wait_bytes(OK)
        idle.set()
        await up.wires[0].wait_end(within_s=1.0)
        await c.send(chat())
        assert await c.wait_for(lambda got: got.count(b"\r\n\r\n") == 2) == OK * 2


@pytest.mark.parametrize(
    "extra", [b"\r\n", b"GARBAGE", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n"]
)
@on_uvloop
async def test_bytes_after_a_chunked_reply_never_reach_a_client(extra: bytes) -> None:
    answer = STREAM_HEAD + b"2\r\nhi\r\n0\r\n\r\n"
    async with upstream(replies(answer + extra)) as up, relay(up) as proxy, client(proxy) as c:
        for turn in (1, 2):
            await c.send(chat())
            await c.wait_for(lambda got, turn=turn: len(got) >= turn * len(answer))
        assert c.received == answer * 2


@on_uvloop
async def test_clients_idle_connection_is_closed_and_a_slow_head_answered_408() -> None:
    limits = {"keepalive_timeout_s": 0.2, "head_timeout_s": 0.2}
    async with upstream(replies(OK)) as up, relay(up, relay=limits) as proxy:
        assert await ask(proxy, b"") == b""
        assert await ask(proxy, chat()) == OK
        assert (await ask(proxy, b"POST /v1/chat")).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert proxy.counters.errors["client_timeout"] == 1


@on_uvloop
async def test_stalled_upload_is_408_and_frees_its_place() -> None:
    async with upstream(silence) as up, relay(up, relay={"body_idle_timeout_s": 0.2}) as proxy:
        got = await ask(proxy, b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert got.startswith(b"HTTP/1.1 408 ")
        await up.wires[0].wait_end(within_s=1.0)
        assert proxy.counters.in_flight == 0


# failure 4: bounded in-flight


@on_uvloop
async def test_overload_is_503_with_retry_after_and_passes() -> None:
    release = asyncio.Event()

    async def script(wire: Wire) -> None:
        position = 0
        while True:
            _, _, position = await read_request(wire, position)
            await release.wait()
            await wire.send(OK)

    limits = {"max_in_flight": 2, "retry_after_s": 7}
    async with (
        upstream(script) as up,
        relay(up, relay=limits) as proxy,
        client(proxy) as one,
        client(proxy) as two,
        client(proxy) as three,
    ):
        await one.send(chat())
        await two.send(chat())
        await until(lambda: proxy.counters.in_flight == 2)
        await three.send(chat(b""))
        got = await three.wait_bytes(b"}}")
        assert got.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 7\r\n" in got
        release.set()
        await one.wait_bytes(OK)
        await two.wait_bytes(OK)
        await three.send(chat())
        await three.wait_bytes(OK)


@on_uvloop
async def test_a_hundred_and_fifty_streams_at_once() -> None:
    """More than httpx's hundred: nothing waits for a pool."""
    go = asyncio.Event()

    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(STREAM_HEAD + b"2\r\nhi\r\n")
        await go.wait()
        await wire.send(b"0\r\n\r\n")

    async with upstream(script) as up, relay(up) as proxy:
        wires = [await connect(proxy) for _ in range(150)]
        for wire in wires:
            await wire.send(chat())
        for wire in wires:
            await wire.wait_bytes(b"hi")
        assert proxy.counters.in_flight == 150
        go.set()
        for wire in wires:
            await wire.wait_bytes(b"0\r\n\r\n")
            await wire.aclose()


# bodies and heads


@on_uvloop
async def test_declared_length_over_the_limit_is_413_before_the_body() -> None:
    async with upstream(silence) as up, relay(up, relay={"max_body_bytes": 1000}) as proxy:
        got = await ask(proxy, b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 413 Payload Too Large\r\n")
        assert b'"code":"body_too_large"' in got
        assert not up.wires


@on_uvloop
async def test_answer_survives_a_client_that_sends_33_mib_anyway() -> None:
    async with upstream(silence) as up, relay(up) as proxy, client(proxy) as c:
        c.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (33 << 20))
        c.writer.write(bytes(33 << 20))
        assert (await c.wait_end()).startswith(b"HTTP/1.1 413 ")


@on_uvloop
async def test_answer_reaches_a_client_that_reads_only_when_all_is_sent() -> None:
    """Closing upon unread bytes would send a reset, and the reset would eat the answer."""
    size = 5 << 20
    async with upstream(silence) as up, relay(up, relay={"max_body_bytes": 1000}) as proxy, client(proxy) as c:
        c.stop_reading()
        await c.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        await until(lambda: proxy.counters.errors["refused_body"] == 1)
        for _ in range(size >> 16):
            await c.send(bytes(1 << 16))
        c.go_on_reading()
        assert (await c.wait_end()).startswith(b"HTTP/1.1 413 ")
        assert not c.reset


@on_uvloop
async def test_answer_reaches_a_client_whose_upload_was_held_back() -> None:
    size = 20 << 20
    async with (
        upstream(_never_reads) as up,
        relay(up, relay={"first_byte_timeout_s": 1.0}) as proxy,
        client(proxy) as c,
    ):
        c.stop_reading()
        c.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size >> 16):
            await c.send(bytes(1 << 16))
        c.go_on_reading()
        assert (await c.wait_end()).startswith(b"HTTP/1.1 504 ")
        assert not c.reset
        assert proxy.counters.errors["first_byte_timeout"] == 1


async def _never_reads(wire: Wire) -> None:
    wire.stop_reading()
    await asyncio.Event().wait()


@on_uvloop
async def test_chunked_body_over_the_limit_is_413_when_passed() -> None:
    async with upstream(silence) as up, relay(up, relay={"max_body_bytes": 1000}) as proxy:
        got = await ask(proxy, UPLOAD + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n")
        assert got.startswith(b"HTTP/1.1 413 ")
        await until(lambda: all(wire.ended.is_set() for wire in up.wires), within_s=1.0)
        assert proxy.counters.errors["refused_body"] == 1


@on_uvloop
async def test_body_that_never_ends_is_413_and_bounded() -> None:
    async with upstream(silence) as up, relay(up, relay={"max_body_bytes": 1 << 20}) as proxy, client(proxy) as c:
        await c.send(UPLOAD)

        async def flood() -> None:
            while not c.ended.is_set():
                await c.send(b"10000\r\n" + bytes(65536) + b"\r\n")

        task = asyncio.create_task(flood())
        assert (await c.wait_for(lambda got: b"}}" in got)).startswith(b"HTTP/1.1 413 ")
        await c.wait_end()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("ending", [b"", b"\r\n\r\n"])
@on_uvloop
async def test_head_over_the_limit_is_431(ending: bytes) -> None:
    async with upstream(silence) as up, relay(up, relay={"max_head_bytes": 2000}) as proxy:
        got = await ask(proxy, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 2000 + ending)
        assert got.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert not up.wires


@on_uvloop
async def test_too_many_headers_are_431() -> None:
    async with upstream(silence) as up, relay(up, relay={"max_headers": 10}) as proxy:
        got = await ask(proxy, b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10 + b"\r\n")
        assert got.startswith(b"HTTP/1.1 431 ")


# what the candidate does wrong


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n\r\n",
        b"\x00\x01\x02",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        b"<html>hello</html>",
    ],
)
@on_uvloop
async def test_garbage_before_the_reply_is_502(garbage: bytes) -> None:
    async with upstream(replies(garbage)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(chat())
        assert (await c.wait_bytes(b"}}")).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert proxy.counters.errors["bad_reply"] == 1
        await up.wires[0].wait_end(within_s=1.0)


@pytest.mark.parametrize("http", [b"1.0", b"1.1"])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "begun",
    [
        STREAM_HEAD + b"5\r\nhello\r\n",
        STREAM_HEAD + b"9\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    ],
)
@on_uvloop
async def test_a_cut_reply_is_visibly_cut(http: bytes, reset: bool, begun: bytes) -> None:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(begun)
        await go.wait()
        if reset:
            wire.kill()
        else:
            wire.writer.close()

    go = asyncio.Event()
    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(b"POST /v1/completions HTTP/%b\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % http)
        await c.wait_bytes(b"hello")
        go.set()
        got = await c.wait_end()
        assert proxy.counters.errors["cut"] == 1
        assert proxy.counters.requests["completions"]["aborted"] == 1
    if b"Transfer-Encoding" in got or b"transfer-encoding" in got:
        assert not dechunk(got.partition(b"\r\n\r\n")[2])[1]
    elif b"Content-Length: 9" not in got:
        assert c.reset, "an HTTP/1.0 client without a length could not tell that the reply was cut"


@on_uvloop
async def test_bad_chunk_in_the_reply_cuts_it() -> None:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(STREAM_HEAD + b"2\r\nhi\r\n")
        await go.wait()
        await wire.send(b"zz\r\n")
        await wire.ended.wait()

    go = asyncio.Event()
    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(chat())
        await c.wait_bytes(b"hi")
        go.set()
        got = await c.wait_end()
        assert got == STREAM_HEAD + b"2\r\nhi\r\n"
        assert proxy.counters.errors["bad_reply"] == 1


@pytest.mark.parametrize("bad", [b"zz\r\n", b"5\r\nhelloXX\r\n"])
@on_uvloop
async def test_bad_chunk_that_came_with_the_head_is_502(bad: bytes) -> None:
    async with upstream(replies(STREAM_HEAD + bad)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(chat())
        assert (await c.wait_bytes(b"}}")).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        await c.send(chat())  # the connection is still good
        assert (await c.wait_for(lambda got: got.count(b"}}") == 2)).count(b"HTTP/1.1") == 2
        assert proxy.counters.errors["bad_reply"] == 2
        assert proxy.counters.requests["chat_completions"]["5xx"] == 2


@pytest.mark.parametrize(("interim", "status"), [(16, b"200"), (17, b"502")])
@on_uvloop
async def test_interim_replies_are_bounded(interim: int, status: bytes) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\n\r\n" * interim + OK
    async with upstream(replies(answer)) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(chat())
        assert (await c.wait_bytes(b"}")).startswith(b"HTTP/1.1 " + status)


# back-pressure


async def _settled(read: Any) -> int:
    """A count, once it has stood still for a while."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 0.3:
        if read() != last:
            last, since = read(), time.monotonic()
        await asyncio.sleep(0.01)
    return last


@pytest.mark.parametrize("chunked", [True, False])
@on_uvloop
async def test_client_that_does_not_read_never_makes_the_relay_buffer_the_stream(chunked: bool) -> None:
    size = 64 << 20
    piece = bytes(1 << 16)
    frame = b"10000\r\n" + piece + b"\r\n" if chunked else piece

    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(STREAM_HEAD if chunked else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            await wire.send(frame)
        if chunked:
            await wire.send(b"0\r\n\r\n")

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        c.stop_reading()
        c.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await c.send(chat())
        taken = await _settled(lambda: proxy.counters.bytes_out)
        assert 0 < taken < 12 << 20, "the relay took more than the sockets and its bounded buffer hold"
        c.go_on_reading()
        total = 0

        def count(got: bytes) -> bool:
            nonlocal total
            total += len(got)
            c.received = b""
            return total >= size

        await c.wait_for(count, within_s=60)
        await until(lambda: proxy.counters.in_flight == 0)
        assert proxy.counters.requests["chat_completions"]["2xx"] == 1


@on_uvloop
async def test_candidate_that_does_not_read_never_makes_the_relay_buffer_the_upload() -> None:
    size = 30 << 20
    go = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.stop_reading()
        await go.wait()
        wire.go_on_reading()
        await wire.wait_for(lambda got: len(got) > size, within_s=60)
        await wire.send(OK)

    async with upstream(script) as up, relay(up) as proxy, client(proxy) as c:
        c.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        c.writer.write(bytes(size))
        taken = await _settled(lambda: proxy.counters.bytes_in)
        assert 0 < taken < 12 << 20
        go.set()
        await c.wait_bytes(OK, within_s=60)
        assert proxy.counters.bytes_in >= size


@on_uvloop
async def test_unreachable_candidate_never_makes_the_relay_buffer_the_upload() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with relay(url, relay={"connect_timeout_s": 1.0, "connect_attempts": 1}) as proxy, client(proxy) as c:
            c.writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000)
            )
            taken = await _settled(lambda: proxy.counters.bytes_in)
            assert 0 < taken < 1 << 20
            assert (await c.wait_end()).startswith(b"HTTP/1.1 504 ")
        for filler in fillers:
            filler.close()


@on_uvloop
async def test_reader_slower_than_its_requests_still_gets_every_reply() -> None:
    """The reply before is still in the buffer when the next exchange begins: it must start paused, and go on."""
    count = 300
    body = bytes(100_000)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with upstream(replies(answer)) as up, relay(up) as proxy, client(proxy) as c:
        c.stop_reading()
        c.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await c.send(GET * count)
        taken = await _settled(lambda: proxy.counters.bytes_out)
        assert taken < 12 << 20
        c.go_on_reading()
        got = await c.wait_for(lambda got: len(got) >= count * len(answer), within_s=60)
        assert got == answer * count


@on_uvloop
async def test_client_that_stops_reading_for_good_is_cut_off() -> None:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await wire.send(bytes(1 << 16))

    async with upstream(script) as up, relay(up, relay={"body_idle_timeout_s": 0.3}) as proxy, client(proxy) as c:
        c.stop_reading()
        await c.send(GET)
        await until(lambda: proxy.counters.errors["client_timeout"] == 1)
        await until(lambda: proxy.counters.in_flight == 0)


@on_uvloop
async def test_pipelined_flood_is_bounded() -> None:
    async with upstream(silence) as up, relay(up, relay={"max_head_bytes": 4096}) as proxy, client(proxy) as c:
        c.writer.write(GET * 200_000)
        taken = await _settled(lambda: proxy.counters.bytes_in)
        assert taken < 1 << 20
        c.crash()
        await until(lambda: proxy.counters.in_flight == 0, within_s=1.0)


# drain


@on_uvloop
async def test_drain_ends_what_is_in_flight_and_nothing_else() -> None:
    go = asyncio.Event()

    async def script(wire: Wire) -> None:
        position = 0
        for _ in range(2):
            _, _, position = await read_request(wire, position)
            await wire.send(STREAM_HEAD + b"2\r\nhi\r\n")
            await go.wait()
            await wire.send(b"0\r\n\r\n")

    async with (
        upstream(script) as up,
        relay(up) as proxy,
        client(proxy) as idle,
        client(proxy) as streaming,
        client(proxy) as sending,
    ):
        await idle.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        await idle.wait_bytes(b"404")
        await streaming.send(chat())
        await streaming.wait_bytes(b"hi")
        await sending.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
        await until(lambda: proxy.counters.in_flight == 2)
        proxy.shutdown.set()
        await idle.wait_end(within_s=1.0)
        with pytest.raises(ConnectionError):
            await connect(proxy)
        assert not proxy.task.done()
        await sending.send(b"{}")
        await sending.wait_bytes(b"hi")
        assert b"\r\nConnection: close\r\n" in sending.received
        go.set()
        assert (await streaming.wait_end()).endswith(b"0\r\n\r\n")
        assert (await sending.wait_end()).endswith(b"0\r\n\r\n")
        await asyncio.wait_for(proxy.task, 1.0)


@on_uvloop
async def test_drain_is_bounded() -> None:
    async with upstream(silence) as up, relay(up, relay={"drain_timeout_s": 0.2}) as proxy, client(proxy) as c:
        await c.send(chat())
        await until(lambda: proxy.counters.in_flight == 1)
        proxy.shutdown.set()
        await asyncio.wait_for(proxy.task, 2.0)
        await c.wait_end()
        await up.wires[0].wait_end(within_s=1.0)


@on_uvloop
async def test_two_workers_share_a_port() -> None:
    async with upstream(replies(OK)) as up, relay(up) as one, relay(up, relay={"port": one.port}) as two:
        for _ in range(40):
            assert await ask(one, chat(b"{}", b"Connection: close")) != b""
        both = (one.counters, two.counters)
        assert sum(counters.requests["chat_completions"]["2xx"] for counters in both) == 40
        assert all(counters.requests["chat_completions"]["2xx"] for counters in both)
