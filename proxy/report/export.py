"""A ledger's rows as CSV or JSON Lines: one line per sampled exchange, no prompts, no replies.

JSON Lines keep what the ledger knows: `{"position": ..., "candidate": {"tool_call_mismatch": 0.0}, "noise": {...}}`,
where a score holds its number or, as a string, the reason for none. In CSV each score has two columns per arm,
`candidate.NAME` and `candidate.NAME.reason`, one of which is filled.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from proxy.errors import LedgerError
from proxy.monitor.ledger_reader import Epoch, LedgerReader, open_read_only
from proxy.monitor.ledger_survey import score_names
from proxy.monitor.rows import LedgerRow
from scorers.catalogue import SPECS
from scorers.records import Arm

ARMS: tuple[Arm, ...] = ("candidate", "noise")
FIELDS = (
    *("position", "epoch", "id", "worker", "sequence", "kind", "sampled_unix_s", "disposition", "reason", "stratum"),
    *("path", "status", "outcome", "duration_s", "first_byte_s"),
    *("prompt_tokens", "reference_prompt_tokens", "completion_tokens", "reference_answer"),
)


class Format(StrEnum):
    """How rows are written."""

    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Exported:
    """How many rows were written, and the last position that had been pruned before, -1 for none."""

    rows: int
    pruned_through: int


def export(ledger: Path, to: TextIO, form: Format, epoch: int | None) -> Exported:
    """Writes every row of one epoch (None: of all) that is still there, in sampling order.

    Raises:  LedgerError, also for an epoch that the ledger does not have; OSError when `to` cannot be written.
    """
    with closing(open_read_only(ledger)) as reader:
        epochs = _wanted(reader, ledger, epoch)
        rows = _rows(reader, epochs)
        count = _write_csv(rows, to, _columns(ledger)) if form is Format.CSV else _write_jsonl(rows, to)
    return Exported(count, max(one.pruned_through for one in epochs))


def _wanted(reader: LedgerReader, ledger: Path, epoch: int | None) -> Sequence[Epoch]:
    epochs = reader.epochs()
    wanted = [one for one in epochs if epoch in (None, one.number)]
    if not wanted:
        known = f"it has {epochs[0].number} to {epochs[-1].number}" if epochs else "it has none yet"
        raise LedgerError(f"{ledger}: there is no epoch {epoch}; {known}")
    return wanted


def _rows(reader: LedgerReader, epochs: Sequence[Epoch]) -> Iterator[LedgerRow]:
    for epoch in epochs:
        yield from reader.rows(epoch.number, after=epoch.pruned_through)


def _write_jsonl(rows: Iterator[LedgerRow], to: TextIO) -> int:
    count = 0
    for row in rows:
        line = _plain(row)
        line.update((arm, _side(row, arm)) for arm in ARMS)
        to.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
        count += 1
    return count


def _columns(ledger: Path) -> list[str]:
    """The scores' columns: those that this ledger knows, an older version's own last."""
    known = score_names(ledger)
    names = [name for name in SPECS if name in known] + sorted(known - SPECS.keys())
    return [f"{arm}.{name}{kind}" for arm in ARMS for name in names for kind in ("", ".reason")]


def _write_csv(rows: Iterator[LedgerRow], to: TextIO, columns: Sequence[str]) -> int:
    writer = csv.DictWriter(to, [*FIELDS, *columns], lineterminator="\n")
    writer.writeheader()
    count = 0
    for row in rows:
        line = _plain(row)
        for score in row.scores:
            column = f"{score.arm}.{score.name}"
            if score.reason is None:
                line[column] = score.value
            else:
                line[f"{column}.reason"] = score.reason.value
        writer.writerow(line)
        count += 1
    return count


def _plain(row: LedgerRow) -> dict[str, Any]:
    stratum = None if row.stratum is None else str(row.stratum)
    return {**{field: getattr(row, field) for field in FIELDS}, "stratum": stratum}


def _side(row: LedgerRow, arm: Arm) -> Mapping[str, float | str | None]:
    return {
        score.name: score.value if score.reason is None else score.reason.value
        for score in row.scores
        if score.arm == arm
    }
