"""What leaves the ledger is old or too much, bodies before rows, and never what a verdict still needs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import LedgerError
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.rows import PairBodies
from proxy.settings import MIB, LedgerSettings
from scorers.records import Observation
from tests.unit.monitor_samples import bodies, is_mismatch, row

DAY_S = 86_400.0
T0 = 1_000_000.0  # when position 0 was sampled; one row a second after it


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    settings = LedgerSettings(path=tmp_path / "ledger.sqlite", retention_days=1.0, max_bytes=2 * MIB)
    ledger = SqliteLedger(settings, is_mismatch=is_mismatch)
    ledger.open_epoch({"n": 1}, "first", 1.0)
    yield ledger
    ledger.close()


def kept_bodies(ledger: SqliteLedger) -> list[int]:
    return sorted(pair.position for pair in ledger.pairs(limit=500, before=None, score=None, mismatched=False))


def positions(ledger: SqliteLedger, epoch: int, after: int = -1) -> list[int]:
    return [seen.position for seen in ledger.observations(epoch, after)]


def test_nothing_goes_that_is_young_and_small(ledger: SqliteLedger) -> None:
    ledger.append([row(n, bodies=bodies()) for n in range(10)])
    assert ledger.prune(T0 + DAY_S) == 0
    assert kept_bodies(ledger) == list(range(10))


def test_old_bodies_go_and_rows_of_the_current_epoch_stay(ledger: SqliteLedger) -> None:
    ledger.append([row(n, bodies=bodies()) for n in range(10)])
    assert ledger.prune(T0 + DAY_S + 4) == 4
    assert kept_bodies(ledger) == [4, 5, 6, 7, 8, 9]
    assert ledger.pairs(limit=9, before=4, score="logprob_kl", mismatched=False) == []
    assert ledger.pair("id-3") is None
    assert positions(ledger, 1) == list(range(10))


def test_old_rows_of_a_closed_epoch_go_and_reading_them_says_so(ledger: SqliteLedger) -> None:
    ledger.append([row(n, bodies=bodies()) for n in range(6)])
    ledger.open_epoch({"n": 2}, "second", 2.0)
    ledger.append([row(n, epoch=2) for n in range(6, 10)])
    assert ledger.prune(T0 + DAY_S + 4) == 8
    with pytest.raises(LedgerError, match="up to position 3 were pruned"):
        list(ledger.observations(1))
    assert positions(ledger, 1, after=3) == [4, 5]
    assert positions(ledger, 2) == [6, 7, 8, 9]
    assert ledger.stats().rows == 6
    assert ledger.next_position() == 10


def test_rows_of_the_current_epoch_go_up_to_its_checkpoint_only(ledger: SqliteLedger) -> None:
    rows = [row(n) for n in range(10)]
    ledger.append(rows)
    ledger.checkpoint(1, 6, "state after 6")
    assert ledger.prune(T0 + 100 * DAY_S) == 7
    with pytest.raises(LedgerError, match="checkpoint"):
        list(ledger.observations(1))
    found = ledger.checkpoint_of(1)
    assert found is not None
    later: list[Observation] = list(ledger.observations(1, after=found.position))
    assert later == [each.observation() for each in rows[7:]]  # checkpoint + these = the whole


def test_position_and_numbers_survive_a_prune_of_everything(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append([row(n) for n in range(10)])
    ledger.checkpoint(1, 9, "{}")
    assert ledger.prune(T0 + 100 * DAY_S) == 10
    assert ledger.next_position() == 10
    ledger.append([row(10)])
    assert positions(ledger, 1, after=9) == [10]


def test_past_max_bytes_bodies_go_first_and_the_file_shrinks(ledger: SqliteLedger, tmp_path: Path) -> None:
    chance = random.Random(1)
    noise = [PairBodies(chance.randbytes(20_000), chance.randbytes(20_000), b"", None) for _ in range(100)]
    ledger.append([row(n, bodies=noise[n]) for n in range(100)])
    ledger.open_epoch({"n": 2}, "second", 2.0)  # the rows may go too, and must not before the bodies
    assert ledger.stats().file_bytes + ledger.stats().wal_bytes > 4 * MIB
    gone = ledger.prune(T0)
    stats = ledger.stats()
    assert 0 < gone < 100
    assert stats.file_bytes + stats.wal_bytes <= 2 * MIB
    assert kept_bodies(ledger) == list(range(gone, 100))  # the oldest went
    assert positions(ledger, 1) == list(range(100))


def test_past_max_bytes_rows_of_closed_epochs_go_and_needed_ones_stay(ledger: SqliteLedger) -> None:
    ledger.append([row(n) for n in range(8_000)])
    ledger.open_epoch({"n": 2}, "second", 2.0)
    ledger.append([row(n, epoch=2) for n in range(8_000, 30_000)])
    ledger.prune(T0)
    assert positions(ledger, 2) == list(range(8_000, 30_000))  # over the limit, and all of it needed
    with pytest.raises(LedgerError, match="position 7999 were pruned"):
        list(ledger.observations(1))
    ledger.checkpoint(2, 29_999, "{}")
    ledger.prune(T0)
    assert ledger.stats().file_bytes <= 2 * MIB
    assert 0 < ledger.stats().rows < 22_000


def test_appending_goes_on_between_and_after(ledger: SqliteLedger) -> None:
    ledger.append([row(n, bodies=bodies()) for n in range(50)])
    reading = ledger.observations(1)
    next(reading)  # a reader in the middle must not stop it
    assert ledger.prune(T0 + DAY_S + 25) == 25
    assert sum(1 for _ in reading) == 49
    ledger.append([row(50, bodies=bodies())])
    assert kept_bodies(ledger) == list(range(25, 51))
