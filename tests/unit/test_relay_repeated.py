"""A head that comes again is read from memory: never otherwise than anew, and nothing else is taken for it."""

from __future__ import annotations

import random

import pytest
from httptools import HttpRequestParser

from proxy.relay.head import parse_reply, parse_request
from proxy.relay.repeated import MAX_REMEMBERED_BYTES, PATIENCE, SELDOM, RepeatedReply, RepeatedRequest

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: %b\r\n"
    b"X-Last: 1\r\nKeep-Alive: 5\r\n\r\n"
)
REPLY = b"HTTP/1.1 200 OK\r\ndate: now\r\nserver: uvicorn\r\ncontent-length: %b\r\ncontent-type: a/b\r\n\r\n"


def anew(raw: bytes) -> object:
    return parse_request(raw[:-2], authority=b"up", max_headers=100)


def remembering(raw: bytes, max_bytes: int = 65_536) -> RepeatedRequest:
    repeated = RepeatedRequest()
    repeated.remember(raw, parse_request(raw[:-2], authority=b"up", max_headers=100), max_bytes)
    return repeated


@pytest.mark.parametrize("digits", [b"2", b"12", b"0", b"007", b"123456789012345678"])
@pytest.mark.parametrize("spelling", [b"Content-Length", b"content-length"])
def test_the_same_head_with_another_length_is_what_it_is_when_read_anew(digits: bytes, spelling: bytes) -> None:
    pattern = HEAD.replace(b"Content-Length", spelling)
    repeated = remembering(pattern % b"2")
    for _ in range(3):
        assert repeated.read(pattern % digits + b"{}rest") == (anew(pattern % digits), b"{}rest")


@pytest.mark.parametrize(
    "other",
    [
        HEAD % b"",
        HEAD % b"-1",
        HEAD % b"+1",
        HEAD % b"1 ",
        HEAD % b" 1",
        HEAD % b"1,1",
        HEAD % b"1_0",
        HEAD % "٣".encode(),
        HEAD % b"1234567890123456789",
        HEAD % b"2\r\nContent-Length: 2",
        HEAD % b"2\r\nTransfer-Encoding: chunked",
        (HEAD % b"2").replace(b"X-Last: 1", b"X-Last: 2"),
        (HEAD % b"2").replace(b"Host: a", b"Host: b"),
        (HEAD % b"2").replace(b"\r\n\r\n", b"\r\nX-More: 1\r\n\r\n"),
        (HEAD % b"2").replace(b"POST", b"GET"),
        (HEAD % b"2")[:-1],
        (HEAD % b"2")[:-4],
        (HEAD % b"2")[:80],
        b"",
    ],
)
def test_nothing_else_is_taken_for_it(other: bytes) -> None:
    repeated = remembering(HEAD % b"2")
    assert repeated.read(other) is None
    assert repeated.read(HEAD % b"3") is not None, "and what is remembered stays"


def test_a_flipped_byte_is_never_read_from_memory_unless_it_is_another_digit() -> None:
    draw, raw = random.Random(5), HEAD % b"1234"
    start = raw.index(b"1234")
    for _ in range(3000):
        at, byte = draw.randrange(len(raw)), draw.randrange(256)
        flipped = raw[:at] + bytes([byte]) + raw[at + 1 :]
        found = remembering(raw).read(flipped)
        if flipped == raw or (start <= at < start + 4 and chr(byte) in "0123456789"):
            HttpRequestParser(object()).feed_data(flipped)
            assert found == (anew(flipped), b"")
        else:
            assert found is None, flipped


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MAX_REMEMBERED_BYTES + b"\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_is_not_remembered_is_read_each_time(raw: bytes) -> None:
    assert remembering(raw).read(raw) is None


def test_a_longer_length_cannot_carry_a_head_past_its_limit() -> None:
    assert remembering(HEAD % b"2", max_bytes=len(HEAD)).read(HEAD % b"22222") is None


def test_heads_that_never_come_again_are_hardly_remembered() -> None:
    repeated, kept = RepeatedRequest(), 0
    for number in range(10 * SELDOM):
        raw = (HEAD % b"2").replace(b"X-Last: 1", b"X-Last: %d" % (1000 + number))
        assert repeated.read(raw) is None
        repeated.remember(raw, parse_request(raw[:-2], authority=b"up", max_headers=100), 65_536)
        kept += repeated._before in raw and repeated._after in raw
    assert kept == PATIENCE + 10
    repeated = remembering(HEAD % b"2")
    for _ in range(10):
        assert repeated.read(HEAD % b"2"), "one that does is, for good"


def remembering_two(pattern: bytes, max_bytes: int = 65_536) -> RepeatedRequest:
    """After two heads that differ in each of their three values."""
    repeated = RepeatedRequest()
    for values in ((b"first", b"1", b"first"), (b"one", b"2", b"three")):
        raw = pattern % values
        assert repeated.read(raw) is None
        repeated.remember(raw, parse_request(raw[:-2], authority=b"up", max_headers=100), max_bytes)
    return repeated


FREE = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\nKeep-Alive: 5\r\nContent-Length: %b\r\n"
    b"traceparent: %b\r\nX-Last: 1\r\n\r\n"
)


@pytest.mark.parametrize("digits", [b"2", b"007", b"123456789012345678"])
@pytest.mark.parametrize("request_id", [b"a", b"0f" * 16, b"a, b c", b"x" * 256, b"::1"])
def test_free_lines_may_differ_too(digits: bytes, request_id: bytes) -> None:
    repeated = remembering_two(FREE)
    for trace in (b"00-1-1-01", b"00-2-2-00"):
        raw = FREE % (request_id, digits, trace)
        HttpRequestParser(object()).feed_data(raw)
        assert repeated.read(raw + b"{}rest") == (anew(raw), b"{}rest")


