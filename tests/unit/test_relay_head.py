"""Heads: what passes, what is refused, what is cut out."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.head import (
    CHUNKED,
    LENGTH,
    NO_BODY,
    UNTIL_CLOSE,
    ReplyHead,
    RequestHead,
    parse_reply,
    parse_request,
    pick_headers,
)
from proxy.relay.refusal import Refusal, RefusedError

FIRST = b"POST /v1/x HTTP/1.1\r\n"


def request(lines: bytes, max_headers: int = 100) -> RequestHead:
    return parse_request(lines, authority=b"candidate:8000", max_headers=max_headers)


def refusal_of(lines: bytes) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        request(lines)
    return caught.value.refusal


def reply(lines: bytes, *, head: bool = False, http11: bool = True) -> ReplyHead | None:
    return parse_reply(lines, to_head_request=head, to_http11=http11)


def test_request_is_read() -> None:
    head = request(
        b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nExpect: 100-continue\r\nX-Parity-Mirror:off\r\n"
    )
    assert (head.method, head.target, head.path) == (b"POST", b"/v1/x?y=1", b"/v1/x")
    assert (head.length, head.chunked, head.http11, head.keep_alive) == (12, False, True, True)
    assert (head.expects_continue, head.opted_out) == (True, True)
    assert head.forward == b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX-Parity-Mirror:off\r\n\r\n"


def test_valid_chunked_line_stays_in_its_place() -> None:
    head = request(FIRST + b"Host: a\r\ntransfer-ENCODING:Chunked \r\nX: y\r\n")
    assert head.chunked
    assert head.forward == FIRST + b"Host: a\r\ntransfer-ENCODING:Chunked \r\nX: y\r\n\r\n"


@pytest.mark.parametrize(
    "name", [b"Connection", b"KEEP-ALIVE", b"proxy-Authorization", b"TE", b"Trailer", b"Upgrade", b"Expect"]
)
@pytest.mark.parametrize("where", ["first", "last", "alone", "twice"])
def test_hop_by_hop_lines_are_cut(name: bytes, where: str) -> None:
    line = name + b": x y\r\n"
    others = {
        "first": line + b"Host: a\r\nA: b\r\n",
        "last": b"Host: a\r\nA: b\r\n" + line,
        "alone": b"Host: a\r\n" + line + b"A: b\r\n",
        "twice": line + b"Host: a\r\n" + line + b"A: b\r\n",
    }[where]
    assert request(FIRST + others).forward == FIRST + b"Host: a\r\nA: b\r\n\r\n"


@pytest.mark.parametrize(
    "name", [b"X-TE", b"Tea", b"Connections", b"XProxy-A", b"Upgrade-Insecure-Requests", b"Expected", b"Hosts"]
)
def test_similar_names_stay(name: bytes) -> None:
    raw = FIRST + b"Host: a\r\n" + name + b": x\r\n"
    assert request(raw).forward == raw + b"\r\n"


def test_named_headers_are_cut_but_never_the_framing() -> None:
    raw = (
        FIRST
        + b"Host: a\r\nConnection: Foo , content-length, host,close\r\nFOO: 1\r\nContent-Length: 0\r\n"
        + b"Bar: 2\r\nfoo: 3\r\n"
    )
    head = request(raw)
    assert head.forward == FIRST + b"Host: a\r\nContent-Length: 0\r\nBar: 2\r\n\r\n"
    assert not head.keep_alive


def test_connection_cannot_name_the_request_line_away() -> None:
    raw = FIRST + b"Host: a\r\nConnection: post /v1/x http/1.1\r\n"
    assert request(raw).forward == FIRST + b"Host: a\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "refusal"),
    [
        (FIRST, Refusal.BAD_HOST),
        (FIRST + b"Host: a\r\nHost: a\r\n", Refusal.BAD_HOST),
        (FIRST + b"Host: \r\n", Refusal.BAD_HOST),
        (FIRST + b"Host: a/b\r\n", Refusal.BAD_HOST),
        (FIRST + b"Host: a..b\r\n", Refusal.BAD_HOST),
        (FIRST + b"Host:\ta\r\n", Refusal.BAD_FRAMING),
        (FIRST + b"Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n", Refusal.BAD_FRAMING),
        (FIRST + b"Host: a\r\nContent-Length: +1\r\n", Refusal.BAD_FRAMING),
        (FIRST + b"Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", Refusal.BAD_FRAMING),
        (FIRST + b"Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n", Refusal.BAD_FRAMING),
        (FIRST + b"Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Refusal.BAD_FRAMING),
        (FIRST + b"Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", Refusal.BAD_CODING),
        (FIRST + b"Host: a\r\nTransfer-Encoding: \r\n", Refusal.BAD_CODING),
        (b"POST /v1/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", Refusal.BAD_FRAMING),
        (b"CONNECT /v1/x HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_METHOD),
        (b"TRACE /v1/x HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_METHOD),
        (b"POST /v1/x RTSP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"POST /v1/x HTTP/2.0\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"POST  /v1/x HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"POST http://a/v1/x HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/#a HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/%00 HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/%2 HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/../metrics HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/..?x HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/%2E./metrics HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/..%2fmetrics HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/x%5c..%5cmetrics HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (b"GET /v1/..\\metrics HTTP/1.1\r\nHost: a\r\n", Refusal.BAD_TARGET),
        (FIRST + b"Host: a\r\n" + b"X: y\r\n" * 100, Refusal.LARGE_HEAD),
    ],
)
def test_refused(lines: bytes, refusal: Refusal) -> None:
    assert refusal_of(lines) is refusal


@pytest.mark.parametrize(
    "target", [b"/v1/a.b", b"/v1/...", b"/v1/a..b", b"/v1/x?a=../..", b"/v1/%20", b"/v1//x", b"/v1/x?%zz"]
)
def test_harmless_targets_pass(target: bytes) -> None:
    assert request(b"GET %b HTTP/1.1\r\nHost: a\r\n" % target).target == target


def test_http10_is_forwarded_as_http11_with_a_host() -> None:
    head = request(b"GET /v1/x HTTP/1.0\r\nX: y\r\n")
    assert head.forward == b"GET /v1/x HTTP/1.1\r\nHost: candidate:8000\r\nX: y\r\n\r\n"
    assert not head.keep_alive
    kept = request(b"GET /v1/x HTTP/1.0\r\nhost: b\r\nConnection: Keep-Alive\r\n")
    assert kept.forward == b"GET /v1/x HTTP/1.1\r\nhost: b\r\n\r\n"
    assert kept.keep_alive


@pytest.mark.parametrize(
    "hostile",
    [
        b"Host: " + b"a" * 60_000 + b"/\r\n",
        b"Host: " + b"a." * 30_000 + b"/\r\n",
        b"Host: a\r\nConnection: " + b",".join(b"x%d" % n for n in range(9000)) + b"\r\n" + b"A: b\r\n" * 90,
        b"Host: a\r\n" + b"X: " + b"proxy-" * 10_000 + b"\r\n",
    ],
)
def test_hostile_heads_cost_little(hostile: bytes) -> None:
    began = time.process_time()
    try:
        request(FIRST + hostile)
    except RefusedError:
        pass
    assert time.process_time() - began < 0.25


NAMES = st.sampled_from([b"X", b"Accept", b"x-a", b"Content-Type", b"AUTHORIZATION"])
VALUES = st.binary(max_size=20).map(lambda raw: bytes(32 + byte % 95 for byte in raw))


@given(st.lists(st.tuples(NAMES, VALUES), max_size=20))
def test_ordinary_lines_are_forwarded_verbatim(lines: list[tuple[bytes, bytes]]) -> None:
    raw = FIRST + b"Host: a\r\n" + b"".join(b"%b: %b\r\n" % line for line in lines)
    assert request(raw).forward == raw + b"\r\n"


@pytest.mark.parametrize(
    ("lines", "framing", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", LENGTH, 5),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", CHUNKED, 0),
        (b"HTTP/1.1 200 OK\r\nA: b", UNTIL_CLOSE, 0),
        (b"HTTP/1.1 204 No", NO_BODY, 0),
        (b"HTTP/1.1 304 Not\r\nContent-Length: 5", NO_BODY, 5),
    ],
)
def test_reply_framing(lines: bytes, framing: int, length: int) -> None:
    head = reply(lines)
    assert head is not None
    assert (head.framing, head.length) == (framing, length)
    assert head.kept == lines


def test_reply_to_head_has_no_body_and_no_coding() -> None:
    head = reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b", head=True)
    assert head is not None
    assert (head.framing, head.kept) == (NO_BODY, b"HTTP/1.1 200 OK\r\nA: b")


def test_coding_is_cut_for_an_http10_client() -> None:
    head = reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b", http11=False)
    assert head is not None
    assert (head.framing, head.kept) == (CHUNKED, b"HTTP/1.1 200 OK\r\nA: b")


@pytest.mark.parametrize(
    ("lines", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive", True),
        (b"HTTP/1.1 200 OK", False),
    ],
)
def test_whether_the_candidates_connection_can_be_used_again(lines: bytes, reusable: bool) -> None:
    head = reply(lines)
    assert head is not None
    assert head.reusable is reusable


@pytest.mark.parametrize(
    "lines",
    [
        b"HTTP/2.0 200 OK",
        b"RTSP/1.0 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 101 Switching",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
    ],
)
def test_reply_that_may_not_pass(lines: bytes) -> None:
    assert reply(lines) is None


def test_headers_are_picked_lower_cased_in_order() -> None:
    head = b"POST / HTTP/1.1\r\nB: 2\r\na:  1 \r\nC: 3\r\nb:4\r\n\r\n"
    assert pick_headers(head, frozenset({b"a", b"b"})) == ((b"b", b"2"), (b"a", b"1"), (b"b", b"4"))


@pytest.mark.parametrize("values", [(b"off", b"on"), (b"on", b"OFF"), (b"off", b"")])
def test_opting_out_once_is_enough(values: tuple[bytes, bytes]) -> None:
    lines = b"".join(b"X-Parity-Mirror: %b\r\n" % value for value in values)
    assert parse_request(b"GET /v1/x HTTP/1.1\r\nHost: a\r\n" + lines, authority=b"a", max_headers=9).opted_out
