"""Pairs of the ledger by score, stratum and place, and what the latest rows say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.ledger_pairs import strata_of
from proxy.settings import LedgerSettings
from scorers.records import Reason, Stratum
from tests.unit.monitor_samples import bodies, is_mismatch, row

LONG = Stratum("16k-64k", True, False, True)
PLAIN = Stratum("1k-4k", False, True, False)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(LedgerSettings(path=tmp_path / "ledger.sqlite"), is_mismatch=is_mismatch)
    ledger.open_epoch({}, "first", 1.0)
    strata = [LONG, PLAIN, None]
    ledger.append([row(n, bodies=bodies(), stratum=strata[n % 3]) for n in range(12)])
    yield ledger
    ledger.close()


def found(ledger: SqliteLedger, **asked: Any) -> list[int]:
    return [one.position for one in ledger.pairs(limit=asked.pop("limit", 50), **asked)]


@pytest.mark.parametrize("score", [None, "tool_call_mismatch"])
def test_by_stratum_and_place(ledger: SqliteLedger, score: str | None) -> None:
    assert found(ledger, score=score) == [*range(11, -1, -1)]
    assert found(ledger, score=score, mismatched=True) == [11, 9, 7, 5, 3, 1]
    assert found(ledger, score=score, stratum="16k-64k") == [9, 6, 3, 0]
    assert found(ledger, score=score, stratum="16k-64k", mismatched=True) == [9, 3]
    assert found(ledger, score=score, stratum="plain/stream") == [10, 7, 4, 1]
    assert found(ledger, score=score, stratum=str(LONG)) == [9, 6, 3, 0]
    assert found(ledger, score=score, stratum="nonsense") == []
    assert found(ledger, score=score, after=5) == [6, 7, 8, 9, 10, 11]
    assert found(ledger, score=score, after=5, mismatched=True, limit=1) == [7]
    assert found(ledger, score=score, before=5, mismatched=True, limit=1) == [3]
    assert found(ledger, score=score, after=2, before=7, stratum="16k-64k") == [3, 6]
    assert found(ledger, score=score, after=11) == []


def test_words_choose_strata() -> None:
    assert len(strata_of("tools")) == 24
    assert len(strata_of("4k-16k/tools")) == 4
    assert strata_of(str(LONG)) == (str(LONG),)
    assert strata_of("tools/plain") == ()
    assert strata_of("' OR 1=1 --") == ()
    assert strata_of("unknown") == ()


def test_the_latest_scores_by_stratum(ledger: SqliteLedger) -> None:
    latest = ledger.latest_scores(1, 3)
    assert [stratum for stratum, _ in latest] == [str(PLAIN), str(LONG), str(PLAIN)]  # of rows 10, 9 and 7
    assert [scores["tool_call_mismatch"] for _, scores in latest] == [0.0, 1.0, 1.0]
    assert latest[0][1]["json_invalid"] is Reason.NO_JSON_FORMAT
    assert ledger.latest_scores(2, 3) == []
