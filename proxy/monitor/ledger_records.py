"""How the ledger's records become values again: constants of their columns, and the records' decoding."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from typing import Any, Literal

from proxy.errors import LedgerError
from proxy.monitor.costs import TokenCount, tokens_from
from proxy.monitor.packing import Shape
from proxy.monitor.rows import LedgerRow, PairBodies
from scorers.records import Disposition, Stratum

KINDS: tuple[Literal["live", "probe"], ...] = ("live", "probe")
DISPOSITIONS: tuple[Disposition, ...] = ("scored", "ineligible", "lost")
_MAX_INFLATED_BYTES = 64 * 1024 * 1024  # bodies are cut long before; this bounds a ledger that we did not write

COLUMNS = (
    "e.position, e.epoch, e.id, w.name, e.sequence, e.kind, e.sampled_unix_s, e.disposition, r.name, s.name, "
    "e.path, e.status, o.name, e.duration_s, e.first_byte_s, e.prompt_tokens, e.reference_prompt_tokens, "
    "e.completion_tokens, e.shape, e.scores, a.name, e.reference_tokens"
)
JOINS = (
    "exchanges e JOIN names w ON w.id = e.worker JOIN names o ON o.id = e.outcome "
    "LEFT JOIN names r ON r.id = e.reason LEFT JOIN names s ON s.id = e.stratum "
    "LEFT JOIN names a ON a.id = e.reference_answer"
)


def parse_stratum(text: str) -> Stratum:
    """The stratum that `str` wrote. Raises: LedgerError."""
    parts = text.split("/")
    if len(parts) != 4:
        raise LedgerError(f"the ledger is corrupt: {text!r} is no stratum")
    return Stratum(parts[0], parts[1] == "tools", parts[2] == "stream", parts[3] == "greedy")


def _tokens(text: str | None) -> tuple[TokenCount, ...]:
    try:
        return tokens_from(text)
    except ValueError as error:
        raise LedgerError(f"the ledger is corrupt: {error}") from error


def deflate(data: bytes) -> bytes:
    """Level 1: bodies are JSON text, and four fifths of the gain cost a tenth of the time."""
    return zlib.compress(data, 1)


def inflate(data: bytes) -> bytes:
    """Raises: LedgerError on what `deflate` did not write."""
    try:
        return zlib.decompressobj().decompress(data, _MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise LedgerError(f"the ledger is corrupt: a body cannot be read ({error})") from error


class Shapes(dict[int, Shape]):
    """Shapes by id, read when first needed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    def __missing__(self, id: int) -> Shape:
        found = self._connection.execute("SELECT slots FROM shapes WHERE id = ?", (id,)).fetchone()
        if found is None:
            raise LedgerError(f"the ledger is corrupt: score layout {id} is missing")
        shape = self[id] = Shape.from_text(found[0])
        return shape


def read_row(
    record: Sequence[Any],
    shapes: Shapes,
    *,
    explanations: bytes | None = None,
    bodies: PairBodies | None = None,
) -> LedgerRow:
    """The row of a record whose first columns are COLUMNS."""
    told = None if explanations is None else json.loads(inflate(explanations))
    return LedgerRow(
        position=record[0],
        epoch=record[1],
        id=record[2],
        worker=record[3],
        sequence=record[4],
        kind=KINDS[record[5]],
        sampled_unix_s=record[6],
        disposition=DISPOSITIONS[record[7]],
        reason=record[8],
        stratum=None if record[9] is None else parse_stratum(record[9]),
        path=record[10],
        status=record[11],
        outcome=record[12],
        duration_s=record[13],
        first_byte_s=record[14],
        prompt_tokens=record[15],
        reference_prompt_tokens=record[16],
        completion_tokens=record[17],
        reference_answer=record[20] or "",
        reference_tokens=_tokens(record[21]),
        scores=shapes[record[18]].rows(record[19], told),
        bodies=bodies,
    )
