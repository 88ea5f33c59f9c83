"""Reading the ledger: rows, pairs, epochs, checkpoints; nothing here can change it.

Every call has a connection of its own, so that a reader on the control port blocks neither the writer nor another
reader (WAL), and any thread may call.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from proxy.errors import LedgerError
from proxy.monitor.ledger_file import open_reader, said_plainly
from proxy.monitor.ledger_pairs import Asked, latest_scores, list_pairs, one_pair
from proxy.monitor.ledger_records import COLUMNS, DISPOSITIONS, JOINS, KINDS, Shapes, parse_stratum, read_row
from proxy.monitor.ledger_snapshot import snapshot, span_of
from proxy.monitor.rows import RESET, LedgerRow, Opening
from scorers.records import Observation, Reason, Stratum

MAX_WORKERS = 512  # *choice*: relay workers that are remembered; a name is one life's, so they pile up over restarts


@dataclass(frozen=True, slots=True)
class Epoch:
    """One stretch of one contract. `pruned_through` is the last position whose row has gone, or -1."""

    number: int
    contract: Mapping[str, Any]
    reason: str
    opened_unix_s: float
    closed_unix_s: float | None
    first_position: int | None
    last_position: int | None
    row_count: int
    pruned_through: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Evidence folded up to and including `position`; folding the later rows into it gives the whole."""

    epoch: int
    position: int
    state_json: str


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """Units: rows; bytes on the disk."""

    rows: int
    epochs: int
    file_bytes: int
    wal_bytes: int


@dataclass(frozen=True, slots=True)
class LedgerEvent:
    """An operator's act or a change of state."""

    number: int
    at_unix_s: float
    kind: str
    detail: Mapping[str, Any]


