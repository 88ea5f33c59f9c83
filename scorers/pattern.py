"""What a failure looks like, as sums: the fold that diagnose.py reads. Pure; O(1) state.

PatternTally   by prompt length: recall, tool calls and KL; beside them the re-runs, the tokens, the tool calls' tokens
Estimate       a number with its standard error

KL is kept as its logarithm per request, in units of the reference's own doubt: a shift of the logits by s moves KL by
about s^2/2 times 1 - sum p^2, so that a sure answer shows little of a damage that an open one shows in full. The
logarithm tames the tail: a mean of KL is the mean of a few requests. What does not depend on the recipe cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from scorers.records import LENGTH_BUCKETS, Reason, Stratum

Scores: TypeAlias = Mapping[str, float | Reason]

KL, KL_MAX, DOUBT, EARLY = "logprob_kl", "logprob_kl_max", "reference_doubt", "early_divergence"
TOOLS: Final = "tool_call_mismatch"
RECALL: Final = ("copy_recall_loss", "needle_recall_loss")
RERUN: Final = (TOOLS, "tool_schema_failure", *RECALL, "logprob_tv", KL, "text_mismatch", "json_invalid")
"""Scores whose candidate side is compared with the reference's re-run of the same request."""

OCTAVES: Final[Mapping[str, float]] = {
    name: math.log2(middle)
    for (name, _), middle in zip(LENGTH_BUCKETS, (256, 724, 2_048, 8_192, 32_768, 131_072), strict=True)
}
"""Where a bucket lies: the logarithm of its geometric middle (*choice* for the two open ends). Units: doublings."""

FEWEST_PER_LANE = 10  # *choice*: a spread from fewer is no spread
FEWEST_LOST = 5  # *choice*: odds of fewer say nothing
LARGEST = 1e12  # as evidence.LARGEST_SCORE: above it a score is a fault of its scorer
KL_FLOOR = 1e-9  # nats; what 32-bit logprobs of equal logits leave
DOUBT_FLOOR = 1e-6  # *choice*: 32-bit logprobs near 0 know no smaller chance
KERNEL_SHARE = 0.5  # *choice*: the reference against itself reaches half of what the candidate shows

