"""The tee: what the feed is offered, its bounds, and that its faults never reach a client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.exchange import Exchange, LossReason, Outcome, Sampled
from tests.integration.relay_rig import (
    GET,
    OK,
    Feed,
    Wire,
    chat,
    client,
    on_uvloop,
    read_request,
    relay,
    replies,
    silence,
    until,
    upstream,
)

ALL = {"sampling": {"rate": 1.0, "large_body_rate": 1.0}}
UPLOAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-request-id: r1\r\nset-cookie: s\r\n\r\n"


@on_uvloop
async def test_sampled_exchange_is_offered_whole() -> None:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(STREAM + b"3\r\nabc\r\n")
        await asyncio.sleep(0.02)
        await wire.send(b"2\r\nde\r\n0\r\n\r\n")

    headers = (
        b"Authorization: Bearer sk",
        b"Cookie: c",
        b"Content-TYPE: application/json",
        b"X-Tenant: t",
        b"X-Other: o",
    )
    tables: dict[str, Any] = {**ALL, "mirror": {"forward_headers": ["X-Tenant"]}}
    async with upstream(script) as up, relay(up, **tables) as proxy, client(proxy) as c:
        await c.send(chat(b'{"q":"\xff"}', *headers))
        await c.wait_bytes(b"0\r\n\r\n")
        sampled, exchange = proxy.feed.events
    assert isinstance(sampled, Sampled)
    assert isinstance(exchange, Exchange)
    assert (sampled.worker, sampled.sequence, sampled.id) == ("w", 0, exchange.id)
    assert exchange.method == "POST"
    assert exchange.target == "/v1/chat/completions"
    assert exchange.request_headers == ((b"content-type", b"application/json"), (b"x-tenant", b"t"))
    assert exchange.request_body == b'{"q":"\xff"}'
    assert exchange.status == 200
    assert exchange.response_headers == ((b"x-request-id", b"r1"),)
    assert exchange.response_body == b"abcde"
    assert exchange.outcome is Outcome.COMPLETE
    assert exchange.first_byte_s is not None
    assert 0 < exchange.first_byte_s < exchange.duration_s
    assert exchange.duration_s >= 0.015  # the script waits 0.02 s; the loop's clock ticks in milliseconds


@on_uvloop
async def test_sequences_rise_by_one_and_ids_differ() -> None:
    async with upstream(replies(OK)) as up, relay(up, **ALL) as proxy, client(proxy) as c:
        for turn in range(1, 6):
            await c.send(chat())
            await c.wait_for(lambda got, turn=turn: got.count(b"{}") == turn)
        assert [event.sequence for event in proxy.feed.sampled] == [0, 1, 2, 3, 4]
        assert [event.sequence for event in proxy.feed.exchanges] == [0, 1, 2, 3, 4]
        assert len({event.id for event in proxy.feed.sampled}) == 5
        assert proxy.counters.sampled == 5


@on_uvloop
async def test_what_is_not_sampled_is_counted() -> None:
    async with upstream(replies(OK)) as up, relay(up, **ALL) as proxy, client(proxy) as c:
        await c.send(GET + chat(b"{}", b"x-PARITY-mirror:  OFF ") + b"POST /health HTTP/1.1\r\nHost: a\r\n\r\n")
        await c.wait_for(lambda got: got.count(b"{}") == 3)
        assert proxy.feed.events == []
        assert (proxy.counters.opted_out, proxy.counters.not_sampled, proxy.counters.sampled) == (1, 2, 0)
        assert b"x-PARITY-mirror:  OFF \r\n" in up.received


@on_uvloop
async def test_rate_is_kept_and_large_bodies_have_their_own() -> None:
    tables = {"sampling": {"rate": 0.5, "large_body_rate": 0.0, "large_body_bytes": 100}}
    async with upstream(replies(OK)) as up, relay(up, **tables) as proxy, client(proxy) as c:
        await c.send(chat(bytes(10)) * 400 + chat(bytes(101)) * 20)
        await until(lambda: c.received.count(b"{}") == 420)
        assert 140 < proxy.counters.sampled < 260
        assert {len(event.request_body) for event in proxy.feed.exchanges} == {10}


@pytest.mark.parametrize("large_rate", [0.0, 1.0])
@on_uvloop
async def test_chunked_body_is_marked_at_its_end(large_rate: float) -> None:
    tables = {"sampling": {"rate": 1.0, "large_body_rate": large_rate, "large_body_bytes": 4}}
    async with upstream(replies(OK)) as up, relay(up, **tables) as proxy, client(proxy) as c:
        await c.send(UPLOAD + b"3\r\nabc\r\n")
        await (await up.wire()).wait_bytes(b"abc")
        assert proxy.feed.events == []
        await c.send(b"3\r\ndef\r\n0\r\n\r\n")
        await c.wait_bytes(OK)
        if large_rate:
            assert [event.request_body for event in proxy.feed.exchanges] == [b"abcdef"]
            assert len(proxy.feed.sampled) == 1
        else:
            assert proxy.feed.events == []
            assert (proxy.counters.sampled, proxy.counters.not_sampled) == (0, 1)


@on_uvloop
async def test_a_disconnect_closes_the_capture() -> None:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(STREAM + b"3\r\nabc\r\n")
        await wire.ended.wait()

    async with upstream(script) as up, relay(up, **ALL) as proxy, client(proxy) as c:
        await c.send(chat())
        await c.wait_bytes(b"abc")
        c.kill()
        await until(lambda: proxy.feed.exchanges)
        exchange = proxy.feed.exchanges[0]
        assert (exchange.outcome, exchange.status, exchange.response_body) == (Outcome.CLIENT_CLOSED, 200, b"abc")


@on_uvloop
async def test_a_disconnect_in_a_chunked_upload_is_marked_and_closed() -> None:
    async with upstream(silence) as up, relay(up, **ALL) as proxy, client(proxy) as c:
        await c.send(UPLOAD + b"3\r\nabc\r\n")
        await (await up.wire()).wait_bytes(b"abc")
        c.kill()
        await until(lambda: proxy.feed.exchanges)
        assert len(proxy.feed.sampled) == 1
        assert proxy.feed.exchanges[0].outcome is Outcome.CLIENT_CLOSED
        assert proxy.feed.exchanges[0].status == 0


@pytest.mark.parametrize("begun", [b"", STREAM + b"3\r\nabc\r\n"])
@on_uvloop
async def test_a_failed_candidate_closes_the_capture(begun: bytes) -> None:
    async def script(wire: Wire) -> None:
        await read_request(wire)
        await wire.send(begun)
        wire.writer.close()

    async with upstream(script) as up, relay(up, **ALL) as proxy, client(proxy) as c:
        await c.send(chat())
        await until(lambda: proxy.feed.exchanges)
        exchange = proxy.feed.exchanges[0]
        assert exchange.outcome is Outcome.CANDIDATE_FAILED
        assert (exchange.status, exchange.response_body) == ((200, b"abc") if begun else (0, b""))
        assert exchange.first_byte_s is None or begun


BOUNDS = {
    "request, declared": ({"max_request_bytes": 5}, chat(b"123456"), LossReason.REQUEST_TOO_LARGE),
    "request, chunked": ({"max_request_bytes": 5}, UPLOAD + b"6\r\n123456\r\n0\r\n\r\n", LossReason.REQUEST_TOO_LARGE),
    "response": ({"max_response_bytes": 1}, chat(), LossReason.RESPONSE_TOO_LARGE),
    "all together": ({"max_capture_bytes": 8}, chat(), LossReason.CAPTURE_MEMORY),
}


@pytest.mark.parametrize("name", BOUNDS)
@on_uvloop
async def test_past_a_bound_the_capture_is_lost_once_and_the_client_is_served(name: str) -> None:
    feed, request, reason = BOUNDS[name]
    async with upstream(replies(OK)) as up, relay(up, **ALL, feed_table=feed) as proxy, client(proxy) as c:
        for turn in (1, 2, 3):
            await c.send(request)
            await c.wait_for(lambda got, turn=turn: got == OK * turn)
        assert [event.reason for event in proxy.feed.lost] == [reason] * 3
        assert [event.sequence for event in proxy.feed.lost] == [0, 1, 2]
        assert len(proxy.feed.sampled) == 3
        assert proxy.feed.exchanges == []
        assert proxy.counters.lost[reason.value] == 3


@on_uvloop
async def test_capture_memory_is_given_back() -> None:
    """A leaked slot would stop sampling for good: many endings of all kinds, then one exchange must still fit."""
    count = 0

    async def script(wire: Wire) -> None:
        nonlocal count
        position = 0
        while True:
            _, _, position = await read_request(wire, position)
            count += 1
            if count % 3 == 0:
                wire.kill()
                return
            await wire.send(STREAM + b"3\r\nabc\r\n" + (b"0\r\n\r\n" if count % 3 == 1 else b"zz\r\n"))

    table = {"max_capture_bytes": 1100}
    async with upstream(script) as up, relay(up, **ALL, feed_table=table) as proxy:
        for turn in range(30):
            async with client(proxy) as c:
                await c.send(chat(bytes(1000)))
                if turn % 5:
                    await until(lambda turn=turn: len(proxy.feed.exchanges) + len(proxy.feed.lost) > turn)
                else:
                    await until(lambda: proxy.counters.in_flight == 1 or proxy.feed.exchanges)
            await until(lambda turn=turn: len(proxy.feed.exchanges) + len(proxy.feed.lost) == turn + 1)
        assert proxy.feed.lost == []
        assert len(proxy.feed.exchanges) == len(proxy.feed.sampled) == 30


class BrokenFeed(Feed):
    """A feed that breaks its promise never to raise."""

    def offer(self, event: Any) -> bool:
        raise RuntimeError("planted")


class FullFeed(Feed):
    """A feed that takes nothing."""

    accept = False


@pytest.mark.parametrize("feed", [BrokenFeed, FullFeed])
@on_uvloop
async def test_a_broken_or_full_feed_never_reaches_the_client(feed: type[Feed]) -> None:
    async with upstream(replies(OK)) as up, relay(up, **ALL, feed=feed()) as proxy, client(proxy) as c:
        for turn in range(1, 6):
            await c.send(chat())
            await c.wait_for(lambda got, turn=turn: got == OK * turn)
        await c.send(UPLOAD + b"1\r\na\r\n0\r\n\r\n")
        await c.wait_for(lambda got: got == OK * 6)
        assert proxy.counters.in_flight == 0
        assert (proxy.counters.tee_failures > 0) == (feed is BrokenFeed)
        assert proxy.counters.requests["chat_completions"]["2xx"] == 5


@on_uvloop
async def test_bytes_on_both_sides_are_the_same_with_and_without_the_tee() -> None:
    async def run(rate: float, feed: Feed) -> tuple[bytes, bytes]:
        tables = {"sampling": {"rate": rate, "large_body_rate": rate}}
        answers = (OK, STREAM + b"3\r\nabc\r\n0\r\n\r\n", b"HTTP/1.1 500 No\r\ncontent-length: 1\r\n\r\nx")
        async with upstream(replies(*answers, OK)) as up, relay(up, feed=feed, **tables) as proxy, client(proxy) as c:
            for request in (chat(), UPLOAD + b"3\r\nabc\r\n0\r\n\r\n", chat(b"", b"X-Request-Id: 1"), GET):
                before = proxy.counters.in_flight, sum(proxy.counters.first_byte_counts)
                await c.send(request)
                await until(lambda before=before: sum(proxy.counters.first_byte_counts) > before[1])
                await until(lambda: proxy.counters.in_flight == 0)
            await until(lambda: c.received.endswith(b"{}"))
            return up.received, c.received

    off = await run(0.0, Feed())
    assert off == await run(1.0, Feed())
    assert off == await run(1.0, BrokenFeed())
    assert off == await run(1.0, FullFeed())
