"""What is appended is there: after a restart, after kill -9, and once only."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import LedgerError
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.rows import Ledger, ScoreRow
from proxy.settings import LedgerSettings
from tests.unit.monitor_samples import bodies, is_mismatch, row


def opened(path: Path, **settings: Any) -> SqliteLedger:
    return SqliteLedger(LedgerSettings(path=path, **settings), is_mismatch=is_mismatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[SqliteLedger]:
    ledger = opened(path)
    ledger.open_epoch({"reference": "r"}, "first", 1.0)
    yield ledger
    ledger.close()


def test_it_is_a_ledger(ledger: SqliteLedger) -> None:
    seam: Ledger = ledger  # the type checker proves it
    assert seam.next_position() == 0


def test_observations_are_those_of_the_rows_after_a_restart(ledger: SqliteLedger, path: Path) -> None:
    rows = [row(n) for n in (3, 4, 7)] + [row(9, disposition="lost", reason="late", stratum=None, scores=())]
    ledger.append(rows[:2])
    ledger.append(rows[2:])
    ledger.close()

    again = opened(path)
    assert list(again.observations(1)) == [each.observation() for each in rows]
    assert list(again.observations(1, after=4)) == [each.observation() for each in rows[2:]]
    assert again.next_position() == 10
    again.close()


def test_rows_come_back_whole(ledger: SqliteLedger) -> None:
    rows = [row(1), row(2, first_byte_s=None, prompt_tokens=None, kind="probe", reason="late")]
    ledger.append(rows)
    bare = [replace(each, scores=tuple(replace(score, explanation={}) for score in each.scores)) for each in rows]
    assert list(ledger.rows(1)) == bare


def test_a_pair_has_its_bodies_and_explanations(ledger: SqliteLedger) -> None:
    whole = row(5, bodies=replace(bodies("täxt"), control=b"\xff\x00"))
    ledger.append([whole, row(6)])
    assert ledger.pair("id-5") == whole
    assert ledger.pair("id-6") is None  # its bodies were not kept
    assert ledger.pair("nobody") is None


def test_a_probe_is_found_beside_the_exchange_it_was_planted_in(ledger: SqliteLedger) -> None:
    ledger.append([row(1, id="x", bodies=bodies()), row(2, id="x", kind="probe", bodies=bodies())])
    found = [ledger.pair("x"), ledger.pair("x", "live"), ledger.pair("x", "probe")]
    assert [pair.position if pair else None for pair in found] == [1, 1, 2]


def test_pairs_are_filtered_and_paged_from_the_latest(ledger: SqliteLedger) -> None:
    # odd positions mismatch; every third has no bodies
    ledger.append([row(n, bodies=None if n % 3 == 0 else bodies()) for n in range(1, 21)])

    def positions(**filters: Any) -> list[int]:
        chosen = {"limit": 100, "before": None, "score": None, "mismatched": False, **filters}
        return [pair.position for pair in ledger.pairs(**chosen)]

    kept = [n for n in range(20, 0, -1) if n % 3]
    assert positions() == kept
    assert positions(mismatched=True) == [n for n in kept if n % 2]
    assert positions(score="tool_call_mismatch", mismatched=True) == [n for n in kept if n % 2]
    assert positions(score="logprob_kl") == kept
    assert positions(score="logprob_kl", mismatched=True) == []
    assert positions(score="json_invalid") == []  # never a number
    assert positions(before=10, limit=2) == [8, 7]
    first = ledger.pairs(limit=1, before=None, score=None, mismatched=False)[0]
    assert (first.bodies, first.scores[0].explanation) == (None, {"rung": "args"})


def test_an_equal_contract_is_the_same_epoch(ledger: SqliteLedger) -> None:
    assert ledger.open_epoch({"reference": "r"}, "again", 2.0) == 1
    assert ledger.open_epoch({"reference": "s", "n": 1}, "changed", 3.0) == 2
    assert ledger.open_epoch({"n": 1, "reference": "s"}, "order of keys", 4.0) == 2
    assert ledger.open_epoch({"reference": "r"}, "back", 5.0) == 3
    assert ledger.latest_epoch() == (3, {"reference": "r"})
    assert [epoch.closed_unix_s for epoch in ledger.epochs()] == [3.0, 5.0, None]


def test_epochs_do_not_mix(ledger: SqliteLedger) -> None:
    ledger.append([row(0)])
    ledger.open_epoch({"reference": "s"}, "changed", 2.0)
    ledger.append([row(1, epoch=2), row(2, epoch=1), row(3, epoch=2)])
    assert [seen.position for seen in ledger.observations(1)] == [0, 2]
    assert [seen.position for seen in ledger.observations(2)] == [1, 3]


def test_an_epoch_that_was_never_opened_is_refused(ledger: SqliteLedger) -> None:
    with pytest.raises(LedgerError, match="epoch 9"):
        ledger.append([row(0, epoch=9)])
    with pytest.raises(LedgerError, match="no epoch 9"):
        list(ledger.observations(9))


def test_positions_must_rise(ledger: SqliteLedger) -> None:
    with pytest.raises(LedgerError, match="rising"):
        ledger.append([row(2), row(1)])
    ledger.append([row(5)])
    with pytest.raises(LedgerError, match="behind"):
        ledger.append([row(4)])
    with pytest.raises(LedgerError, match="behind"):
        ledger.append([row(5, id="another")])
    assert [seen.position for seen in ledger.observations(1)] == [5]


def test_a_batch_offered_again_is_not_written_twice(ledger: SqliteLedger) -> None:
    ledger.append([row(1), row(2)])
    ledger.append([row(1), row(2), row(3)])
    assert [seen.position for seen in ledger.observations(1)] == [1, 2, 3]
    assert ledger.stats().rows == 3


def test_a_refused_batch_leaves_nothing_behind(ledger: SqliteLedger) -> None:
    bad = row(2, scores=(ScoreRow("candidate", "brand_new", float("nan"), None),))
    with pytest.raises(LedgerError, match="brand_new"):
        ledger.append([row(1, bodies=bodies()), bad])
    assert list(ledger.observations(1)) == []
    good = row(2, scores=(ScoreRow("candidate", "brand_new", 1.0, None),))
    ledger.append([row(1), good])  # names and layouts of the failed try must not be remembered
    assert list(ledger.observations(1)) == [row(1).observation(), good.observation()]


def test_a_full_disk_says_so_and_loses_nothing(ledger: SqliteLedger) -> None:
    ledger.append([row(0)])
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own SQLITE_FULL
    batch = [row(n, id=f"{n}" * 50) for n in range(1, 500)]
    with pytest.raises(LedgerError, match=r"disk is full.*ledger\.max_bytes"):
        ledger.append(batch)
    assert [seen.position for seen in ledger.observations(1)] == [0]

    ledger._connection.execute("PRAGMA max_page_count = 1000000")
    ledger.append(batch)  # the same batch, when there is room again
    assert len(list(ledger.observations(1))) == 500


def test_numbers_are_those_of_live_rows_with_a_worker(ledger: SqliteLedger) -> None:
    ledger.append([row(0), row(1, kind="probe", sequence=0), row(2, worker="", sequence=-1), row(3, worker="1-9")])
    assert set(ledger.numbers(100)) == {("0-123", 0), ("1-9", 3)}
    assert set(ledger.numbers(1)) == {("1-9", 3), ("0-123", 0)}  # the latest row, and the last of each worker


def test_events_and_checkpoints_are_kept(ledger: SqliteLedger) -> None:
    ledger.event("pause", {"by": "operator"}, 5.0)
    ledger.append([row(n) for n in range(4)])
    assert ledger.checkpoint_of(1) is None
    ledger.checkpoint(1, 2, '{"e": 1.5}')
    ledger.checkpoint(1, 1, '{"e": 0}')  # never back
    found = ledger.checkpoint_of(1)
    assert found is not None
    assert (found.position, found.state_json) == (2, '{"e": 1.5}')
    assert [(event.kind, event.detail) for event in ledger.events()] == [("pause", {"by": "operator"})]
    with pytest.raises(LedgerError, match="ahead"):
        ledger.checkpoint(1, 9, "{}")


def test_what_clients_and_upstreams_choose_cannot_break_a_batch(ledger: SqliteLedger) -> None:
    odd = row(
        0,
        path="/v1/" + "\udcff" * 500,
        prompt_tokens=10**30,
        scores=(ScoreRow("candidate", "tool_call_mismatch", 1.0, None, {"left": 10**40, "s": "\ud800", "o": {1}}),),
        bodies=bodies(),
    )
    ledger.append([odd])
    found = ledger.pair("id-0")
    assert found is not None
    assert (len(found.path), found.prompt_tokens) == (128, 2**63 - 1)
    assert found.scores[0].explanation["left"] == 10**40


def test_reading_never_waits_for_the_writer(ledger: SqliteLedger) -> None:
    ledger.append([row(0, bodies=bodies())])
    ledger._connection.execute("BEGIN IMMEDIATE")  # the writer is in the middle of something
    try:
        started = time.perf_counter()
        assert len(ledger.pairs(limit=5, before=None, score=None, mismatched=False)) == 1
        assert len(list(ledger.observations(1))) == 1
        assert time.perf_counter() - started < 2.0  # far below the busy time-out of 5 s
    finally:
        ledger._connection.execute("ROLLBACK")


def test_a_reader_in_the_middle_does_not_stop_the_writer(ledger: SqliteLedger) -> None:
    ledger.append([row(n) for n in range(2000)])
    reading = ledger.observations(1)
    next(reading)
    ledger.append([row(2000)])
    assert sum(1 for _ in reading) == 1999  # a snapshot of when it began
    assert ledger.next_position() == 2001


def test_threads_may_read_while_one_writes(ledger: SqliteLedger) -> None:
    ledger.append([row(0, bodies=bodies())])
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(20):
                assert ledger.pair("id-0") is not None
                assert ledger.stats().rows >= 1
        except BaseException as error:  # noqa: BLE001  carried to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(1, 40):
        ledger.append([row(n, bodies=bodies())])
    for thread in threads:
        thread.join()
    assert failures == []


def test_after_closing_every_call_is_a_ledger_error(path: Path) -> None:
    ledger = opened(path)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError):
        ledger.event("pause", {}, 1.0)


def test_a_closed_ledger_is_one_file_that_reads_the_same(ledger: SqliteLedger, path: Path) -> None:
    ledger.append([row(n, bodies=bodies()) for n in range(3)])
    ledger.close()
    assert not path.with_name(path.name + "-wal").exists()
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [seen.position for seen in open_read_only(path).observations(1)] == [0, 1, 2]


_WRITES_FOR_EVER = """
import sys
from pathlib import Path
from tests.unit.monitor_samples import bodies, row
from tests.unit.test_monitor_ledger import opened
ledger = opened(Path(sys.argv[1]))
epoch = ledger.open_epoch({}, "", 0.0)
position = ledger.next_position()
while True:
    batch = [row(n, bodies=bodies() if n % 7 == 0 else None) for n in range(position, position + 5)]
    ledger.append(batch)
    position += 5
    print(position - 1, flush=True)
"""


def test_kill_9_loses_nothing_acknowledged_and_counts_nothing_twice(path: Path) -> None:
    chance = random.Random(7)
    acknowledged = -1
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITES_FOR_EVER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        assert child.stdout is not None
        for _ in range(chance.randint(1, 60)):
            acknowledged = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        told = child.stdout.read().split()  # what it had said before the signal came
        acknowledged = int(told[-1]) if told else acknowledged
        child.wait()
        child.stdout.close()

        ledger = opened(path)
        positions = [seen.position for seen in ledger.observations(1)]
        assert positions == list(range(len(positions)))
        assert len(positions) > acknowledged
        assert ledger.stats().rows == len(positions)
        assert ledger._connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        ledger.close()
