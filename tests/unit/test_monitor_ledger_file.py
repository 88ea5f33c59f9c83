"""Every ledger that cannot be used says why and what to do, in one line."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.errors import LedgerError
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.ledger_file import SCHEMA_VERSION
from proxy.monitor.ledger_reader import open_read_only
from proxy.settings import LedgerSettings
from tests.unit.monitor_samples import is_mismatch, row


def opened(path: Path) -> SqliteLedger:
    return SqliteLedger(LedgerSettings(path=path), is_mismatch=is_mismatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed ledger with rows over several pages."""
    path = tmp_path / "ledger.sqlite"
    ledger = opened(path)
    ledger.open_epoch({}, "first", 1.0)
    ledger.append([row(n) for n in range(500)])
    ledger.close()
    return path


def refused(path: Path, *words: str) -> None:
    """Writing and reading both refuse, in one line with these words, and leave the file as it was."""
    before = path.read_bytes() if path.is_file() else None
    for attempt in (opened, open_read_only):
        with pytest.raises(LedgerError) as caught:
            attempt(path)
        told = str(caught.value)
        assert "\n" not in told
        assert str(path) in told
        for word in words:
            assert word in told
    assert (path.read_bytes() if path.is_file() else None) == before


def test_another_version(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    refused(path, "version 99", f"version {SCHEMA_VERSION}", "move the file away")


def test_a_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE t (x)")
    raw.close()
    refused(path, "something else", "ledger.path")


@pytest.mark.parametrize("content", [b"x", b"not a database at all, but a text of some length " * 50])
def test_not_a_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    refused(path, "not a database", "ledger.path")


def test_cut_short(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 // 4096 * 4096])
    refused(path, "corrupt", "restore it from a copy")


def test_torn_in_the_middle(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    for page in range(3, len(whole) // 4096):
        whole[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(whole)
    with pytest.raises(LedgerError, match="corrupt"):
        opened(path)
    with pytest.raises(LedgerError, match="corrupt"):
        list(open_read_only(path).observations(1))


def test_a_directory(tmp_path: Path) -> None:
    refused(tmp_path, "directory", "ledger.path")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"directory that exists.*may write"):
        opened(tmp_path / "nowhere" / "ledger.sqlite")


def test_no_ledger_to_read(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such ledger"):
        open_read_only(tmp_path / "ledger.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_written_by_another(path: Path) -> None:
    first = opened(path)
    with pytest.raises(LedgerError, match=rf"another monitor \(pid {os.getpid()}\) is writing it"):
        opened(path)
    first.event("still", {}, 1.0)  # the one that was there first goes on
    first.close()
    opened(path).close()


def test_a_failed_opening_leaves_it_free(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="version"):
        opened(path)
    with raw:
        raw.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    raw.close()
    opened(path).close()


def test_a_creation_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
    raw.execute("PRAGMA journal_mode = WAL")
    raw.close()
    assert path.stat().st_size > 0
    ledger = opened(path)
    assert ledger.open_epoch({}, "first", 1.0) == 1
    ledger.close()


def test_an_open_transaction_of_a_shell_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.monitor.ledger_file.BUSY_TIMEOUT_MS", 50)
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="another program holds it locked"):
        opened(path)
    shell.close()


@pytest.fixture
def public(path: Path) -> Iterator[Path]:
    """The ledger in a directory that anybody may read (pytest's own are private)."""
    directory = Path(tempfile.mkdtemp(prefix="parity-"))
    directory.chmod(0o755)
    copy = directory / "ledger.sqlite"
    shutil.copy(path, copy)
    copy.chmod(0o444)
    yield copy
    shutil.rmtree(directory)


def _as_nobody(path: Path) -> list[str]:
    """What a process without any right to write sees: how many rows it reads, and what writing is told."""
    reading, writing = os.pipe()
    child = os.fork()  # not exec: the interpreter itself may lie where nobody may look
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            told = [str(sum(1 for _ in open_read_only(path).observations(1)))]
            try:
                opened(path)
            except LedgerError as error:
                told.append(str(error))
            os.write(writing, "\n".join(told).encode())
        except BaseException as error:  # noqa: BLE001  told to the parent, which fails on it
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read().splitlines()
    os.waitpid(child, 0)
    return told


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("lock_writable", [True, False])
def test_read_only(public: Path, lock_writable: bool) -> None:
    if lock_writable:  # the directory can be written, the file cannot
        public.parent.chmod(0o777)
    count, *rest = _as_nobody(public)
    told = " ".join(rest)
    assert count == "500"  # reading needs no right to write
    assert ("read-only" if lock_writable else "may write") in told
    assert "ledger.path" in told


def _modes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}


def test_a_new_ledger_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    before = os.umask(0o022)
    try:
        ledger = opened(path)
        ledger.open_epoch({}, "first", 1.0)
        ledger.append([row(1)])
        names = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "ledger.sqlite.lock")
        assert _modes(path) == dict.fromkeys(names, 0o600)
        ledger.close()
    finally:
        os.umask(before)


def test_the_mode_of_a_ledger_that_is_there_stays_the_operators(path: Path) -> None:
    path.chmod(0o640)
    ledger = opened(path)
    ledger.append([row(1_000)])
    assert _modes(path)["ledger.sqlite"] == _modes(path)["ledger.sqlite-wal"] == 0o640
    ledger.close()


def as_version_1(path: Path) -> None:
    """The file as it was before it knew how the reference's reply was come by."""
    with sqlite3.connect(path) as raw:
        raw.execute("ALTER TABLE exchanges DROP COLUMN reference_answer")
        raw.execute("ALTER TABLE exchanges DROP COLUMN reference_tokens")
        raw.execute("PRAGMA user_version = 1")
    raw.close()


def test_a_file_of_version_1_is_brought_up_to_date_by_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = opened(path)
    ledger.open_epoch({}, "first", 1.0)
    ledger.append([row(0)])
    ledger.close()
    as_version_1(path)
    with pytest.raises(LedgerError, match=r"version 1 and this parity reads version 2; start the monitor on it once"):
        open_read_only(path)
    again = opened(path)
    again.append([row(1)])
    old, new = again.rows(1)
    assert (old.reference_answer, old.reference_tokens) == ("", ())
    assert (old.scores, new.reference_tokens) == (
        tuple(replace(s, explanation={}) for s in row(0).scores),
        row(1).reference_tokens,
    )
    again.close()
    assert len(list(open_read_only(path).observations(1))) == 2
