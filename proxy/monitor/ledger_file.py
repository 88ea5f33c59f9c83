"""The ledger's file: its schema, who may write it, and what is wrong with it, in one line that names the fix.

WAL with synchronous = NORMAL: a committed row is in the kernel's hands before `append` returns, so `kill -9` of
the monitor loses none; a power cut may lose the last moments but never tears the file. One live writer at a time,
by an flock on PATH.lock: on a file of its own, because closing any descriptor of a database drops the POSIX locks
that SQLite holds on it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.errors import LedgerError

APPLICATION_ID = 0x50415249  # "PARI"
SCHEMA_VERSION = 2
BUSY_TIMEOUT_MS = 5_000  # *choice*: readers never block the writer in WAL; this covers a checkpoint's instant
PAGE_BYTES = 4096
SMALLEST_BYTES = 512  # Source: SQLite's file format, the smallest page
WAL_LIMIT_BYTES = 16 * 1024 * 1024  # *choice*: what the WAL is cut back to after a checkpoint
FULL_CHECK_BYTES = 64 * 1024 * 1024  # *choice*: up to here every page is checked at opening, in well under 1 s

_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_CORRUPT = "it is corrupt ({}); restore it from a copy, or move it away"
_SCHEMA = """
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE shapes (id INTEGER PRIMARY KEY, slots TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE epochs (
  number INTEGER PRIMARY KEY, contract TEXT NOT NULL, reason TEXT NOT NULL,
  opened_unix_s REAL NOT NULL, closed_unix_s REAL,
  first_position INTEGER, last_position INTEGER,
  row_count INTEGER NOT NULL DEFAULT 0, pruned_through INTEGER NOT NULL DEFAULT -1) STRICT;
CREATE TABLE exchanges (
  position INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, id TEXT NOT NULL,
  worker INTEGER NOT NULL, sequence INTEGER NOT NULL, kind INTEGER NOT NULL, sampled_unix_s REAL NOT NULL,
  disposition INTEGER NOT NULL, reason INTEGER, stratum INTEGER,
  path TEXT NOT NULL, status INTEGER NOT NULL, outcome INTEGER NOT NULL,
  duration_s REAL NOT NULL, first_byte_s REAL,
  prompt_tokens INTEGER, reference_prompt_tokens INTEGER, completion_tokens INTEGER,
  shape INTEGER NOT NULL, scores BLOB NOT NULL, reference_answer INTEGER, reference_tokens TEXT) STRICT;
CREATE TABLE bodies (
  position INTEGER PRIMARY KEY, id TEXT NOT NULL, mismatched INTEGER NOT NULL, explanations BLOB NOT NULL,
  request BLOB NOT NULL, candidate BLOB NOT NULL, reference BLOB NOT NULL, control BLOB) STRICT;
CREATE INDEX bodies_by_id ON bodies (id);
CREATE INDEX bodies_mismatched ON bodies (position) WHERE mismatched;
CREATE TABLE body_scores (
  name INTEGER NOT NULL, position INTEGER NOT NULL, mismatched INTEGER NOT NULL,
  PRIMARY KEY (name, position)) STRICT, WITHOUT ROWID;
CREATE TABLE events (
  number INTEGER PRIMARY KEY, at_unix_s REAL NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL) STRICT;
CREATE TABLE checkpoints (epoch INTEGER PRIMARY KEY, position INTEGER NOT NULL, state TEXT NOT NULL) STRICT;
"""
# From version 1, which did not know how the reference's reply was come by.
_UPGRADE = """
ALTER TABLE exchanges ADD COLUMN reference_answer INTEGER;
ALTER TABLE exchanges ADD COLUMN reference_tokens TEXT;
"""


@contextmanager
def said_plainly(path: Path, doing: str) -> Iterator[None]:
    """Turns SQLite's errors into a LedgerError of one line that names the fix."""
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(f"ledger {path}: cannot {doing}: {_fix(error)}") from error
    except UnicodeDecodeError as error:  # SQLite quotes damaged text in its own message, and the module stumbles on it
        raise LedgerError(f"ledger {path}: cannot {doing}: {_CORRUPT.format(error.reason)}") from error
    except OSError as error:
        raise LedgerError(f"ledger {path}: cannot {doing}: {error.strerror or error}") from error


class WriterLock:
    """The right to write one ledger, held until `release` or the death of the process."""

    def __init__(self, path: Path) -> None:
        """Raises: LedgerError when another live process (or another ledger of this one) holds it."""
        self.path = path.with_name(path.name + ".lock")
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(
                f"ledger {path}: cannot create {self.path.name} beside it ({error.strerror}); "
                "set ledger.path to a directory that exists and that this user may write"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise LedgerError(
                f"ledger {path}: another monitor (pid {holder}) is writing it; "
                "stop that one, or set another ledger.path"
            ) from None
        except OSError as error:
            os.close(self._fd)
            raise LedgerError(
                f"ledger {path}: cannot lock {self.path.name} ({error.strerror}); "
                "set ledger.path to a local file system"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """The lock is free; the empty file stays, for unlinking a lock file is a race."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_writer(path: Path) -> sqlite3.Connection:
    """A connection that may write; the file is created when it is not there. The caller holds the WriterLock.

    Raises:  LedgerError.
    """
    fresh = _check_file(path)
    with said_plainly(path, "open it"):
        if not path.exists():
            # Prompts and replies go in here. SQLite gives -wal and -shm the mode of the file.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _configure(connection)
            if not fresh and not _is_blank(connection):
                _check_version(connection, path, oldest=1)  # before anything that would change somebody else's file
            else:
                fresh = True  # also when its creation was cut off by a kill
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table, or it has no effect
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
            if fresh:
                _create(connection)
            elif connection.execute("PRAGMA user_version").fetchone()[0] < SCHEMA_VERSION:
                connection.executescript(f"BEGIN IMMEDIATE; {_UPGRADE} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            if _ends_inside_a_page(connection, path):  # a write that a full disk cut short is still in the WAL, whole
                connection.execute("PRAGMA wal_checkpoint(FULL)")
                _check_end(connection, path)
            _check_pages(connection, path)
            connection.execute("BEGIN IMMEDIATE")
            # A read-only file is found out now, not at the first row. BEGIN alone would not: it becomes a reader's.
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("ROLLBACK")
        except BaseException:  # the descriptor must not stay open; re-raised as it came
            connection.close()
            raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read, beside a live monitor or long after it.

    Raises:  LedgerError.
    """
    if _check_file(path):
        raise LedgerError(f"ledger {path}: there is no such ledger; give the path of one that a monitor has written")
    uri = path.absolute().as_uri()
    with said_plainly(path, "read it"):
        try:
            connection = _connect_reading(f"{uri}?mode=ro")
        except sqlite3.OperationalError as error:
            # A WAL database in a directory that we may not write has no place for its index. Without anything in
            # the WAL the file alone is whole, and it may be read as it stands; unless somebody holds it locked.
            wal = path.with_name(path.name + "-wal")
            if _primary(error) in _LOCKED or (wal.exists() and wal.stat().st_size > 0):
                raise
            connection = _connect_reading(f"{uri}?mode=ro&immutable=1")
        try:
            _check_version(connection, path)
            _check_end(connection, path)
        except BaseException:  # the descriptor must not stay open; re-raised as it came
            connection.close()
            raise
    return connection


def _connect_reading(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        _configure(connection)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:  # the descriptor must not stay open; re-raised as it came
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def _check_file(path: Path) -> bool:
    """True when there is nothing there yet. Raises: LedgerError for a directory, and for a WAL without its file.

    By stat alone: opening the file here would, on closing it, drop the locks of a live connection of this process.
    """
    with said_plainly(path, "open it"):
        if path.is_dir():
            raise LedgerError(f"ledger {path}: is a directory; set ledger.path to a file")
        size = path.stat().st_size if path.exists() else 0
        if 0 < size < SMALLEST_BYTES:  # SQLite would take it for an empty one and write over it
            raise LedgerError(f"ledger {path}: is not a database; set ledger.path to another file, or move it away")
        wal = path.with_name(path.name + "-wal")
        if size == 0 and wal.exists() and wal.stat().st_size > 0:  # SQLite would delete it, and begin a new ledger
            raise LedgerError(
                f"ledger {path}: is gone or was cut to nothing, and {wal.name} is left of it; "
                "restore both from a copy, or move that away too"
            )
        return size == 0


def _is_blank(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return bool(tables == 0 and connection.execute("PRAGMA application_id").fetchone()[0] == 0)


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(
        f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
        f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def _check_version(connection: sqlite3.Connection, path: Path, oldest: int = SCHEMA_VERSION) -> None:
    """Raises: LedgerError. A writer brings a file from version `oldest` on up to date; a reader cannot."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise LedgerError(f"ledger {path}: is a database of something else; set ledger.path to another file")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if 1 <= version < SCHEMA_VERSION and oldest > version:
        raise LedgerError(
            f"ledger {path}: has version {version} and this parity reads version {SCHEMA_VERSION}; "
            "start the monitor on it once, which brings it up to date"
        )
    if not oldest <= version <= SCHEMA_VERSION:
        raise LedgerError(
            f"ledger {path}: has version {version} and this parity reads version {SCHEMA_VERSION}; "
            "use the parity that wrote it, or move the file away to start a new ledger"
        )


def _ends_inside_a_page(connection: sqlite3.Connection, path: Path) -> bool:
    return bool(path.stat().st_size % connection.execute("PRAGMA page_size").fetchone()[0])


def _check_end(connection: sqlite3.Connection, path: Path) -> None:
    # SQLite fills up such a page with zeros, and zeros are good numbers.
    if _ends_inside_a_page(connection, path):
        raise LedgerError(
            f"ledger {path}: is corrupt (it was cut short inside a page); restore it from a copy, or move it away"
        )


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    if pages * PAGE_BYTES > FULL_CHECK_BYTES:
        return
    finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise LedgerError(f"ledger {path}: is corrupt ({finding}); restore it from a copy, or move it away")


def _primary(error: sqlite3.Error) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _fix(error: sqlite3.Error) -> str:
    primary = _primary(error)
    if primary == sqlite3.SQLITE_FULL:
        return "the disk is full; free some space, or lower ledger.max_bytes or ledger.retention_days"
    if primary == sqlite3.SQLITE_READONLY:
        return "the file is read-only for this user; make it writable, or set another ledger.path"
    if primary in _LOCKED:
        return "another program holds it locked; close that one (an open sqlite3 shell?), then try again"
    if primary == sqlite3.SQLITE_NOTADB:
        return "it is not a database; set ledger.path to another file, or move this one away"
    if primary == sqlite3.SQLITE_CORRUPT:
        return _CORRUPT.format(error)
    if primary == sqlite3.SQLITE_CANTOPEN:
        return "the file or its directory cannot be opened; check that both exist and their permissions"
    if primary == sqlite3.SQLITE_IOERR:
        return f"{error}; check the disk's space and health"
    return str(error)
