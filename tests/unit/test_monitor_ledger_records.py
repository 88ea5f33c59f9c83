"""Records of the ledger are read back as what they were."""

from __future__ import annotations

import zlib

import pytest

from proxy.errors import LedgerError
from proxy.monitor.ledger_records import deflate, inflate, parse_stratum
from scorers.records import LENGTH_BUCKETS, Stratum


def test_every_stratum_is_read_back() -> None:
    for length, _ in LENGTH_BUCKETS:
        for flags in range(8):
            stratum = Stratum(length, bool(flags & 1), bool(flags & 2), bool(flags & 4))
            assert parse_stratum(str(stratum)) == stratum
    with pytest.raises(LedgerError, match="no stratum"):
        parse_stratum("x/y")


def test_bodies_are_kept_small_and_whole() -> None:
    body = b'{"a": "the same again and again"}' * 1000
    assert inflate(deflate(body)) == body
    assert len(deflate(body)) < len(body) // 20
    with pytest.raises(LedgerError, match="corrupt"):
        inflate(b"nothing of ours")


def test_a_body_that_would_not_fit_in_memory_is_cut() -> None:
    bomb = zlib.compress(bytes(128 * 1024 * 1024), 9)
    assert len(inflate(bomb)) == 64 * 1024 * 1024
