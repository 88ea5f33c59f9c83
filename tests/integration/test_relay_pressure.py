"""Clients that send without reading, read without haste, or come in numbers: what the relay holds stays bounded."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from contextlib import suppress

import pytest

from proxy.relay import client as client_room
from proxy.relay.refusal import Refusal
from tests.integration.relay_rig import (
    GET,
    OK,
    Wire,
    ask,
    chat,
    client,
    connect,
    on_uvloop,
    read_request,
    relay,
    replies,
    silence,
    until,
    upstream,
)

UNKNOWN = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
TOO_LARGE = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"


def _read_little(wire: Wire) -> None:
    wire.stop_reading()
    wire.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)


async def _stands_still(wire: Wire, seconds: float) -> None:
    """The client leaves what comes unread for that long: the passing of time is the condition here."""
    wire.stop_reading()
    await asyncio.sleep(seconds)
    wire.go_on_reading()


async def _takes(wire: Wire, total: int) -> None:
    """Reads exactly that many bytes, keeping none: a growing buffer of ours would take the time of the test."""
    taken = 0

    def count(got: bytes) -> bool:
        nonlocal taken
        taken += len(got)
        wire.received = b""
        return taken >= total

    await wire.wait_for(count, within_s=60)
    assert taken == total


# refusals


@on_uvloop
async def test_pipelined_refusals_are_bounded_both_ways_and_leave_others_their_turn() -> None:
    count = 60_000
    async with (
        upstream(replies(OK)) as up,
        relay(up, relay={"max_head_bytes": 4096}) as proxy,
        client(proxy) as c,
        client(proxy) as other,
    ):
        _read_little(c)
        c.writer.write(UNKNOWN * count)
        await until(lambda: proxy.counters.bytes_in > 0)
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < 0.5:
            if proxy.counters.bytes_in + proxy.counters.bytes_out != seen:
                seen, since = proxy.counters.bytes_in + proxy.counters.bytes_out, time.monotonic()
            began = time.monotonic()
            other.received = b""
            await other.send(GET)
            await other.wait_bytes(OK, within_s=1.0)
            assert proxy.counters.bytes_in < 1_300_000, "it reads what it cannot answer yet"
            assert proxy.counters.bytes_out < 12 << 20, "it answers who does not read"
            seen += len(GET) + len(OK)
            await asyncio.sleep(0.02)
        assert time.monotonic() - began < 1.0
        c.go_on_reading()
        await _takes(c, count * len(Refusal.UNKNOWN_PATH.reply(retry_after_s=1, close=False, head_only=False)))
        assert proxy.counters.requests["other"]["4xx"] == count


@on_uvloop
async def test_pipelined_requests_wait_for_a_slow_reader_longer_than_the_keep_alive() -> None:
    count = 20_000
    limits = {"keepalive_timeout_s": 0.2, "head_timeout_s": 0.2}
    async with upstream(silence) as up, relay(up, relay=limits) as proxy, client(proxy) as c:
        _read_little(c)
        c.writer.write(UNKNOWN * count)
        await until(lambda: proxy.counters.bytes_out > 1 << 20)
        await _stands_still(c, 1.0)
        await _takes(c, count * len(Refusal.UNKNOWN_PATH.reply(retry_after_s=1, close=False, head_only=False)))
        await c.wait_end()


# the end of a connection


@pytest.mark.parametrize("more", [b"", b"\r\n"])
@on_uvloop
async def test_last_reply_reaches_a_client_that_reads_later_than_the_linger(more: bytes) -> None:
    size = 12 << 20
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with (
        upstream(replies(answer)) as up,
        relay(up, relay={"write_buffer_bytes": 16 << 20}) as proxy,
        client(proxy) as c,
    ):
        _read_little(c)
        await c.send(chat(b"{}", b"Connection: close") + more)
        await until(lambda: proxy.counters.requests["chat_completions"]["2xx"] == 1)
        await _stands_still(c, client_room.LINGER_S + 1.0)
        got = await c.wait_end(within_s=30)
        assert len(got.partition(b"\r\n\r\n")[2]) == size


@on_uvloop
async def test_last_reply_that_is_never_read_is_given_up() -> None:
    size = 12 << 20
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    limits = {"write_buffer_bytes": 16 << 20, "body_idle_timeout_s": 0.3}
    async with upstream(replies(answer)) as up, relay(up, relay=limits) as proxy, client(proxy) as c:
        _read_little(c)
        await c.send(chat(b"{}", b"Connection: close") + b"\r\n")
        await until(lambda: proxy.counters.requests["chat_completions"]["2xx"] == 1)
        await until(lambda: proxy.counters.connections == 0, within_s=6.0)
        assert proxy.counters.errors["client_timeout"] == 1


@on_uvloop
async def test_413_reaches_a_client_that_goes_on_sending_past_the_linger() -> None:
    async with upstream(silence) as up, relay(up) as proxy, client(proxy) as c:
        c.stop_reading()
        await c.send(TOO_LARGE)
        until_s = time.monotonic() + client_room.LINGER_S + 1.0
        while time.monotonic() < until_s:
            await c.send(bytes(1 << 16))
            await asyncio.sleep(0.05)
        c.go_on_reading()
        assert (await c.wait_bytes(b"}}")).startswith(b"HTTP/1.1 413 ")
        assert not c.reset


@on_uvloop
async def test_linger_is_bounded_whatever_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_room, "MAX_LINGER_S", 1.0, raising=False)
    monkeypatch.setattr(client_room, "LINGER_S", 0.5)
    async with upstream(silence) as up, relay(up) as proxy, client(proxy) as c:
        await c.send(TOO_LARGE)
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began < 5.0:
                await c.send(b"x")
                await asyncio.sleep(0.02)
        assert 0.9 < time.monotonic() - began < 3.0


# how many connect


@on_uvloop
async def test_connections_beyond_the_bound_are_told_503_and_the_others_served() -> None:
    async with upstream(replies(OK)) as up, relay(up, relay={"max_connections": 3}) as proxy:
        wires = [await connect(proxy) for _ in range(3)]
        await until(lambda: proxy.counters.connections == 3)
        for _ in range(20):
            assert (await ask(proxy, b"")).startswith(b"HTTP/1.1 503 ")
        assert proxy.counters.errors["overload"] == 20
        assert proxy.counters.connections == 3
        for wire in wires:
            await wire.send(chat())
            await wire.wait_bytes(OK)
        wires[0].kill()
        await until(lambda: proxy.counters.connections == 2)
        assert await ask(proxy, chat(b"{}", b"Connection: close")) != b""
        assert proxy.counters.errors["overload"] == 20
        for wire in wires:
            await wire.aclose()


@on_uvloop
async def test_open_files_are_raised_to_what_the_bounds_need(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        async with upstream(silence) as up, relay(up, relay={"max_connections": 500, "max_in_flight": 100}):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 664
            assert not caplog.messages
        async with upstream(silence) as up, relay(up, relay={"max_connections": hard + 1}):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
        assert len(caplog.messages) == 1
        assert "relay.max_connections" in caplog.messages[0]
        assert "ulimit -n" in caplog.messages[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# time limits that must not strike a healthy exchange


@on_uvloop
async def test_first_byte_time_limit_ends_with_the_first_byte_though_the_upload_goes_on() -> None:
    async def script(wire: Wire) -> None:
        await wire.wait_bytes(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await wire.wait_bytes(b"xx")
        await asyncio.sleep(0.8)
        await wire.send(b"0\r\n\r\n")

    async with upstream(script) as up, relay(up, relay={"first_byte_timeout_s": 0.3}) as proxy, client(proxy) as c:
        await c.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
        await c.wait_bytes(b"abc")
        await c.send(b"xx")
        assert (await c.wait_bytes(b"\r\n0\r\n\r\n")).count(b"abc") == 1
        assert proxy.counters.errors["first_byte_timeout"] == 0


@on_uvloop
async def test_time_that_the_head_took_is_not_the_candidates() -> None:
    async def script(wire: Wire) -> None:
        position = 0
        while True:
            _, _, position = await read_request(wire, position)
            await asyncio.sleep(0.1)
            await wire.send(OK)

    async with upstream(script) as up, relay(up, relay={"first_byte_timeout_s": 0.5}) as proxy, client(proxy) as c:
        await c.send(chat())
        await c.wait_bytes(OK)
        slow = chat()
        await c.send(slow[:20])
        await asyncio.sleep(0.9)
        await c.send(slow[20:])
        await c.wait_bytes(OK * 2)
        assert len(up.wires) == 1


@on_uvloop
async def test_time_that_the_head_took_is_not_the_bodys() -> None:
    limits = {"body_idle_timeout_s": 0.5, "pool_idle_timeout_s": 30.0}
    async with upstream(replies(OK)) as up, relay(up, relay=limits) as proxy, client(proxy) as c:
        slow = chat(b"{}")
        await c.send(slow[:20])
        await asyncio.sleep(0.9)
        await c.send(slow[20:-2])
        await asyncio.sleep(0.2)
        await c.send(slow[-2:])
        assert (await c.wait_bytes(b"{}")) == OK
