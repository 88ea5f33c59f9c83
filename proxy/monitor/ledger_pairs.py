"""The ledger's pairs for people: lists to read from, one pair whole, and what the latest rows say by stratum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from proxy.monitor.ledger_records import COLUMNS, DISPOSITIONS, JOINS, KINDS, Shapes, inflate, read_row
from proxy.monitor.ledger_snapshot import snapshot
from proxy.monitor.rows import LedgerRow, PairBodies
from scorers.records import LENGTH_BUCKETS, Reason, Stratum

MAX_PAGE = 500  # *choice*: pairs in one answer
_ALL_STRATA = tuple(
    str(Stratum(length, tools, stream, greedy))
    for length, tools, stream, greedy in product((name for name, _ in LENGTH_BUCKETS), *((True, False),) * 3)
)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which pairs. `score`: those with a number of that name for the candidate; `mismatched`: those where it (or any
    score of a budget) is over its limit; `stratum`: one or more of a stratum's words, such as "4k-16k/tools".

    `before` and `after` are positions: the latest below the one, latest first; or the first above the other, oldest
    first.
    """

    score: str | None = None
    mismatched: bool = False
    stratum: str | None = None
    before: int | None = None
    after: int | None = None


def strata_of(words: str) -> tuple[str, ...]:
    """The strata that have all of these words, joined by slashes; none for a word that is in no stratum."""
    wanted = set(words.split("/"))
    return tuple(name for name in _ALL_STRATA if wanted <= set(name.split("/")))


def list_pairs(path: Path, asked: Asked, limit: int) -> list[LedgerRow]:
    """Rows that have bodies, at most MAX_PAGE, with their explanations and without the bodies. Raises: LedgerError."""
    if asked.score is None:
        source = "bodies b" if not asked.mismatched else "bodies b INDEXED BY bodies_mismatched"
        where = ["b.mismatched"] if asked.mismatched else []
        arguments: list[Any] = []
    else:
        source = "body_scores x JOIN names n ON n.id = x.name JOIN bodies b ON b.position = x.position"
        where = ["n.name = ?", *(["x.mismatched"] if asked.mismatched else [])]
        arguments = [asked.score]
    place = "b.position" if asked.score is None else "x.position"
    for bound, value in (("<", asked.before), (">", asked.after)):
        if value is not None:
            where.append(f"{place} {bound} ?")
            arguments.append(value)
    if asked.stratum is not None:
        names = strata_of(asked.stratum)
        if not names:  # or SQLite would look through every body for it
            return []
        where.append(f"e.stratum IN (SELECT id FROM names WHERE name IN ({', '.join('?' * len(names))}))")
        arguments += names
    order = "ASC" if asked.after is not None else "DESC"
    with snapshot(path) as connection:
        cursor = connection.execute(
            f"SELECT {COLUMNS}, b.explanations FROM {source} JOIN ({JOINS}) ON e.position = b.position "
            f"{'WHERE ' + ' AND '.join(where) if where else ''} ORDER BY {place} {order} LIMIT ?",
            (*arguments, max(1, min(limit, MAX_PAGE))),
        )
        shapes = Shapes(connection)
        return [read_row(record, shapes, explanations=record[-1]) for record in cursor]


def one_pair(path: Path, id: str, kind: Literal["live", "probe"] | None) -> LedgerRow | None:
    """The row of this id with its bodies and explanations; None when unknown or its bodies are not kept.

    A probe has the id of the exchange that it was planted in; without `kind` the exchange comes first.
    Raises:  LedgerError.
    """
    kinds = KINDS if kind is None else (kind,)
    with snapshot(path) as connection:
        record = connection.execute(
            f"SELECT {COLUMNS}, b.explanations, b.request, b.candidate, b.reference, b.control "
            f"FROM bodies b JOIN ({JOINS}) ON e.position = b.position "
            "WHERE b.id = ? AND e.kind BETWEEN ? AND ? ORDER BY e.kind, b.position DESC LIMIT 1",
            (id, KINDS.index(kinds[0]), KINDS.index(kinds[-1])),
        ).fetchone()
        if record is None:
            return None
        explanations, request, candidate, reference, control = record[-5:]
        bodies = PairBodies(
            inflate(request),
            inflate(candidate),
            inflate(reference),
            None if control is None else inflate(control),
        )
        return read_row(record, Shapes(connection), explanations=explanations, bodies=bodies)


def latest_scores(path: Path, epoch: int, limit: int) -> list[tuple[str, Mapping[str, float | Reason]]]:
    """Stratum and the candidate's scores of the latest `limit` scored rows of an epoch. Raises: LedgerError."""
    with snapshot(path) as connection:
        shapes = Shapes(connection)
        cursor = connection.execute(
            "SELECT s.name, e.shape, e.scores FROM exchanges e JOIN names s ON s.id = e.stratum "
            "WHERE e.epoch = ? AND e.disposition = ? ORDER BY e.position DESC LIMIT ?",
            (epoch, DISPOSITIONS.index("scored"), limit),
        )
        return [(stratum, shapes[shape].sides(scores)[0]) for stratum, shape, scores in cursor]
