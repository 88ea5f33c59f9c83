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
