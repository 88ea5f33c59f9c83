"""A ledger that is not whole: it says so, or its verdict is what it was. Never a verdict over a part of it.

What a file alone cannot tell: that the end of its WAL is missing. Such a ledger is whole, and as it was a moment
earlier; the next monitor counts the numbers that its relays gave out since as lost. And that a score has another bit
than the one that was written: SQLite keeps no checksums.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import LedgerError
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.watch import gate_of
from proxy.report.recompute import recompute
from proxy.settings import LedgerSettings
from scorers.judge import Budget, GateRules
from tests.unit.monitor_samples import bodies, is_mismatch, row

ROWS = 500
PAGE = 4096


@dataclass(frozen=True)
class Ledgers:
    """One ledger in a folder of its own as a monitor left it, and the verdicts that it gave, the last one last."""

    folder: Path
    verdicts: list[Any]

    def copy(self, to: Path) -> Path:
        """A copy to damage."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder, to)
        return to / "l"


def opened(path: Path) -> SqliteLedger:
    return SqliteLedger(LedgerSettings(path=path), is_mismatch=is_mismatch)


def written(path: Path) -> Iterator[SqliteLedger]:
    """The ledger after each of its batches."""
    budgets = [Budget("tool_call_mismatch", 0.03, bounded=True, critical=True)]
    ledger, chance, position = opened(path), random.Random(1), 0
    contract = {"recipe": "r", "gate": gate_of(budgets, GateRules()), "long": "x" * 3 * PAGE}  # so that it overflows
    ledger.open_epoch(contract, "first", 1.0)
    while position < ROWS:
        size = chance.randint(1, 40)
        batch = [row(n, bodies=bodies() if n % 10 == 0 else None) for n in range(position, position + size)]
        ledger.append(batch)
        position += size
        yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def drained(tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    """As a monitor leaves it that ends in order: one file."""
    path = tmp_path_factory.mktemp("drained") / "l"
    for _ in written(path):
        pass
    return Ledgers(path.parent, [recompute(path)])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Ledgers:
    """As a killed monitor leaves it: the file as of some checkpoint, and a WAL."""
    path, left = tmp_path_factory.mktemp("live") / "l", tmp_path_factory.mktemp("killed")
    verdicts = []
    for number, ledger in enumerate(written(path)):
        if number == 10:
            ledger._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            verdicts = []  # nothing before it can come back
        verdicts.append(recompute(path))
        for name in ("l", "l-wal"):
            shutil.copy(path.parent / name, left / name)
    assert (left / "l-wal").stat().st_size > 10 * PAGE
    return Ledgers(left, verdicts)


def outcome(path: Path) -> Any:
    """The verdict, or None when the ledger refuses to give one. Anything else fails."""
    try:
        return recompute(path)
    except LedgerError as error:
        told = str(error)
        assert "\n" not in told
        return None


def resumed(path: Path) -> Any:
    """The same, after a monitor has opened it to write on."""
    try:
        opened(path).close()
    except LedgerError:
        return None
    return outcome(path)


def lengths(size: int) -> list[int]:
    chance = random.Random(size)
    return sorted({chance.randrange(size) for _ in range(120)} | set(range(0, size, PAGE)) | {size - 1})


@pytest.mark.parametrize("look", [outcome, resumed])
@pytest.mark.parametrize("left", ["drained", "killed"])
def test_a_file_cut_anywhere(
    left: str, look: Callable[[Path], Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ledgers: Ledgers = request.getfixturevalue(left)
    refusals = 0
    for length in lengths((ledgers.folder / "l").stat().st_size):
        path = ledgers.copy(tmp_path / "cut")
        with path.open("r+b") as file:
            file.truncate(length)
        found = look(path)
        refusals += found is None
        if length or left == "killed" or look is outcome:
            assert found in (None, ledgers.verdicts[-1]), length
    assert refusals > 20


@pytest.mark.parametrize("look", [outcome, resumed])
def test_a_wal_cut_anywhere_is_the_ledger_of_a_moment_earlier(
    killed: Ledgers, look: Callable[[Path], Any], tmp_path: Path
) -> None:
    seen: list[int] = []
    for length in lengths((killed.folder / "l-wal").stat().st_size):
        path = killed.copy(tmp_path / "cut")
        with (tmp_path / "cut" / "l-wal").open("r+b") as file:
            file.truncate(length)
        found = look(path)
        assert found in killed.verdicts, length
        seen.append(killed.verdicts.index(found))
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


@pytest.mark.parametrize("gone", [True, False])
def test_a_wal_whose_file_is_gone_is_not_written_over(killed: Ledgers, gone: bool, tmp_path: Path) -> None:
    path = killed.copy(tmp_path / "left")
    path.unlink() if gone else path.write_bytes(b"")
    wal = (tmp_path / "left" / "l-wal").read_bytes()
    for attempt in (opened, open_read_only):
        with pytest.raises(LedgerError, match=r"l-wal is left of it; restore both"):
            attempt(path)
    assert (tmp_path / "left" / "l-wal").read_bytes() == wal


@pytest.mark.parametrize("position", [0, 1, 250, 499])
def test_a_row_that_is_gone_is_missed(drained: Ledgers, position: int, tmp_path: Path) -> None:
    path = drained.copy(tmp_path / "less")
    with sqlite3.connect(path) as raw:
        raw.execute("DELETE FROM exchanges WHERE position = ?", (position,))
        count = raw.execute("SELECT count(*) FROM exchanges").fetchone()[0]
    raw.close()
    told = rf"{count + 1} rows were written and {count} are there"
    with pytest.raises(LedgerError, match=told):
        recompute(path)
    reader = open_read_only(path)
    with pytest.raises(LedgerError, match=told):
        list(reader.rows(1))
    for after in (0, 200, 480):  # wherever a fold begins
        with pytest.raises(LedgerError, match="are there"):
            list(reader.observations(1, after=after))


def test_a_row_too_many_is_no_evidence(drained: Ledgers, tmp_path: Path) -> None:
    path = drained.copy(tmp_path / "more")
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE epochs SET row_count = row_count - 1")
    raw.close()
    with pytest.raises(LedgerError, match="are there"):
        recompute(path)


def test_a_flipped_bit_is_an_error_or_a_verdict_and_never_a_crash(drained: Ledgers, tmp_path: Path) -> None:
    whole = (drained.folder / "l").read_bytes()
    path, chance, refused = tmp_path / "l", random.Random(5), 0
    for _ in range(400):
        damaged, where = bytearray(whole), chance.randrange(len(whole))
        damaged[where] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        refused += outcome(path) is None
    assert refused > 20


def test_a_page_that_a_full_disk_cut_short_is_whole_in_the_wal(killed: Ledgers, tmp_path: Path) -> None:
    """A checkpoint that could not be written through: the monitor's next start does it again."""
    path = killed.copy(tmp_path / "part")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    assert outcome(path) is None  # a reader alone cannot tell
    assert resumed(path) == killed.verdicts[-1]
