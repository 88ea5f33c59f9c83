"""Chunked bodies, however they are cut into arrivals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.chunked import MAX_SIZE_LINE_BYTES, MAX_TRAILER_BYTES, ChunkedBody
from proxy.relay.refusal import Refusal, RefusedError


def read(*arrivals: bytes) -> tuple[bytes, bytes, bool]:
    reader = ChunkedBody()
    body, rest = b"", b""
    for data in arrivals:
        if reader.done:
            rest += data
            continue
        piece, rest = reader.feed(data)
        body += piece
    return body, rest, reader.done


def frame(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.binary(max_size=30), st.data())
def test_any_cut_gives_the_same_body_and_rest(pieces: list[bytes], rest: bytes, data: st.DataObject) -> None:
    raw = frame(pieces) + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    arrivals = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert read(*arrivals) == (b"".join(pieces), rest, True)


@given(st.binary(max_size=60), st.data())
def test_arbitrary_bytes_are_read_alike_however_they_arrive(raw: bytes, data: st.DataObject) -> None:
    def outcome(arrivals: list[bytes]) -> tuple[bytes, bytes, bool] | None:
        try:
            return read(*arrivals)
        except RefusedError:
            return None

    at = data.draw(st.integers(0, len(raw)))
    raw = data.draw(st.sampled_from([b"", b"3\r\nabc", b"3\r\nabc\r\n", b"0\r\n", b"1;a\r\n"])) + raw
    whole, parts = outcome([raw]), outcome([raw[:at], raw[at:]])
    assert whole == parts


def test_extensions_and_trailers_are_dropped() -> None:
    assert read(b'A;x="y";z\r\n0123456789\r\n000;q\r\nTrail: er\r\nX: y\r\n\r\nGET') == (b"0123456789", b"GET", True)


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b"1\n",
        b"1;a\nb\r\n",
        b"1;a\rb\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n",
        b"1\r\na0\r\n",
        b"f" * 16 + b"\r\n",
        b"1\0\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\n\n",
        b"1;" + b"a" * MAX_SIZE_LINE_BYTES,
        b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 6 + 1),
        b"0\r\nA: " + b"b" * MAX_TRAILER_BYTES,
    ],
)
def test_refused(raw: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        read(raw)
    assert caught.value.refusal is Refusal.BAD_BODY
    with pytest.raises(RefusedError):
        read(*[bytes([byte]) for byte in raw])


@pytest.mark.parametrize(
    "raw", [b"", b"1", b"1\r", b"1\r\n", b"1\r\na", b"1\r\na\r", b"1\r\na\r\n", b"0\r\n", b"0\r\n\r", b"0\r\nA: b\r\n"]
)
def test_what_is_not_whole_is_not_done(raw: bytes) -> None:
    assert not read(raw)[2]
