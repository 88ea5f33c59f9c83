"""Questions about a ledger as a whole, for reports: what its traffic was like, which exchange stands where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from proxy.monitor.ledger_file import open_reader, said_plainly
from proxy.monitor.ledger_records import KINDS, Shapes
from proxy.monitor.packing import Shape
from scorers.records import Arm

LATEST_ROWS = 100_000  # *choice*: what "present traffic" looks back on, at most
LATEST_S = 86_400.0  # *choice*: a day, so that nights count as they come
FEWEST_ROWS = 100  # *choice*: below it a rate is a guess
_WITHIN = "position > ? AND sampled_unix_s > ?"
_LIVE = KINDS.index("live")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came in of late. `shares` holds, per arm and score, the share of the sampled requests that gave a number.

    A planted needle's score counts per sampled request, too.
    Units:  rows; seconds; sampled requests per second.
    """

    rows: int
    seconds: float
    shares: Mapping[tuple[Arm, str], float]

    @property
    def sampled_per_s(self) -> float:
        return self.rows / self.seconds


def traffic_of(path: Path) -> Traffic | None:
    """The latest day's sampled requests, at most LATEST_ROWS; None where there are too few to tell a rate.

    Raises:  LedgerError.
    """
    with said_plainly(path, "read it"), closing(open_reader(path)) as connection:
        last_s, last = connection.execute(
            "SELECT max(sampled_unix_s), max(position) FROM exchanges WHERE position > "
            "(SELECT coalesce(max(position), 0) FROM exchanges) - ?",
            (LATEST_ROWS,),
        ).fetchone()
        if last is None:
            return None
        window = (last - LATEST_ROWS, last_s - LATEST_S)
        rows, first_s = connection.execute(
            f"SELECT count(*), min(sampled_unix_s) FROM exchanges WHERE {_WITHIN} AND kind = ?", (*window, _LIVE)
        ).fetchone()
        if rows < FEWEST_ROWS or last_s <= first_s:
            return None
        shapes = Shapes(connection)
        numbers: Counter[tuple[Arm, str]] = Counter()
        for shape, count in connection.execute(
            f"SELECT shape, count(*) FROM exchanges WHERE {_WITHIN} GROUP BY shape", window
        ).fetchall():
            for arm, name, reason in shapes[shape].slots:
                numbers[arm, name] += 0 if reason is not None else count
    return Traffic(rows, last_s - first_s, {score: count / rows for score, count in numbers.items()})


def score_names(path: Path) -> frozenset[str]:
    """Every score that any row of the ledger holds or lacks. Raises: LedgerError."""
    with said_plainly(path, "read it"), closing(open_reader(path)) as connection:
        shapes = [Shape.from_text(text) for (text,) in connection.execute("SELECT slots FROM shapes").fetchall()]
    return frozenset(name for shape in shapes for _, name, _ in shape.slots)


def exchanges_at(path: Path, positions: Iterable[int]) -> Mapping[int, tuple[str, float]]:
    """(id, seconds since the Unix epoch when it was sampled) by position, of those whose rows are still there.

    Raises:  LedgerError.
    """
    found: dict[int, tuple[str, float]] = {}
    with said_plainly(path, "read it"), closing(open_reader(path)) as connection:
        for position in sorted(set(positions)):
            row = connection.execute(
                "SELECT id, sampled_unix_s FROM exchanges WHERE position = ?", (position,)
            ).fetchone()
            if row is not None:
                found[position] = row
    return found