@pytest.mark.parametrize(
    "other",
    [
        FREE % (b"", b"2", b"t"),
        FREE % (b" a", b"2", b"t"),
        FREE % (b"a ", b"2", b"t"),
        FREE % (b"a\tb", b"2", b"t"),
        FREE % (b"a\x00b", b"2", b"t"),
        FREE % (b"a\nHost: b", b"2", b"t"),
        FREE % (b"a\r\nHost: b", b"2", b"t"),
        FREE % (b"a\r\nTransfer-Encoding: chunked", b"2", b"t"),
        FREE % ("é".encode(), b"2", b"t"),
        FREE % (b"x" * 257, b"2", b"t"),
        FREE % (b"a", b"-2", b"t"),
        FREE % (b"a", b"1234567890123456789", b"t"),
        FREE % (b"a", b"2", b"t\r\nContent-Length: 2"),
        (FREE % (b"a", b"2", b"t")).replace(b"X-Last: 1", b"X-Last: 2"),
        (FREE % (b"a", b"2", b"t")).replace(b"X-Request-Id", b"X-Requesz-Id"),
        (FREE % (b"a", b"2", b"t"))[:-1],
        (FREE % (b"a", b"2", b"t"))[:90],
    ],
)
def test_with_free_lines_too_nothing_else_is_taken_for_it(other: bytes) -> None:
    repeated = remembering_two(FREE)
    assert repeated.read(other) is None
    assert repeated.read(FREE % (b"1", b"3", b"3")) is not None, "and what is remembered stays"


def test_a_flipped_byte_is_read_from_memory_only_in_a_free_value() -> None:
    draw, raw = random.Random(6), FREE % (b"0123abcd", b"1234", b"00-1-1-01")
    spans = [(raw.index(value), raw.index(value) + len(value)) for value in (b"0123abcd", b"00-1-1-01")]
    length_at, taken = raw.index(b"1234"), 0
    for _ in range(5000):
        at, byte = draw.randrange(len(raw)), draw.randrange(256)
        flipped = raw[:at] + bytes([byte]) + raw[at + 1 :]
        found = remembering_two(FREE).read(flipped)
        free = any(start <= at < end for start, end in spans)
        if found is not None:
            HttpRequestParser(object()).feed_data(flipped)
            assert found == (anew(flipped), b"")
            taken += flipped != raw
            assert flipped == raw or free or length_at <= at < length_at + 4
        else:
            assert not (free and 0x21 <= byte <= 0x7E), flipped
    assert taken > 50


def test_a_line_that_the_connection_takes_out_is_not_free() -> None:
    pattern = FREE.replace(b"Keep-Alive: 5", b"Connection: X-Request-Id")
    repeated = remembering_two(pattern)
    assert repeated.read(pattern % (b"two", b"2", b"three")) is None
    assert repeated.read(pattern % (b"first", b"3", b"first")) is not None, "the first, as it was"


def test_a_free_line_is_held_to_its_value_until_it_was_seen_to_change() -> None:
    pattern = FREE % (b"one", b"%b", b"%b")
    repeated = remembering(pattern % (b"2", b"t"))
    for trace in (b"u", b"v"):
        raw = pattern % (b"2", trace)
        known = trace == b"v"
        assert (repeated.read(raw) is not None) == known
        repeated.remember(raw, parse_request(raw[:-2], authority=b"up", max_headers=100), 65_536)
    assert repeated.read(FREE % (b"two", b"2", b"v")) is None


def test_what_is_known_of_free_lines_is_bounded_by_one_head() -> None:
    repeated = RepeatedRequest()
    for number in range(2_000):  # other spellings of one name, each with two values
        name = "".join(c.upper() if number >> at & 1 else c for at, c in enumerate("equest-id"))
        for value in (b"1", b"2"):
            raw = (HEAD % b"2").replace(b"X-Last: 1", b"X-R%b: %b" % (name.encode(), value))
            repeated._misses = 0
            repeated.remember(raw, parse_request(raw[:-2], authority=b"up", max_headers=100), 65_536)
    assert len(repeated._changing) <= 1
    assert len(repeated._values) <= 1


def test_free_values_cannot_carry_a_head_past_its_limit() -> None:
    raw = FREE % (b"one", b"2", b"three")
    assert remembering_two(FREE, max_bytes=len(raw) + 300).read(raw) is None
    assert remembering_two(FREE, max_bytes=len(raw) + 3 * 256).read(raw) is not None


def test_replies_too() -> None:
    repeated = RepeatedReply()
    reply = parse_reply((REPLY % b"20")[:-4], to_head_request=False, to_http11=True)
    assert reply is not None
    repeated.remember(REPLY % b"20", reply)
    for digits in (b"20", b"1", b"0", b"123456"):
        expected = parse_reply((REPLY % digits)[:-4], to_head_request=False, to_http11=True)
        assert repeated.read(REPLY % digits + b"body") == (expected, b"body")
    for other in (REPLY % b"x", REPLY % b"", (REPLY % b"1").replace(b"200", b"500"), (REPLY % b"1")[:-1]):
        assert repeated.read(other) is None
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    streamed = parse_reply(chunked[:-4], to_head_request=False, to_http11=True)
    assert streamed is not None
    repeated.remember(chunked, streamed)
    assert repeated.read(chunked) is None
