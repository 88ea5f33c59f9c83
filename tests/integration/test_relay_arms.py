"""Two engines behind one relay, on real sockets: who gets which request, and what a fail-over sends again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.exchange import Order, Outcome, Phase, ServedBy
from tests.integration.relay_rig import (
    GET,
    OK,
    Feed,
    Relay,
    Script,
    Upstream,
    Wire,
    ask,
    chat,
    client,
    dechunk,
    on_uvloop,
    read_request,
    relay,
    replies,
    silence,
    until,
    upstream,
)

EVERYTHING = {"rate": 1.0, "large_body_rate": 1.0}
FROM_CANDIDATE = OK.replace(b"{}", b"[]")
STEPPING = {"steps": [{"share": 0.5}, {"share": 1.0}]}


class Orders(Feed):
    """A feed with a way back."""

    take: Any = None

    def subscribe(self, take: Any) -> None:
        self.take = take

    def order(self, share: float, phase: Phase = Phase.STEPPING) -> None:
        self.take(Order(share, phase, 1))


@asynccontextmanager
async def two_arms(
    candidate: Script, reference: Script | None = None, **tables: Any
) -> AsyncIterator[tuple[Upstream, Upstream, Relay, Orders]]:
    """A relay before two upstreams; everything is sampled."""
    feed = Orders()
    async with upstream(candidate) as one, upstream(reference or replies(OK)) as other:
        tables = {"sampling": EVERYTHING, "reference": {"url": f"http://127.0.0.1:{other.port}"}, **tables}
        async with relay(one, feed=feed, **tables) as proxy:
            yield one, other, proxy, feed


def keyed(client: int) -> bytes:
    return chat(b"{}", b"Authorization: Bearer %d" % client)


@on_uvloop
async def test_the_share_changes_between_two_requests_of_one_connection() -> None:
    async with two_arms(replies(FROM_CANDIDATE), rollout=STEPPING) as (one, other, proxy, feed), client(proxy) as c:
        expected = b""
        for share, reply in ((None, OK), (1.0, FROM_CANDIDATE), (0.0, OK), (1.0, FROM_CANDIDATE)):
            if share is not None:
                feed.order(share)
            await c.send(keyed(1))
            expected += reply
            assert await c.wait_for(expected.__eq__)
        assert one.received == other.received == keyed(1) * 2  # verbatim to either
        assert (len(one.wires), len(other.wires)) == (1, 1)  # each arm's connection is kept
        assert [exchange.served_by for exchange in feed.exchanges] == [ServedBy.REFERENCE, ServedBy.CANDIDATE] * 2


@on_uvloop
async def test_a_request_in_flight_stays_with_the_arm_that_has_it() -> None:
    async def slow(wire: Wire) -> None:
        await read_request(wire)
        await go.wait()
        await wire.send(FROM_CANDIDATE)

    go = asyncio.Event()
    async with two_arms(slow, rollout=STEPPING) as (one, other, proxy, feed), client(proxy) as c:
        feed.order(1.0)
        await c.send(keyed(1))
        await until(lambda: keyed(1) in one.received)
        feed.order(0.0, Phase.FAILED)
        go.set()
        assert await c.wait_bytes(b"[]") == FROM_CANDIDATE
        assert other.wires == []


@on_uvloop
async def test_clients_are_split_by_their_key_and_stay() -> None:
    async with two_arms(replies(FROM_CANDIDATE), rollout=STEPPING) as (_, _, proxy, feed):
        feed.order(0.5)

        async def served(number: int) -> bool:
            async with client(proxy) as c:
                await c.send(keyed(number))
                return (await c.wait_for(lambda got: got.endswith((b"[]", b"{}")))).endswith(b"[]")

        once = [await served(number) for number in range(40)]
        assert once == [await served(number) for number in range(40)]
        assert 8 <= sum(once) <= 32  # four standard deviations
        told = proxy.counters.snapshot()["arms"]
        assert told["served"] == {"candidate": 2 * sum(once), "reference": 80 - 2 * sum(once)}


@on_uvloop
async def test_a_silent_monitor_returns_the_clients_to_the_reference() -> None:
    rollout = {**STEPPING, "max_silence_s": 0.3}
    async with two_arms(replies(FROM_CANDIDATE), rollout=rollout) as (_, _, proxy, feed), client(proxy) as c:
        feed.order(1.0)
        await c.send(keyed(1))
        assert await c.wait_bytes(b"[]") == FROM_CANDIDATE
        await until(lambda: proxy.counters.snapshot()["arms"]["silences"] == 1)
        await c.send(keyed(1))
        assert await c.wait_bytes(b"{}") == FROM_CANDIDATE + OK


# fail-over

FAILOVER: dict[str, Any] = {"relay": {"failover": "reference", "connect_timeout_s": 0.5}}


async def close_before_a_byte(wire: Wire) -> None:
    await read_request(wire)
    wire.writer.close()


async def reset_before_a_byte(wire: Wire) -> None:
    await read_request(wire)
    wire.crash()


async def close_inside_the_head(wire: Wire) -> None:
    await read_request(wire)
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-")
    wire.writer.close()


@pytest.mark.parametrize("script", [close_before_a_byte, reset_before_a_byte, close_inside_the_head])
@pytest.mark.parametrize(
    "request_",
    [
        chat(b'{"a": "' + b"x" * 200_000 + b'"}'),
        GET,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ],
    ids=["long", "no body", "chunked"],
)
@on_uvloop
async def test_a_candidate_that_closes_before_its_first_byte_is_answered_for(script: Script, request_: bytes) -> None:
    async with two_arms(script, **FAILOVER) as (one, other, proxy, feed), client(proxy) as c:
        await c.send(request_)
        assert await c.wait_bytes(b"{}") == OK
        assert one.received == other.received == request_
        await c.send(GET)  # the client's connection goes on
        assert await c.wait_for(lambda got: got == OK * 2)
        assert proxy.counters.snapshot()["arms"]["failovers"] == {"connect": 0, "cut": 2}
        assert proxy.counters.errors["cut"] == 2
        assert {exchange.served_by for exchange in feed.exchanges} <= {ServedBy.FAILOVER}


@on_uvloop
async def test_a_candidate_that_cannot_be_reached_is_answered_for() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        feed = Orders()
        async with upstream(replies(OK)) as other:
            reference = {"url": f"http://127.0.0.1:{other.port}"}
            async with relay(nobody, feed=feed, reference=reference, **FAILOVER) as proxy, client(proxy) as c:
                body = b"y" * 300_000
                await c.send(chat(body))
                assert await c.wait_bytes(b"{}") == OK
                assert other.received == chat(body)
                assert proxy.counters.snapshot()["arms"]["failovers"] == {"connect": 1, "cut": 0}


@on_uvloop
async def test_a_candidate_that_closes_during_the_upload_is_answered_for_with_the_rest_of_it() -> None:
    async def close_at_the_head(wire: Wire) -> None:
        await wire.wait_bytes(b"abc")
        wire.writer.close()

    sent = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
    async with two_arms(close_at_the_head, **FAILOVER) as (_, other, proxy, _), client(proxy) as c:
        await c.send(sent + b"abc")
        await until(lambda: proxy.counters.snapshot()["arms"]["failovers"]["cut"] == 1)
        await c.send(b"def")
        assert await c.wait_bytes(b"{}") == OK
        assert other.received == sent + b"abcdef"


@on_uvloop
async def test_after_the_first_byte_a_cut_stays_a_cut() -> None:
    async def cut(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
        wire.writer.close()

    async with two_arms(cut, **FAILOVER) as (_, other, proxy, feed):
        got = await ask(proxy, keyed(1))
        assert dechunk(got.partition(b"\r\n\r\n")[2]) == (b"ab", False)
        assert other.wires == []
        await until(lambda: bool(feed.exchanges))
        assert (feed.exchanges[0].outcome, feed.exchanges[0].served_by) == (
            Outcome.CANDIDATE_FAILED,
            ServedBy.CANDIDATE,
        )


@pytest.mark.parametrize(
    ("script", "relay_table", "status"),
    [
        (replies(b"garbage\r\n\r\n"), {}, b"502"),
        (silence, {"first_byte_timeout_s": 0.2}, b"504"),
        (close_before_a_byte, {"max_failover_bytes": 1}, b"502"),
        (close_before_a_byte, {"failover": None}, b"502"),
    ],
    ids=["garbage", "silence", "no room", "not asked for"],
)
@on_uvloop
async def test_no_other_failure_is_answered_for(script: Script, relay_table: dict[str, Any], status: bytes) -> None:
    table = {"failover": "reference", **relay_table}
    async with two_arms(script, relay=table) as (_, other, proxy, _), client(proxy) as c:
        await c.send(keyed(1))
        assert (await c.wait_bytes(b"\r\n\r\n"))[9:12] == status
        assert other.wires == []


@on_uvloop
async def test_a_reference_that_fails_too_is_not_asked_again_nor_answered_for() -> None:
    async with two_arms(close_before_a_byte, close_before_a_byte, **FAILOVER) as rig, client(rig[2]) as c:
        one, other, proxy, feed = rig
        await c.send(keyed(1))
        assert (await c.wait_bytes(b"\r\n\r\n"))[9:12] == b"502"
        assert (len(one.wires), len(other.wires)) == (1, 1)
        await until(lambda: bool(feed.exchanges))
        assert feed.exchanges[0].served_by is ServedBy.FAILOVER
        assert proxy.counters.in_flight == 0


@on_uvloop
async def test_a_client_that_leaves_while_it_is_answered_for_frees_everything() -> None:
    async with two_arms(close_before_a_byte, silence, **FAILOVER) as (_, other, proxy, _):
        async with client(proxy) as c:
            await c.send(keyed(1))
            await until(lambda: keyed(1) in other.received)
        await until(lambda: proxy.counters.in_flight == 0)
        assert (await other.wire()).ended.is_set() or await (await other.wire()).wait_end() == keyed(1)


@on_uvloop
async def test_in_a_rollout_the_reference_is_never_answered_for_by_the_candidate() -> None:
    async with two_arms(replies(FROM_CANDIDATE), close_before_a_byte, rollout=STEPPING, **FAILOVER) as rig:
        one, _, proxy, feed = rig
        feed.order(0.0)
        async with client(proxy) as c:
            await c.send(keyed(1))
            assert (await c.wait_bytes(b"\r\n\r\n"))[9:12] == b"502"
        assert one.wires == []
