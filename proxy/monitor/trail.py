"""How the evidence came to stand where it does: its sums at a bounded number of moments, for pictures.

A point is taken every so many rows; when there are too many, every other one goes and the distance doubles. Which are
left depends on the number of rows alone, so folding the ledger again draws the same picture. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scorers.evidence import LaneSums
from scorers.judge import Budget, EvidenceState

MAX_POINTS = 64  # *choice*: from 32 to 64 are there, as many as a phone's width can show


class TrailPoint(NamedTuple):
    """The sums of all lanes after `rows` rows, by budget and lane. Units: seconds since the Unix epoch, or unknown."""

    rows: int
    position: int
    at_unix_s: float | None
    sums: Mapping[str, Mapping[str, LaneSums]]


class Course(NamedTuple):
    """What a picture of the budgets is drawn from: the points so far, oldest first, and the present as the last."""

    budgets: tuple[Budget, ...] = ()
    alpha_promote: float = 0.05
    points: tuple[TrailPoint, ...] = ()


class Trail:
    """The points of one epoch's evidence, in its order."""

    def __init__(self) -> None:
        self._points: list[TrailPoint] = []
        self._rows = 0
        self._every = 1

    def look(self, evidence: EvidenceState, at_unix_s: float | None) -> None:
        """One row was folded into `evidence`."""
        self._rows += 1
        if self._rows % self._every:
            return
        self._points.append(TrailPoint(self._rows, evidence.position, at_unix_s, evidence.sums()))
        if len(self._points) >= MAX_POINTS:
            self._every *= 2
            self._points = [point for point in self._points if not point.rows % self._every]

    def course(self, evidence: EvidenceState, at_unix_s: float) -> Course:
        """The points, and where the evidence stands at this moment."""
        points = self._points
        if self._rows and (not points or points[-1].rows < self._rows):
            points = [*points, TrailPoint(self._rows, evidence.position, at_unix_s, evidence.sums())]
        return Course(evidence.budgets, evidence.rules.alpha_promote, tuple(points))

    def undated(self) -> list[int]:
        """Positions whose time is not known."""
        return [point.position for point in self._points if point.at_unix_s is None]

    def date(self, times: Mapping[int, float]) -> None:
        """Gives points their times, by position."""
        self._points = [
            point if point.at_unix_s is not None else point._replace(at_unix_s=times.get(point.position))
            for point in self._points
        ]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` gives the same trail."""
        points = [
            [point.rows, point.position, point.at_unix_s, {name: dict(lanes) for name, lanes in point.sums.items()}]
            for point in self._points
        ]
        return {"rows": self._rows, "every": self._every, "points": points}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Trail:
        """The trail that `to_json` wrote; an empty one for None. Raises: ValueError when it is none."""
        trail = cls()
        if data is None:
            return trail
        try:
            trail._rows, trail._every = int(data["rows"]), max(1, int(data["every"]))
            trail._points = [TrailPoint(rows, position, at, _sums(sums)) for rows, position, at, sums in data["points"]]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"a stored trail is damaged: {error!r}") from error
        return trail


def _sums(told: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, dict[str, LaneSums]]:
    return {name: {lane: LaneSums(*numbers) for lane, numbers in lanes.items()} for name, lanes in told.items()}
