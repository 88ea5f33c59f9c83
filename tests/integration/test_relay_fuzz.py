"""Mutated requests and replies: whatever comes, nothing hangs, leaks or raises, and honest clients are served."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.integration.relay_rig import (
    GET,
    OK,
    Wire,
    chat,
    client,
    connect,
    on_uvloop,
    read_request,
    relay,
    replies,
    until,
    upstream,
)

ROUNDS = 400
REQUESTS = (
    chat(b'{"model":"m"}', b"Connection: keep-alive", b"Expect: 100-continue"),
    b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"5;x=y\r\nhello\r\n0\r\nT: r\r\n\r\n",
    GET + chat(b"{}") + GET,
)
REPLIES = (
    OK,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a\r\n world\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: keep-alive, x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
)
SPICE = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"\t",
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\xff",
    b"ffffffffffffffff",
    b"HTTP/1.1",
    b"\r\n\r\n",
)


def mutate(dice: random.Random, data: bytes) -> bytes:
    for _ in range(dice.randint(1, 4)):
        at, to = sorted((dice.randint(0, len(data)), dice.randint(0, len(data))))
        to = min(to, at + 8)
        kind = dice.randrange(4)
        if kind == 0:
            data = data[:at] + dice.choice(SPICE) + data[at:]
        elif kind == 1:
            data = data[:at] + data[to:]
        elif kind == 2:
            data = data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]
        else:
            data = data[:to] + data[at:]
    return data


async def send_in_pieces(dice: random.Random, wire: Wire, data: bytes) -> None:
    at = 0
    while at < len(data):
        step = dice.randint(1, len(data))
        try:
            await wire.send(data[at : at + step])
        except ConnectionError:
            return
        at += step
        await asyncio.sleep(0)


LIMITS = {"head_timeout_s": 0.3, "body_idle_timeout_s": 0.3, "keepalive_timeout_s": 0.3, "first_byte_timeout_s": 0.5}
SAMPLING = {"rate": 0.5, "large_body_rate": 0.5, "large_body_bytes": 8}


@pytest.mark.parametrize("seed", range(2))
@on_uvloop
async def test_mutated_requests(seed: int) -> None:
    dice = random.Random(seed)
    gate = asyncio.Semaphore(40)
    async with upstream(replies(OK)) as up, relay(up, relay=LIMITS, sampling=SAMPLING) as proxy:

        async def one(data: bytes, kill: bool) -> None:
            async with gate, client(proxy) as wire:
                await send_in_pieces(dice, wire, data)
                if not kill:
                    await wire.wait_end()

        jobs = [one(mutate(dice, dice.choice(REQUESTS)), dice.random() < 0.3) for _ in range(ROUNDS)]
        await asyncio.gather(*jobs)
        await until(lambda: proxy.counters.in_flight == 0 and proxy.counters.connections == 0)
        async with client(proxy) as wire:
            await wire.send(chat())
            assert await wire.wait_bytes(b"{}") == OK
        _balances(proxy.feed)
        assert proxy.counters.tee_failures == 0
        assert proxy.counters.errors["refused_head"] > 50


@pytest.mark.parametrize("seed", range(2))
@on_uvloop
async def test_mutated_replies(seed: int) -> None:
    dice = random.Random(seed)

    async def script(wire: Wire) -> None:
        position = 0
        while True:
            _, _, position = await read_request(wire, position)
            await send_in_pieces(dice, wire, mutate(dice, dice.choice(REPLIES)))
            if dice.random() < 0.3:
                wire.writer.close()
                return

    async with upstream(script) as up, relay(up, relay=LIMITS, sampling=SAMPLING) as proxy:
        wires = [await connect(proxy) for _ in range(20)]
        for _ in range(ROUNDS // 20):
            before = sum(proxy.counters.first_byte_counts) + sum(proxy.counters.errors.values())
            for number, wire in enumerate(wires):
                if wire.ended.is_set():
                    await wire.aclose()
                    wire = wires[number] = await connect(proxy)
                try:
                    await wire.send(chat())
                except ConnectionError:
                    pass  # the reply before was cut: it is connected anew in the next round
            await until(
                lambda before=before: (
                    sum(proxy.counters.first_byte_counts) + sum(proxy.counters.errors.values()) > before
                )
            )
        for wire in wires:
            await wire.aclose()
        await until(lambda: proxy.counters.in_flight == 0 and proxy.counters.connections == 0)
        _balances(proxy.feed)
        assert proxy.counters.tee_failures == 0
        assert sum(proxy.counters.errors.values()) > 20


def _balances(feed: object) -> None:
    """Every mark has one end, and nothing ends without a mark."""
    marks = [event.sequence for event in feed.sampled]  # type: ignore[attr-defined]
    ends = sorted(event.sequence for event in [*feed.exchanges, *feed.lost])  # type: ignore[attr-defined]
    assert marks == ends == list(range(len(marks)))
    assert len(marks) > 5  # the coins are not seeded: of some 45 a half, give or take