# A lane's sums: count, sum (and sum of squares) of each family. Lists, not objects: this runs once per ledger row.
_RECALL, _TOOLS, _PLAIN, _SHIFT, _LANE = 0, 2, 4, 7, 10
_NUMBER = float  # what scorers give and the ledger holds; one type is asked for faster than two
_SPIKE = 6  # count; sums of kl, max, kl^2, max^2, kl max


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its standard error and how many pairs it rests on."""

    value: float
    error: float
    pairs: int

    def above(self, bound: float) -> float:
        """How far it lies above `bound`. Units: standard errors."""
        return (self.value - bound) / self.error


class PatternTally:
    """Counts and sums; their number depends on the closed sets alone."""

    __slots__ = ("_calls", "_lanes", "_noise_spikes", "_reruns", "_spikes", "_tokens")

    def __init__(self) -> None:
        self._lanes: dict[str, list[float]] = {}
        self._spikes = [0.0] * _SPIKE
        self._noise_spikes = [0.0] * _SPIKE
        self._reruns = {name: [0.0] * 5 for name in RERUN}  # count; sums of x, noise, their contrast and its square
        self._tokens = {"tools": [0, 0], "plain": [0, 0]}  # compared, differing
        self._calls = {"stream": [0, 0, 0], "whole": [0, 0, 0]}  # mismatches; of these with tokens, with equal tokens

    def fold(self, candidate: Scores, noise: Scores, stratum: Stratum | None) -> None:
        """Take in one planned row's two sides."""
        lane = self._lane("" if stratum is None else stratum.length)
        for name in RECALL:
            value = candidate.get(name)
            if isinstance(value, _NUMBER):
                lane[_RECALL] += 1
                lane[_RECALL + 1] += value
        value = candidate.get(TOOLS)
        if isinstance(value, _NUMBER):
            lane[_TOOLS] += 1
            lane[_TOOLS + 1] += value
            if value > 0.0:
                self._fold_call(candidate, stratum)
        kl = candidate.get(KL)
        if kl is not None:
            tokens = self._tokens["plain" if stratum is None or not stratum.tools else "tools"]
            if isinstance(kl, _NUMBER):
                tokens[0] += 1
                _fold_kl(lane, self._spikes, candidate, kl)
            elif kl is Reason.TOKENS_DIFFER:
                tokens[0] += 1
                tokens[1] += 1
        if noise:
            self._fold_rerun(candidate, noise)

    def _lane(self, length: str) -> list[float]:
        lane = self._lanes.get(length)
        if lane is None:
            lane = self._lanes[length] = [0.0] * _LANE
        return lane

    def _fold_call(self, candidate: Scores, stratum: Stratum | None) -> None:
        counts = self._calls["stream" if stratum is not None and stratum.stream else "whole"]
        counts[0] += 1
        early = candidate.get(EARLY)
        if isinstance(early, _NUMBER):
            counts[1] += 1
            counts[2] += early == 0.0

    def _fold_rerun(self, candidate: Scores, noise: Scores) -> None:
        for name, sums in self._reruns.items():
            again, value = noise.get(name), candidate.get(name)
            if not isinstance(again, _NUMBER) or not isinstance(value, _NUMBER):
                continue
            if 0.0 <= again <= LARGEST and 0.0 <= value <= LARGEST:
                if name == KL:  # by its logarithm, as everywhere
                    contrast = math.log((again + KL_FLOOR) / (KERNEL_SHARE * value + KL_FLOOR))
                else:
                    contrast = again - KERNEL_SHARE * value
                sums[0] += 1
                sums[1] += value
                sums[2] += again
                sums[3] += contrast
                sums[4] += contrast * contrast
        kl = noise.get(KL)
        if isinstance(kl, _NUMBER):
            _fold_spike(self._noise_spikes, noise, kl)

    # ---- what the rules read

    def loss(self, of: str, lanes: Sequence[str] | None = None) -> tuple[float, int]:
        """What was lost of `recall` or `tools`, over all prompt lengths or the named ones, and of how many pairs."""
        at = _RECALL if of == "recall" else _TOOLS
        chosen = [lane for name, lane in sorted(self._lanes.items()) if lanes is None or name in lanes]
        return math.fsum(lane[at + 1] for lane in chosen), int(sum(lane[at] for lane in chosen))

    def recall_odds(self) -> Estimate | None:
        """ln of the odds of losing a recall over those of losing a tool call; None unless FEWEST_LOST were lost."""
        return _log_odds_ratio(self.loss("recall"), self.loss("tools"))

    def recall_growth(self, short: Sequence[str]) -> Estimate | None:
        """The same of recall on all other prompt lengths over recall on the `short` ones."""
        return _log_odds_ratio(
            self.loss("recall", [name for name in OCTAVES if name not in short]), self.loss("recall", short)
        )

    def kl_slope(self) -> tuple[Estimate, bool] | None:
        """By how much ln KL grows with each doubling of the prompt, and whether it is in units of the doubt."""
        for at in (_SHIFT, _PLAIN):
            found = _slope([(x, n, mean, var) for _, x, n, mean, var in self._points(at)])
            if found is not None:
                return found, at == _SHIFT
        return None

    def kl_levels(self) -> list[tuple[str, float, Estimate]]:
        """Per prompt length, shortest first: its name, its place in doublings, and ln KL as `kl_slope` takes it."""
        for at in (_SHIFT, _PLAIN):
            points = self._points(at)
            if points:
                return [(name, x, Estimate(mean, math.sqrt(var / n), n)) for name, x, n, mean, var in points]
        return []

    def _points(self, at: int) -> list[tuple[str, float, int, float, float]]:
        found = []
        for name, x in OCTAVES.items():
            lane = self._lanes.get(name)
            if lane is None or lane[at] < FEWEST_PER_LANE:
                continue
            count, mean = lane[at], lane[at + 1] / lane[at]
            spread = max(lane[at + 2] / count - mean * mean, 0.0) * count / (count - 1.0)
            found.append((name, x, int(count), mean, max(spread, _LEAST_SPREAD)))
        return found

    def kl(self) -> Estimate | None:
        """The mean KL. Units: nats."""
        return _mean(self._spikes[0], self._spikes[1], self._spikes[3])

    def spikiness(self, of_noise: bool = False) -> Estimate | None:
        """The largest step's KL over the mean step's, a ratio of sums over requests; None without any divergence."""
        count, kl, peak, kl2, peak2, cross = self._noise_spikes if of_noise else self._spikes
        if count < FEWEST_PER_LANE or kl <= KL_FLOOR * count:
            return None
        ratio = peak / kl
        residual = max(peak2 - 2.0 * ratio * cross + ratio * ratio * kl2, 0.0)
        return Estimate(ratio, max(math.sqrt(residual) / kl, 1e-9 * ratio, 1e-300), int(count))

    def rerun(self, name: str) -> tuple[float, float, Estimate] | None:
        """Where both sides have the score: candidate's mean, the re-run's, and their contrast.

        The contrast is re-run - KERNEL_SHARE * candidate; of KL, the logarithm of the one over the other.
        """
        sums = self._reruns.get(name)
        contrast = None if sums is None else _mean(sums[0], sums[3], sums[4])
        if sums is None or contrast is None:
            return None
        return sums[1] / sums[0], sums[2] / sums[0], contrast

    def tokens(self) -> Mapping[str, Sequence[int]]:
        """By `tools` and `plain`: pairs whose prompt tokens were compared, and that differ."""
        return self._tokens

    def calls(self) -> Mapping[str, Sequence[int]]:
        """By `stream` and `whole`: calls that differ; of these those whose tokens are known; and are the same."""
        return self._calls

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` gives the same tally."""
        return {
            "lanes": {length: list(lane) for length, lane in sorted(self._lanes.items())},
            "spikes": list(self._spikes),
            "noise_spikes": list(self._noise_spikes),
            "reruns": {name: list(sums) for name, sums in self._reruns.items()},
            "tokens": {name: list(counts) for name, counts in self._tokens.items()},
            "calls": {name: list(counts) for name, counts in self._calls.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PatternTally:
        """The tally that `to_json` wrote."""
        tally = cls()
        tally._lanes = {length: list(lane) for length, lane in data["lanes"].items()}
        tally._spikes, tally._noise_spikes = list(data["spikes"]), list(data["noise_spikes"])
        tally._reruns = {name: list(data["reruns"][name]) for name in RERUN}
        tally._tokens = {name: list(data["tokens"][name]) for name in ("tools", "plain")}
        tally._calls = {name: list(data["calls"][name]) for name in ("stream", "whole")}
        return tally


_LEAST_SPREAD = 1e-12  # of equal numbers: an error is never 0


def _fold_kl(lane: list[float], spikes: list[float], scores: Scores, kl: float) -> None:
    if not 0.0 <= kl <= LARGEST:
        return
    doubt = scores.get(DOUBT)
    if isinstance(doubt, _NUMBER):
        at, level = _SHIFT, math.log((kl + KL_FLOOR) / (doubt + DOUBT_FLOOR))
    else:
        at, level = _PLAIN, math.log(kl + KL_FLOOR)
    lane[at] += 1
    lane[at + 1] += level
    lane[at + 2] += level * level
    _fold_spike(spikes, scores, kl)


def _fold_spike(spikes: list[float], scores: Scores, kl: float) -> None:
    peak = scores.get(KL_MAX)
    if not isinstance(peak, _NUMBER) or not 0.0 <= kl <= LARGEST or not 0.0 <= peak <= LARGEST:
        return
    spikes[0] += 1
    spikes[1] += kl
    spikes[2] += peak
    spikes[3] += kl * kl
    spikes[4] += peak * peak
    spikes[5] += kl * peak


def _mean(count: float, total: float, squares: float) -> Estimate | None:
    if count < FEWEST_PER_LANE:
        return None
    mean = total / count
    spread = max(squares / count - mean * mean, _LEAST_SPREAD * max(mean * mean, 1e-12))
    return Estimate(mean, math.sqrt(spread / (count - 1.0)), int(count))


def _log_odds_ratio(one: tuple[float, int], other: tuple[float, int]) -> Estimate | None:
    """Half a pair is added to each cell (Haldane, Anscombe), so that none lost and all lost have their error."""
    (lost, of), (lost_other, of_other) = one, other
    if min(of, of_other) < FEWEST_PER_LANE or lost + lost_other < FEWEST_LOST:
        return None
    cells = [max(cell, 0.0) + 0.5 for cell in (lost, of - lost, lost_other, of_other - lost_other)]
    value = math.log(cells[0] / cells[1]) - math.log(cells[2] / cells[3])
    return Estimate(value, math.sqrt(sum(1.0 / cell for cell in cells)), of + of_other)


def _slope(points: Sequence[tuple[float, int, float, float]]) -> Estimate | None:
    """The weighted least-squares slope of (x, pairs, mean, variance of one pair), each lane with its own spread."""
    pairs = sum(n for _, n, _, _ in points)
    if len(points) < 2:
        return None
    centre = math.fsum(n * x for x, n, _, _ in points) / pairs
    width = math.fsum(n * (x - centre) ** 2 for x, n, _, _ in points)
    slope = math.fsum(n * (x - centre) * mean for x, n, mean, _ in points) / width
    error = math.sqrt(math.fsum(n * (x - centre) ** 2 * var for x, n, _, var in points)) / width
    return Estimate(slope, error, pairs)
