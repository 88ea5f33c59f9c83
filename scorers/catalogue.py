"""Every scorer and every score name, in one visible list, and how a pair becomes scores.

A planted needle is no client's request: its pair is scored by the needle family alone, and that family
says NOT_A_PROBE of everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from scorers import logprobs, recall, text, tool_calls
from scorers.records import DecodedRequest, Pair, Probe, Reason, Score, Scored, Scorer, ScoreSpec, Unscored

_ALL_SPECS = (*tool_calls.SPECS, *logprobs.SPECS, *recall.COPY_SPECS, *recall.NEEDLE_SPECS, *text.SPECS)

SPECS: Mapping[str, ScoreSpec] = MappingProxyType({spec.name: spec for spec in _ALL_SPECS})


def scorers() -> dict[str, Scorer]:
    """A fresh scorer per family, by family, in the order in which their scores are reported.

    Scorers own bounded caches of compiled schemas: use one set per thread.
    """
    families: tuple[Scorer, ...] = (
        tool_calls.ToolCallScorer(),
        logprobs.LogprobScorer(),
        recall.CopyRecallScorer(),
        recall.NeedleScorer(),
        text.TextScorer(),
    )
    return {scorer.family: scorer for scorer in families}


def score_pair(scorers: Mapping[str, Scorer], pair: Pair) -> tuple[Scored, ...]:
    """One Score or Unscored per spec of the given scorers; a subset of `scorers()` scores a subset.

    Never raises: a scorer that does, or whose number is not finite or leaves its bounds, becomes
    Unscored(SCORER_ERROR) for its specs, which counts against the decision at stake and is visible.
    """
    results: list[Scored] = []
    for scorer in _applying(scorers, pair.probe):
        results.extend(_guarded(scorer, pair))
    return tuple(results)


def score_missing(
    scorers: Mapping[str, Scorer], request: DecodedRequest, why: Reason, probe: Probe | None = None
) -> tuple[Unscored, ...]:
    """What it means that no pair came of `request`: per spec, why its score does not apply where the request
    alone shows it, and `why` otherwise. `probe` is given when the request was a planted needle.

    Never raises: a scorer that does becomes Unscored(SCORER_ERROR) for its specs.
    """
    if probe is not None:
        specs = [spec for scorer in _applying(scorers, probe) for spec in scorer.specs]
        return tuple(Unscored(spec.name, why) for spec in specs)
    return tuple(missing for scorer in scorers.values() for missing in _guarded_missing(scorer, request, why))


def _applying(scorers: Mapping[str, Scorer], probe: Probe | None) -> list[Scorer]:
    if probe is None:
        return list(scorers.values())
    return [scorer for scorer in scorers.values() if scorer.family == recall.NeedleScorer.family]


def _guarded(scorer: Scorer, pair: Pair) -> tuple[Scored, ...]:
    try:
        scored = scorer(pair)
    except Exception as error:  # noqa: BLE001  a fault of ours in one family must not stop the monitor, nor pass unseen
        return _failed(scorer, type(error).__name__)
    if [item.name for item in scored] != [spec.name for spec in scorer.specs]:
        return _failed(scorer, "scores do not match the specs")
    return tuple(_sound(item, spec) for item, spec in zip(scored, scorer.specs, strict=True))


def _guarded_missing(scorer: Scorer, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
    try:
        missing = scorer.missing(request, why)
    except Exception as error:  # noqa: BLE001  the same: a request that one family cannot read is a counted loss
        return _failed(scorer, type(error).__name__)
    if [item.name for item in missing] != [spec.name for spec in scorer.specs]:
        return _failed(scorer, "scores do not match the specs")
    return missing


def _failed(scorer: Scorer, error: str) -> tuple[Unscored, ...]:
    return tuple(Unscored(spec.name, Reason.SCORER_ERROR, {"error": error}) for spec in scorer.specs)


def _sound(item: Scored, spec: ScoreSpec) -> Scored:
    if isinstance(item, Unscored):
        return item
    upper = 1.0 if spec.bounded else math.inf
    if math.isfinite(item.value) and 0.0 <= item.value <= upper:
        return item if type(item.value) is float else Score(item.name, float(item.value), item.explanation)
    return Unscored(item.name, Reason.SCORER_ERROR, {"error": "value outside its bounds"})
