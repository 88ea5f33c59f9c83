"""Content codings: undone within a bound, or refused."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import settings as unhurried
from hypothesis import strategies as st

from proxy.monitor.coding import header, unpacked

BODY = b'{"messages": []}' * 50
ZIPPED = gzip.compress(BODY, mtime=0)  # as parameters these name tests, and every run names the same ones


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"identity", BODY),
        (b"", BODY),
        (b"gzip", ZIPPED),
        (b" GZip ", ZIPPED),
        (b"x-gzip", ZIPPED),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", raw_deflate(BODY)),
    ],
)
def test_known_codings_are_undone(coding: bytes, packed: bytes) -> None:
    assert unpacked(((b"Content-Encoding", coding),), packed, 1 << 20) == BODY


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (b"br", BODY),
        (b"gzip, gzip", gzip.compress(ZIPPED, mtime=0)),
        (b"gzip", BODY),
        (b"gzip", ZIPPED[:-9]),
        (b"gzip", ZIPPED + b"more"),
        (b"deflate", b"\x00"),
    ],
)
def test_what_cannot_be_undone_is_refused(coding: bytes, packed: bytes) -> None:
    assert unpacked(((b"content-encoding", coding),), packed, 1 << 20) is None


def test_a_bomb_is_refused_at_the_bound() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    assert unpacked(((b"content-encoding", b"gzip"),), bomb, 1 << 20) is None
    assert unpacked(((b"content-encoding", b"gzip"),), gzip.compress(b"x" * 100), 100) == b"x" * 100


@unhurried(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"gzip", b"deflate", b"x", b"\xff"]))
def test_no_bytes_raise(body: bytes, coding: bytes) -> None:
    unpacked(((b"content-encoding", coding),), body, 1000)


def test_headers_are_found_in_any_case_and_joined() -> None:
    assert header(((b"X-A", b" One "), (b"x-a", b"two"), (b"b", b"c")), b"x-a") == "one, two"
    assert header((), b"x-a") == ""