class LedgerReader:
    """The ledger at `path`, read only. Every call raises LedgerError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        """Raises: LedgerError when there is no ledger of this version at `path`."""
        self.path = path
        open_reader(path).close()

    def next_position(self) -> int:
        """One past the highest position ever written, 0 in a new ledger; rows that were pruned count.

        A reset may lie ahead of the rows, when a kill took those in work; new rows come after it.
        """
        with snapshot(self.path) as connection:
            return max(last_position(connection), *(int(reset["position"]) for reset in _resets(connection)), -1) + 1

    def observations(self, epoch: int, after: int = -1) -> Iterator[Observation]:
        """Every row of an epoch past position `after`, in rising position, streamed.

        Raises:  LedgerError when rows past `after` have been pruned: start from the checkpoint then; and at the end,
                 when there were fewer or more rows than were ever written.
        """
        with snapshot(self.path) as connection:
            span = span_of(connection, self.path, epoch, after)
            if span is None:
                return
            last = after
            shapes = Shapes(connection)
            names = _names(connection)
            strata: dict[int | None, Stratum | None] = {None: None}
            cursor = connection.execute(
                "SELECT position, kind, disposition, reason, stratum, shape, scores FROM exchanges "
                "WHERE position BETWEEN ? AND ? AND epoch = ? ORDER BY position",
                (span.first, span.last, epoch),
            )
            while chunk := cursor.fetchmany(512):
                span.found += len(chunk)
                for position, kind, disposition, reason, stratum, shape, scores in chunk:
                    if position <= last:
                        raise ValueError(f"position {position} comes after {last}")
                    last = position
                    if stratum not in strata:
                        strata[stratum] = parse_stratum(names[stratum])
                    candidate, noise = shapes[shape].sides(scores)
                    yield Observation(
                        position,
                        KINDS[kind],
                        DISPOSITIONS[disposition],
                        None if reason is None else names[reason],
                        strata[stratum],
                        candidate,
                        noise,
                    )
            span.check()

    def rows(self, epoch: int, after: int = -1) -> Iterator[LedgerRow]:
        """The same rows whole, less bodies and explanations: for export."""
        with snapshot(self.path) as connection:
            span = span_of(connection, self.path, epoch, after)
            if span is None:
                return
            shapes = Shapes(connection)
            cursor = connection.execute(
                f"SELECT {COLUMNS} FROM {JOINS} WHERE e.position BETWEEN ? AND ? AND e.epoch = ? ORDER BY e.position",
                (span.first, span.last, epoch),
            )
            for record in cursor:
                span.found += 1
                yield read_row(record, shapes)
            span.check()

    def pairs(
        self,
        *,
        limit: int,
        before: int | None = None,
        after: int | None = None,
        score: str | None = None,
        stratum: str | None = None,
        mismatched: bool = False,
    ) -> list[LedgerRow]:
        """The rows that have bodies, latest first (past `after`: oldest first), at most MAX_PAGE; see ledger_pairs."""
        return list_pairs(self.path, Asked(score, mismatched, stratum, before, after), limit)

    def pair(self, id: str, kind: Literal["live", "probe"] | None = None) -> LedgerRow | None:
        """The row of this id with its bodies and explanations; None when unknown or its bodies are not kept.

        A probe has the id of the exchange that it was planted in; without `kind` the exchange comes first.
        """
        return one_pair(self.path, id, kind)

    def latest_scores(self, epoch: int, limit: int) -> list[tuple[str, Mapping[str, float | Reason]]]:
        """Stratum and the candidate's scores of the latest `limit` scored rows of an epoch."""
        return latest_scores(self.path, epoch, limit)

    def epochs(self) -> list[Epoch]:
        """All epochs, oldest first."""
        with snapshot(self.path) as connection:
            return read_epochs(connection)

    def checkpoint_of(self, epoch: int) -> Checkpoint | None:
        """The latest evidence checkpoint of an epoch."""
        with snapshot(self.path) as connection:
            found = connection.execute(
                "SELECT epoch, position, state FROM checkpoints WHERE epoch = ?", (epoch,)
            ).fetchone()
            return None if found is None else Checkpoint(*found)

    def events(self, limit: int = 100, kinds: Sequence[str] = ()) -> list[LedgerEvent]:
        """The latest events, latest first; only of these kinds where some are given."""
        where = f"WHERE kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        with snapshot(self.path) as connection:
            found = connection.execute(
                f"SELECT number, at_unix_s, kind, detail FROM events {where} ORDER BY number DESC LIMIT ?",
                (*kinds, limit),
            )
            return [LedgerEvent(number, at, kind, json.loads(detail)) for number, at, kind, detail in found]

    def latest_event(self, kind: str) -> Mapping[str, Any] | None:
        """The detail of the latest event of a kind; None without one."""
        with snapshot(self.path) as connection:
            found = connection.execute(
                "SELECT detail FROM events WHERE kind = ? ORDER BY number DESC LIMIT 1", (kind,)
            ).fetchone()
            return None if found is None else json.loads(found[0])

    def latest_epoch(self) -> tuple[int, Mapping[str, Any]] | None:
        """The number and contract of the latest epoch; None in an empty ledger."""
        epochs = self.epochs()
        return (epochs[-1].number, epochs[-1].contract) if epochs else None

    def epoch_openings(self) -> list[Opening]:
        """All epochs, oldest first."""
        return [Opening(epoch.number, epoch.opened_unix_s, epoch.reason) for epoch in self.epochs()]

    def numbers(self, limit: int) -> list[tuple[str, int]]:
        """(worker, sequence) of the latest `limit` live rows with a worker, and the last of each of MAX_WORKERS.

        What a feed may send again is among the former. Of a worker that was silent meanwhile there is the latter: it
        goes on from there, and without it would count from 0 again.
        """
        live = f"FROM exchanges e JOIN names n ON n.id = e.worker WHERE e.kind = {KINDS.index('live')} AND n.name != ''"
        with snapshot(self.path) as connection:
            found = connection.execute(
                f"SELECT * FROM (SELECT n.name, e.sequence {live} ORDER BY e.position DESC LIMIT ?) UNION "
                f"SELECT * FROM (SELECT n.name, max(e.sequence) {live} GROUP BY e.worker "
                "ORDER BY max(e.position) DESC LIMIT ?)",
                (limit, MAX_WORKERS),
            )
            return [(worker, sequence) for worker, sequence in found]

    def reset_position(self, epoch: int) -> int | None:
        """The position after which an epoch's evidence begins by an operator's latest reset; None without one."""
        with snapshot(self.path) as connection:
            resets = _resets(connection)
        return max((int(reset["position"]) for reset in resets if reset["epoch"] == epoch), default=None)

    def sampled_at(self, positions: Sequence[int]) -> dict[int, float]:
        """When the rows at these positions were sampled; those that were pruned, or never were, are absent."""
        with snapshot(self.path) as connection:
            found = connection.execute(
                "SELECT position, sampled_unix_s FROM exchanges WHERE position IN (SELECT value FROM json_each(?))",
                (json.dumps(list(positions)),),
            )
            return dict(found.fetchall())

    def prompt_token_mismatches(self, epoch: int, after: int = -1) -> int:
        """How many live rows of an epoch past position `after` have arms that counted different prompt tokens.

        Pruned rows are forgotten.
        """
        with snapshot(self.path) as connection:
            found = connection.execute(
                "SELECT count(*) FROM exchanges "
                "WHERE epoch = ? AND kind = ? AND position > ? AND prompt_tokens != reference_prompt_tokens",
                (epoch, KINDS.index("live"), after),
            )
            return int(found.fetchone()[0])

    def prompts_agreed(self, epoch: int, after: int, limit: int) -> list[bool]:
        """Whether both arms counted the same prompt tokens, for the latest `limit` live rows of an epoch past position
        `after` where both counts are known; oldest first. Pruned rows are forgotten."""
        with snapshot(self.path) as connection:
            found = connection.execute(
                "SELECT prompt_tokens = reference_prompt_tokens FROM exchanges WHERE epoch = ? AND kind = ? AND "
                "position > ? AND prompt_tokens IS NOT NULL AND reference_prompt_tokens IS NOT NULL "
                "ORDER BY position DESC LIMIT ?",
                (epoch, KINDS.index("live"), after, limit),
            )
            return [bool(one) for (one,) in found][::-1]

    def stats(self) -> LedgerStats:
        """Rows and bytes at this moment, without scanning."""
        epochs = self.epochs()
        wal = self.path.with_name(self.path.name + "-wal")
        with said_plainly(self.path, "measure it"):
            return LedgerStats(
                rows=sum(epoch.row_count for epoch in epochs),
                epochs=len(epochs),
                file_bytes=self.path.stat().st_size,
                wal_bytes=wal.stat().st_size if wal.exists() else 0,
            )

    def close(self) -> None:
        """Nothing is held between calls."""


