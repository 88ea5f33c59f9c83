"""One state of the ledger for one call, and whether all the rows that it should hold are there.

SQLite sees damage to its own pages. Damage that it does not see (a row that is gone, a value that nobody wrote) is
found here: by the number of rows that each epoch has written, and by what cannot be read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import LedgerError
from proxy.monitor.ledger_file import open_reader, said_plainly


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection on the ledger as it is now, whatever is written meanwhile.

    Raises:  LedgerError, also in place of what a value that nobody wrote makes the body raise.
    """
    with said_plainly(path, "read it"), closing(open_reader(path)) as connection:
        connection.execute("BEGIN")
        try:
            yield connection
        except (LookupError, TypeError, ValueError) as damage:
            told = str(damage) if type(damage) is ValueError else f"{type(damage).__name__}: {damage}"
            raise LedgerError(
                f"ledger {path}: is corrupt ({told}); restore it from a copy, or move it away"
            ) from damage


@dataclass(slots=True)
class Span:
    """The positions between which an epoch's rows lie, how many were written there, and how many were found."""

    first: int
    last: int
    written: int
    found: int = 0

    def check(self) -> None:
        """Raises: ValueError when it is another number."""
        if self.found != self.written:
            raise ValueError(f"{self.written} rows were written and {self.found} are there")


def span_of(connection: sqlite3.Connection, path: Path, epoch: int, after: int) -> Span | None:
    """The span of an epoch's rows past position `after`; None when it has no rows.

    Raises:  LedgerError when there is no such epoch, or such rows were pruned.
    """
    found = connection.execute(
        "SELECT first_position, last_position, row_count, pruned_through FROM epochs WHERE number = ?", (epoch,)
    ).fetchone()
    if found is None:
        raise LedgerError(f"ledger {path}: has no epoch {epoch}")
    first, last, count, pruned_through = found
    if after < pruned_through:
        raise LedgerError(
            f"ledger {path}: rows of epoch {epoch} up to position {pruned_through} were pruned; "
            "fold from its checkpoint, or raise ledger.retention_days for the next time"
        )
    if first is None:
        return None
    if after >= 0:
        before = "SELECT count(*) FROM exchanges WHERE epoch = ? AND position <= ?"
        count -= connection.execute(before, (epoch, after)).fetchone()[0]
    return Span(max(first, after + 1), last, count)
