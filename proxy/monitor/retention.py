"""What leaves the ledger, and when: bodies first, then rows, oldest first, and never what a verdict still needs.

By age: bodies and rows older than the limit. By size: past `max_bytes` (the WAL counted), bodies, then rows.
A row may go when its epoch is closed, or when a stored checkpoint of its epoch covers it: evidence is then the
checkpoint plus the later rows. Rows of the current epoch past its checkpoint stay, whatever their age or size.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK_ROWS = 1_000  # *choice*: what one transaction deletes; nobody waits longer than that
CHUNK_BODIES = 10  # *choice*: they are large, and no more than needed should go
VACUUM_PAGES = 4_096  # *choice*: 16 MiB a step
SHRINK_TO = 0.9  # *choice*: down to nine tenths, so that not every call has to shrink again

_log = logging.getLogger(__name__)


def prune(connection: sqlite3.Connection, path: Path, oldest_unix_s: float, max_bytes: int) -> int:
    """How many bodies and rows went: what is older than `oldest_unix_s`, then the oldest until `max_bytes` holds.

    Raises:  sqlite3.Error.
    """
    gone = 0
    while chunk := _drop_bodies(connection, oldest_unix_s):
        gone += chunk
    while chunk := _drop_rows(connection, oldest_unix_s):
        gone += chunk
    gone += _shrink(connection, path, max_bytes)
    _give_back(connection)
    return gone


def _shrink(connection: sqlite3.Connection, path: Path, max_bytes: int) -> int:
    wal = path.with_name(path.name + "-wal")
    if _live_bytes(connection) + (wal.stat().st_size if wal.exists() else 0) <= max_bytes:
        return 0
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    gone = 0
    if _live_bytes(connection) <= max_bytes:
        return 0
    while _live_bytes(connection) > max_bytes * SHRINK_TO:
        chunk = _drop_bodies(connection, None) or _drop_rows(connection, None)
        if not chunk:
            _log.warning("the ledger is past ledger.max_bytes and every row left is needed for the verdict")
            break
        gone += chunk
    return gone


def _drop_bodies(connection: sqlite3.Connection, oldest_unix_s: float | None) -> int:
    """One chunk of the oldest bodies, stopping at the first one that is young enough (None: at none)."""
    found = connection.execute(
        "SELECT b.position, e.sampled_unix_s FROM bodies b LEFT JOIN exchanges e ON e.position = b.position "
        f"ORDER BY b.position LIMIT {CHUNK_ROWS if oldest_unix_s is not None else CHUNK_BODIES}"
    ).fetchall()
    last = None
    for position, sampled_unix_s in found:
        if oldest_unix_s is not None and sampled_unix_s is not None and sampled_unix_s >= oldest_unix_s:
            break
        last = position
    if last is None:
        return 0
    with _transaction(connection):
        return _drop_bodies_through(connection, last)


def _drop_bodies_through(connection: sqlite3.Connection, last: int) -> int:
    for (name,) in connection.execute("SELECT id FROM names").fetchall():
        connection.execute("DELETE FROM body_scores WHERE name = ? AND position <= ?", (name, last))
    return connection.execute("DELETE FROM bodies WHERE position <= ?", (last,)).rowcount


def _drop_rows(connection: sqlite3.Connection, oldest_unix_s: float | None) -> int:
    """One chunk of the oldest rows, stopping at the first one that is young enough or still needed."""
    covered: dict[int, int] = dict(
        connection.execute(
            "SELECT e.number, CASE WHEN e.closed_unix_s IS NOT NULL THEN 9223372036854775807 "
            "ELSE coalesce(c.position, -1) END FROM epochs e LEFT JOIN checkpoints c ON c.epoch = e.number"
        ).fetchall()
    )
    through: dict[int, int] = {}
    counts: dict[int, int] = {}
    last = None
    for position, epoch, sampled_unix_s in connection.execute(
        f"SELECT position, epoch, sampled_unix_s FROM exchanges ORDER BY position LIMIT {CHUNK_ROWS}"
    ):
        young = oldest_unix_s is not None and sampled_unix_s >= oldest_unix_s
        if young or position > covered.get(epoch, -1):
            break
        last = through[epoch] = position
        counts[epoch] = counts.get(epoch, 0) + 1
    if last is None:
        return 0
    with _transaction(connection):
        bodies = _drop_bodies_through(connection, last)
        rows = connection.execute("DELETE FROM exchanges WHERE position <= ?", (last,)).rowcount
        connection.executemany(
            "UPDATE epochs SET pruned_through = ?, row_count = row_count - ? WHERE number = ?",
            [(through[epoch], counts[epoch], epoch) for epoch in through],
        )
        return bodies + rows


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:  # half a deletion must not stay; re-raised as it came
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _live_bytes(connection: sqlite3.Connection) -> int:
    """What the file would take with its free pages given back."""
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return int((pages - free) * connection.execute("PRAGMA page_size").fetchone()[0])


def _give_back(connection: sqlite3.Connection) -> None:
    """Free pages leave the file, and the WAL is cut; a reader in the middle of something delays the latter."""
    while free := connection.execute("PRAGMA freelist_count").fetchone()[0]:
        # A script, because execute() would stop after the first page; in steps, so that the WAL stays small.
        connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES}); PRAGMA wal_checkpoint(TRUNCATE);")
        if connection.execute("PRAGMA freelist_count").fetchone()[0] >= free:
            break
