"""How much of what was sampled became a score, and where it is missing.

A closed tally over observations: cells by stratum, reasons by name. What is lost before its request was known is
coverage, not evidence; too little of it, of late or in one stratum, or more such losses than a limit allows
mismatches, keeps a recipe from passing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from scorers.records import LENGTH_BUCKETS, Observation, Reason

LOPSIDED_SHARE = 0.10  # *choice*: a stratum below a tenth of the eligible samples is too small to be called lopsided
LOPSIDED_RATIO = 0.5  # *choice*: covered less than half as well as the whole
RECENT = 200  # *choice*: eligible samples that recent coverage looks back on, so that a stall shows at once

UNKNOWN_STRATUM = "unknown"
"""What was lost before its prompt was read. It is judged like a stratum: if every long prompt were dropped for its
size, this is where they would lie, and a pass must not come from their absence."""

NO_SCORE_APPLIES = "no_score_applies"

_LENGTHS = tuple(name for name, _ in LENGTH_BUCKETS)
_RECENT_BITS = (1 << RECENT) - 1

_AT_THE_REFERENCE = frozenset(
    {Reason.REFERENCE_ERROR, Reason.REFERENCE_TIMEOUT, Reason.REFERENCE_UNDECODABLE, Reason.BREAKER_OPEN}
)
_UNPAIRED = frozenset(
    {
        *(Reason.CANDIDATE_ERROR, Reason.CANDIDATE_UNDECODABLE, Reason.LEFT_EMPTY, Reason.NO_USAGE),
        *(Reason.NO_LOGPROBS, Reason.TOKENS_DIFFER, Reason.SCORER_ERROR),
    }
)


@dataclass(frozen=True, slots=True)
class StratumCoverage:
    """What became of one stratum's samples: sampled = scored + ineligible + dropped + reference_error + unpaired.

    `dropped`: by the relay, the feed or the monitor itself, late ones too. `reference_error`: the reference failed, or
    its breaker was open. `unpaired`: the reference's answer had nothing sound beside it.
    """

    sampled: int = 0
    scored: int = 0
    ineligible: int = 0
    dropped: int = 0
    reference_error: int = 0
    unpaired: int = 0

    @property
    def eligible(self) -> int:
        return self.sampled - self.ineligible

    @property
    def ratio(self) -> float | None:
        """Scored over eligible, None where nothing was eligible."""
        return self.scored / self.eligible if self.eligible else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "eligible": self.eligible, "ratio": self.ratio}


_FIELDS = tuple(entry.name for entry in fields(StratumCoverage))
_LOSSES = ("dropped", "reference_error", "unpaired")


@dataclass(frozen=True, slots=True)
class Coverage:
    """All live samples: scored, ineligible by reason, lost by reason; and the same by stratum.

    sampled = scored + sum of ineligible + sum of lost; eligible = sampled - ineligible. `unknown` are those of the lost
    of which no request is known, so that no score counts them; `recent` is the part of the last RECENT eligible ones.
    """

    sampled: int = 0
    scored: int = 0
    ineligible: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 0
    recent: StratumCoverage = StratumCoverage()
    strata: Mapping[str, StratumCoverage] = field(default_factory=dict)

    @property
    def eligible(self) -> int:
        return self.sampled - sum(self.ineligible.values())

    @property
    def ratio(self) -> float | None:
        """Scored over eligible, None where nothing was eligible."""
        eligible = self.eligible
        return self.scored / eligible if eligible else None

    def shortfalls(self, min_coverage: float, max_unknown: float = 1.0) -> tuple[str, ...]:
        """Sentences saying why this coverage does not carry a pass; empty when it does.

        `max_unknown` is the least limit that a pass certifies: were a larger share of the eligible samples lost
        without a trace of what they asked, a breach of that size could hide in them.
        """
        ratio = self.ratio
        if ratio is None:
            return ("nothing eligible was sampled yet",)
        said = []
        if ratio < min_coverage:
            worst = max(self.lost.items(), key=lambda item: (item[1], item[0]), default=("", 0))
            most = f"; most are lost to {worst[0]} ({worst[1]})" if worst[1] else ""
            said.append(
                f"coverage is too low: {self.scored} of {self.eligible} eligible samples were scored "
                f"({ratio:.1%} against {min_coverage:.1%}){most}"
            )
        recent = self.recent.ratio
        if recent is not None and recent < min_coverage and self.eligible > RECENT:
            said.append(
                f"recent coverage is too low: {self.recent.scored} of the last {self.recent.eligible} eligible samples "
                f"were scored ({recent:.1%} against {min_coverage:.1%})"
            )
        unknown = self.unknown / self.eligible
        if unknown > max_unknown:
            said.append(
                f"too much was lost unseen: of {self.unknown} of {self.eligible} eligible samples ({unknown:.1%}) "
                f"nobody knows what they asked; a breach of the smallest limit ({max_unknown:.1%}) could hide in them"
            )
        for name, cell in self.strata.items():
            share = cell.eligible / self.eligible
            part = cell.ratio
            if part is not None and share >= LOPSIDED_SHARE and part < LOPSIDED_RATIO * ratio:
                said.append(
                    f"coverage is lopsided: stratum {name} holds {share:.1%} of the eligible samples "
                    f"and {part:.1%} of them were scored, against {ratio:.1%} overall"
                )
        return tuple(said)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "sampled": self.sampled,
            "eligible": self.eligible,
            "scored": self.scored,
            "ratio": self.ratio,
            **{kind: sum(getattr(cell, kind) for cell in self.strata.values()) for kind in _LOSSES},
            "ineligible": dict(self.ineligible),
            "lost": dict(self.lost),
            "unknown": self.unknown,
            "recent": {key: getattr(self.recent, key) for key in ("eligible", "scored", "ratio")},
            "strata": {name: cell.as_dict() for name, cell in self.strata.items()},
        }


def _by_length(stratum: str) -> tuple[int, str]:
    """Short prompts first, what is unknown last."""
    length = stratum.split("/", 1)[0]
    return _LENGTHS.index(length) if length in _LENGTHS else len(_LENGTHS), stratum


class CoverageTally:
    """The running counts behind `Coverage`. Its size depends on the closed sets alone."""

    __slots__ = ("_cells", "_eligible", "_ineligible", "_lost", "_recent", "_sampled", "_scored", "_unknown")

    def __init__(self) -> None:
        self._sampled = 0
        self._eligible = 0
        self._scored = 0
        self._unknown = 0
        self._recent = 0  # one bit per eligible sample, the latest lowest: 1 for scored
        self._ineligible: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._cells: dict[str, list[int]] = {}  # the fields of StratumCoverage, in their order

    def fold(self, observation: Observation, stratum: str) -> bool:
        """Count one live observation under its stratum's name; true when it holds a number."""
        self._sampled += 1
        cell = self._cells.get(stratum)
        if cell is None:
            cell = self._cells[stratum] = [0] * len(_FIELDS)
        cell[0] += 1
        disposition, reason = placed(observation)
        if disposition == "ineligible":
            self._ineligible[reason] = self._ineligible.get(reason, 0) + 1
            cell[2] += 1
            return False
        self._eligible += 1
        self._recent = self._recent << 1 & _RECENT_BITS
        if disposition == "scored":
            self._scored += 1
            self._recent |= 1
            cell[1] += 1
            return True
        if observation.disposition == "lost":
            self._unknown += 1
        cell[_FIELDS.index(kind_of_loss(reason))] += 1
        self._lost[reason] = self._lost.get(reason, 0) + 1
        return False

    def coverage(self) -> Coverage:
        """The counts so far, names sorted, so that equal tallies read equal."""
        window = min(self._eligible, RECENT)
        return Coverage(
            sampled=self._sampled,
            scored=self._scored,
            ineligible=dict(sorted(self._ineligible.items())),
            lost=dict(sorted(self._lost.items())),
            unknown=self._unknown,
            recent=StratumCoverage(sampled=window, scored=self._recent.bit_count()),
            strata={name: StratumCoverage(*self._cells[name]) for name in sorted(self._cells, key=_by_length)},
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` gives the same tally."""
        return {
            "sampled": self._sampled,
            "eligible": self._eligible,
            "scored": self._scored,
            "unknown": self._unknown,
            "recent": f"{self._recent:x}",
            "ineligible": dict(sorted(self._ineligible.items())),
            "lost": dict(sorted(self._lost.items())),
            "cells": {name: list(cell) for name, cell in sorted(self._cells.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CoverageTally:
        """The tally that `to_json` wrote."""
        tally = cls()
        tally._sampled = data["sampled"]
        tally._eligible = data["eligible"]
        tally._scored = data["scored"]
        tally._unknown = data["unknown"]
        tally._recent = int(data["recent"], 16) & _RECENT_BITS
        tally._ineligible = dict(data["ineligible"])
        tally._lost = dict(data["lost"])
        tally._cells = {name: list(cell) for name, cell in data["cells"].items()}
        return tally


def kind_of_loss(reason: str) -> str:
    """Who lost it, of the closed set of three: dropped, reference_error or unpaired."""
    if reason in _AT_THE_REFERENCE:
        return "reference_error"
    return "unpaired" if reason in _UNPAIRED else "dropped"


def placed(observation: Observation) -> tuple[str, str]:
    """Where an observation counts, and by which reason: scored, ineligible or lost.

    A row that was planned and yielded no number is lost by its first lost reason (in the order of its scores); one
    to which no score applies is ineligible.
    """
    if observation.disposition != "scored":
        return observation.disposition, observation.reason or UNKNOWN_STRATUM
    lost = ""
    for value in observation.candidate.values():
        if not isinstance(value, Reason):
            return "scored", ""
        if not lost and value.lost:
            lost = value.value
    return ("lost", lost) if lost else ("ineligible", NO_SCORE_APPLIES)
