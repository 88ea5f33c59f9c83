"""Reading a ledger that nobody writes, and one that somebody does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.errors import LedgerError
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.standing import Standing
from proxy.settings import LedgerSettings
from scorers.judge import Budget, EvidenceState, GateRules, start
from tests.unit.monitor_samples import bodies, is_mismatch, row


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    ledger = SqliteLedger(LedgerSettings(path=tmp_path / "ledger.sqlite"), is_mismatch=is_mismatch)
    ledger.open_epoch({"reference": "r"}, "first", 1.0)
    yield ledger
    ledger.close()


def test_beside_a_live_writer_the_reader_sees_each_batch(ledger: SqliteLedger) -> None:
    reader = open_read_only(ledger.path)
    for n in range(3):
        ledger.append([row(n, bodies=bodies())])
        assert [seen.position for seen in reader.observations(1)] == list(range(n + 1))
        assert reader.pair(f"id-{n}") == ledger.pair(f"id-{n}")
    reader.close()


def test_an_empty_ledger_has_nothing(tmp_path: Path) -> None:
    ledger = SqliteLedger(LedgerSettings(path=tmp_path / "l"), is_mismatch=is_mismatch)
    assert (ledger.latest_epoch(), ledger.next_position(), ledger.numbers(5), ledger.stats().rows) == (None, 0, [], 0)
    ledger.close()


def test_prompt_tokens_that_differ_are_counted_for_live_rows(ledger: SqliteLedger) -> None:
    same, other = row(0), row(1, prompt_tokens=7)
    ledger.append([same, other, row(2, prompt_tokens=7, kind="probe"), row(3, prompt_tokens=None)])
    assert ledger.prompt_token_mismatches(1) == 1
    assert ledger.prompts_agreed(1, -1, 10) == [True, False]
    assert ledger.prompts_agreed(1, -1, 1) == [False]
    assert ledger.prompts_agreed(1, 1, 10) == []
    assert [tuple(one) for one in ledger.epoch_openings()] == [(1, 1.0, "first")]


def test_stats_are_the_sizes_on_the_disk(ledger: SqliteLedger) -> None:
    ledger.append([row(n) for n in range(100)])
    stats = ledger.stats()
    assert (stats.rows, stats.epochs) == (100, 1)
    assert stats.file_bytes == ledger.path.stat().st_size
    assert stats.wal_bytes == ledger.path.with_name("ledger.sqlite-wal").stat().st_size > 0


def test_the_page_of_pairs_is_bounded(ledger: SqliteLedger) -> None:
    ledger.append([row(n, bodies=bodies()) for n in range(501)])
    assert len(ledger.pairs(limit=10_000, before=None, score=None, mismatched=False)) == 500
    assert len(ledger.pairs(limit=-1, before=None, score=None, mismatched=False)) == 1


def test_a_missing_layout_is_corruption_and_not_silence(ledger: SqliteLedger) -> None:
    ledger.append([row(0), replace(row(1), scores=())])
    ledger._connection.execute("DELETE FROM shapes")
    with pytest.raises(LedgerError, match="corrupt"):
        list(ledger.observations(1))


def test_prompt_tokens_are_counted_past_a_position(ledger: SqliteLedger) -> None:
    ledger.append([row(n, prompt_tokens=7) for n in range(5)])
    assert ledger.prompt_token_mismatches(1, after=2) == 2


def test_resets_are_found_by_epoch_and_new_positions_come_after_them(ledger: SqliteLedger) -> None:
    ledger.append([row(n) for n in range(5)])
    ledger.event("pause", {}, 1.0)
    assert (ledger.reset_position(1), ledger.next_position()) == (None, 5)
    for epoch, position in ((1, 2), (1, 3), (2, 9)):
        ledger.event("reset", {"epoch": epoch, "position": position, "reason": ""}, 2.0)
    assert [ledger.reset_position(epoch) for epoch in (1, 2, 3)] == [3, 9, None]
    assert ledger.next_position() == 10  # the rows up to it were in work when a kill took them


def test_the_verdict_from_the_file_alone_knows_the_reset(ledger: SqliteLedger) -> None:
    def evidence() -> EvidenceState:
        return start((Budget("tool_call_mismatch", 0.03, bounded=True, critical=True),), GateRules())

    live = Standing("awq", evidence)
    live.resume(ledger, 1, {})
    rows = [row(n, prompt_tokens=7) for n in range(60)]
    live.fold(rows[:40])
    ledger.append(rows[:40])
    assert live.verdict(()).state == "fail"
    ledger.event("reset", {"epoch": 1, "position": 44, "reason": "the parser was fixed"}, 2.0)
    live.reset(1, 44)
    for seen in (rows[40:44], rows[44:]):
        alone = Standing("awq", evidence)
        alone.resume(open_read_only(ledger.path), 1, {})
        assert alone.verdict(()).as_dict() == live.verdict(()).as_dict()
        live.fold(seen)
        ledger.append(seen)
    alone = Standing("awq", evidence)
    alone.resume(open_read_only(ledger.path), 1, {})
    assert alone.verdict(()).as_dict() == live.verdict(()).as_dict()
    assert live.verdict(()).coverage.sampled == alone.prompt_token_mismatches == 15


def test_times_of_positions_and_events_of_a_kind(ledger: SqliteLedger) -> None:
    ledger.append([row(n) for n in (0, 1, 4)])
    assert ledger.sampled_at([4, 1, 9]) == {1: row(1).sampled_unix_s, 4: row(4).sampled_unix_s}
    assert ledger.sampled_at([]) == {}
    for kind in ("pause", "verdict", "resume"):
        ledger.event(kind, {}, 2.0)
    assert [event.kind for event in ledger.events()] == ["resume", "verdict", "pause"]
    assert [event.kind for event in ledger.events(kinds=("verdict", "pause"))] == ["verdict", "pause"]
    assert [event.kind for event in ledger.events(1, ("verdict", "pause"))] == ["verdict"]
