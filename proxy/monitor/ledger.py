"""The ledger in SQLite: the durable record of every sampled exchange, and the truth that evidence is folded from.

One writer (this class, on the monitor's writer thread), any number of readers. `append` is one transaction: when it
returns, `kill -9` loses nothing of it. What it looks like on the disk is in ledger_file.py, what goes away and when
in retention.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from proxy.errors import LedgerError
from proxy.monitor.costs import tokens_text
from proxy.monitor.ledger_file import WriterLock, open_writer, said_plainly
from proxy.monitor.ledger_reader import LedgerReader, last_position, read_epochs
from proxy.monitor.ledger_records import DISPOSITIONS, KINDS, deflate
from proxy.monitor.packing import Shape, Slot, pack, slots_of
from proxy.monitor.retention import prune
from proxy.monitor.rows import LedgerRow, ScoreRow
from proxy.settings import LedgerSettings

MAX_PATH_CHARS = 128  # *choice*: a client chooses the path; only its head is worth keeping
_INSERT_ROW = f"INSERT INTO exchanges VALUES ({', '.join('?' * 22)})"
_INSERT_BODIES = "INSERT INTO bodies VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_DAY_S = 86_400.0
_MAX_INTEGER = 2**63 - 1


class SqliteLedger(LedgerReader):
    """The writing side of the ledger at `settings.path`; reading comes from LedgerReader. Implements rows.Ledger."""

    def __init__(self, settings: LedgerSettings, *, is_mismatch: Callable[[ScoreRow], bool]) -> None:
        """`is_mismatch` says which scores make a pair one that people want to read.

        Raises:  LedgerError when the file is another's, of another version, corrupt, read-only or being written.
        """
        self._settings = settings
        self._is_mismatch = is_mismatch
        self._guard = threading.Lock()
        self._doubtful = False
        self._writer_lock = WriterLock(settings.path)
        try:
            self._connection = open_writer(settings.path)
            with said_plainly(settings.path, "open it"):
                self._recall()
            super().__init__(settings.path)
        except BaseException:  # the lock must not outlive a failed opening; re-raised as it came
            self._writer_lock.release()
            raise

    def open_epoch(self, contract: Mapping[str, Any], reason: str, at_unix_s: float) -> int:
        """The number of a new epoch, or of the latest one when its contract is equal. A new one closes the latest."""
        text = json.dumps(contract, sort_keys=True, separators=(",", ":"))
        with self._transaction("open an epoch"):
            epochs = read_epochs(self._connection)
            if epochs and json.dumps(epochs[-1].contract, sort_keys=True, separators=(",", ":")) == text:
                return epochs[-1].number
            number = epochs[-1].number + 1 if epochs else 1
            self._connection.execute("UPDATE epochs SET closed_unix_s = ? WHERE closed_unix_s IS NULL", (at_unix_s,))
            self._connection.execute(
                "INSERT INTO epochs (number, contract, reason, opened_unix_s) VALUES (?, ?, ?, ?)",
                (number, text, reason, at_unix_s),
            )
        self._epochs.add(number)
        return number

    def append(self, rows: Sequence[LedgerRow]) -> None:
        """All rows durable, in one transaction, in rising position.

        A batch may be offered again after an error: rows that the failed try did write are not written twice.
        """
        if any(later.position <= earlier.position for earlier, later in pairwise(rows)):
            raise LedgerError(f"ledger {self.path}: rows must come in rising position")
        with self._transaction("append rows"):
            fresh = self._not_yet_written(rows)
            if not fresh:
                return
            unknown = {row.epoch for row in fresh} - self._epochs
            if unknown:
                raise LedgerError(f"ledger {self.path}: epoch {min(unknown)} was never opened")
            self._connection.executemany(_INSERT_ROW, [self._record(row) for row in fresh])
            for row in fresh:
                if row.bodies is not None:
                    self._insert_bodies(row)
            self._count(fresh)
        self._last_position = fresh[-1].position

    def event(self, kind: str, detail: Mapping[str, Any], at_unix_s: float) -> None:
        """An operator's act or a change of state: reset, pause, resume, breaker."""
        with self._transaction("record an event"):
            self._connection.execute(
                "INSERT INTO events (at_unix_s, kind, detail) VALUES (?, ?, ?)", (at_unix_s, kind, json.dumps(detail))
            )

    def checkpoint(self, epoch: int, position: int, state_json: str) -> None:
        """Stores evidence folded up to and including `position`; `prune` may then let those rows of the epoch go.

        A verdict stays recomputable: `checkpoint_of(epoch)`, then `observations(epoch, after=its position)`.
        """
        with self._transaction("store a checkpoint"):
            if position > self._last_position:
                raise LedgerError(f"ledger {self.path}: a checkpoint at {position} is ahead of the rows")
            self._connection.execute(
                "INSERT INTO checkpoints VALUES (?, ?, ?) ON CONFLICT (epoch) DO UPDATE "
                "SET position = excluded.position, state = excluded.state WHERE excluded.position >= position",
                (epoch, position, state_json),
            )

    def prune(self, now_unix_s: float) -> int:
        """How many bodies and rows went, by age and size (see retention.py). The file shrinks with them."""
        with self._guard, said_plainly(self.path, "prune it"):
            oldest_unix_s = now_unix_s - self._settings.retention_days * _DAY_S
            return prune(self._connection, self.path, oldest_unix_s, self._settings.max_bytes)

    def close(self) -> None:
        """The file is whole without its WAL, and free for another writer. Closing twice does nothing."""
        with self._guard:
            self._connection.close()
            self._writer_lock.release()

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        with self._guard, said_plainly(self.path, doing):
            try:
                if self._doubtful:
                    self._recall()
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            except BaseException:  # whatever broke it, nothing of it may stay open; re-raised as it came
                self._doubtful = True
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _recall(self) -> None:
        """Reads back what is kept in memory, at opening and after a transaction that may or may not have happened."""
        self._names: dict[str, int] = {
            name: id for id, name in self._connection.execute("SELECT id, name FROM names").fetchall()
        }
        self._shapes: dict[tuple[Slot, ...], int] = {
            Shape.from_text(text).slots: id for id, text in self._connection.execute("SELECT id, slots FROM shapes")
        }
        self._epochs = {epoch.number for epoch in read_epochs(self._connection)}
        self._last_position = last_position(self._connection)
        self._doubtful = False

    def _not_yet_written(self, rows: Sequence[LedgerRow]) -> Sequence[LedgerRow]:
        if not rows or rows[0].position > self._last_position:
            return rows
        for row in rows:
            if row.position > self._last_position:
                break
            found = self._connection.execute("SELECT id FROM exchanges WHERE position = ?", (row.position,)).fetchone()
            if found is None or found[0] != row.id:
                raise LedgerError(
                    f"ledger {self.path}: position {row.position} is behind the last one written "
                    f"({self._last_position}) and is not it"
                )
        return [row for row in rows if row.position > self._last_position]

    def _record(self, row: LedgerRow) -> tuple[Any, ...]:
        return (
            row.position,
            row.epoch,
            row.id,
            self._name(row.worker),
            row.sequence,
            KINDS.index(row.kind),
            row.sampled_unix_s,
            DISPOSITIONS.index(row.disposition),
            None if row.reason is None else self._name(row.reason),
            None if row.stratum is None else self._name(str(row.stratum)),
            row.path[:MAX_PATH_CHARS].encode("utf-8", "replace").decode(),
            row.status,
            self._name(row.outcome),
            row.duration_s,
            row.first_byte_s,
            _counted(row.prompt_tokens),
            _counted(row.reference_prompt_tokens),
            _counted(row.completion_tokens),
            self._shape(row.scores),
            pack(row.scores),
            self._name(row.reference_answer) if row.reference_answer else None,
            tokens_text(row.reference_tokens),
        )

    def _insert_bodies(self, row: LedgerRow) -> None:
        bodies = row.bodies
        assert bodies is not None
        explanations = [dict(score.explanation) for score in row.scores]
        told = json.dumps(explanations, separators=(",", ":"), default=str).encode()
        scores = {
            score.name: self._is_mismatch(score)
            for score in row.scores
            if score.arm == "candidate" and score.value is not None
        }
        self._connection.execute(
            _INSERT_BODIES,
            (
                row.position,
                row.id,
                int(any(scores.values())),
                deflate(told),
                deflate(bodies.request),
                deflate(bodies.candidate),
                deflate(bodies.reference),
                None if bodies.control is None else deflate(bodies.control),
            ),
        )
        self._connection.executemany(
            "INSERT INTO body_scores VALUES (?, ?, ?)",
            [(self._name(name), row.position, int(mismatch)) for name, mismatch in scores.items()],
        )

    def _count(self, rows: Sequence[LedgerRow]) -> None:
        for epoch in {row.epoch for row in rows}:
            own = [row.position for row in rows if row.epoch == epoch]
            self._connection.execute(
                "UPDATE epochs SET first_position = coalesce(first_position, ?), last_position = ?, "
                "row_count = row_count + ? WHERE number = ?",
                (own[0], own[-1], len(own), epoch),
            )

    def _name(self, name: str) -> int:
        id = self._names.get(name)
        if id is None:
            id = self._connection.execute("INSERT INTO names (name) VALUES (?) RETURNING id", (name,)).fetchone()[0]
            self._names[name] = id
        return id

    def _shape(self, scores: Sequence[ScoreRow]) -> int:
        slots = slots_of(scores)
        id = self._shapes.get(slots)
        if id is None:
            text = Shape(slots).to_text()
            id = self._connection.execute("INSERT INTO shapes (slots) VALUES (?) RETURNING id", (text,)).fetchone()[0]
            self._shapes[slots] = id
        return id


def _counted(tokens: int | None) -> int | None:
    """An upstream's own count, as far as the database can hold it."""
    return None if tokens is None else min(tokens, _MAX_INTEGER)