def open_read_only(path: Path) -> LedgerReader:
    """The ledger at `path` for reading, beside a live monitor or without one. Raises: LedgerError."""
    return LedgerReader(path)


def last_position(connection: sqlite3.Connection) -> int:
    """The highest position ever written, or -1."""
    found = connection.execute("SELECT max(last_position) FROM epochs").fetchone()[0]
    return -1 if found is None else int(found)


def read_epochs(connection: sqlite3.Connection) -> list[Epoch]:
    """All epochs, oldest first. Raises: LedgerError."""
    found = connection.execute(
        "SELECT number, contract, reason, opened_unix_s, closed_unix_s, first_position, last_position, row_count, "
        "pruned_through FROM epochs ORDER BY number"
    )
    try:
        return [Epoch(number, json.loads(contract), *rest) for number, contract, *rest in found]
    except (TypeError, ValueError) as error:
        raise LedgerError(f"the ledger is corrupt: the contract of an epoch cannot be read ({error})") from error


def _resets(connection: sqlite3.Connection) -> list[Mapping[str, Any]]:
    """What the operator's resets tell, oldest first."""
    found = connection.execute("SELECT detail FROM events WHERE kind = ? ORDER BY number", (RESET,))
    return [json.loads(detail) for (detail,) in found]


def _names(connection: sqlite3.Connection) -> dict[int, str]:
    return dict(connection.execute("SELECT id, name FROM names").fetchall())
