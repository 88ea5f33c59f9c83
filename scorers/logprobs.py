"""How far two next-token distributions are apart, from the top-k lists that any engine gives.

P = reference (right), Q = candidate (left); natural logarithms. Steps 0..d are compared, d the first step
at which the two replies emit different tokens: up to and including it, both distributions are conditioned
on the same prefix. The arithmetic of one step is divergence.py's.

Whether a score applies is the request's and the reference's to say. A choice in which the left side gives no
token where the reference gives some is one step at the worst (TV, top-1 and tail 1.0; early divergence 1.0);
its KL has no bound, so it is lost. A served reply is compared when the client asked for lists as long as the
reference's.

Source:  metrology, section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from scorers.comparable import asks_tokens, by_id, grid, prompts_differ, says_anything, tokens_of, unready
from scorers.divergence import Steps, compare, joined_steps
from scorers.grid import Ids, KeyCodes, TokenGrid, forced_grid
from scorers.records import (
    LENGTH_BUCKETS,
    DecodedRequest,
    Json,
    Pair,
    Reason,
    Score,
    Scored,
    ScoreSpec,
    Unscored,
)

KL, KL_MAX, TV, TOP1 = "logprob_kl", "logprob_kl_max", "logprob_tv", "top1_disagreement"
EARLY, TAIL, TEACHER = "early_divergence", "tail_mass", "teacher_forced_kl"
DOUBT = "reference_doubt"

SPECS: tuple[ScoreSpec, ...] = (
    ScoreSpec(KL, "nats", False, "mean over the aligned prefix of D_S(reference||candidate), bucketed tail"),
    ScoreSpec(KL_MAX, "nats", False, "largest D_S(reference||candidate) of one step of the aligned prefix"),
    ScoreSpec(TV, "ratio", True, "mean over the aligned prefix of the bucketed total variation"),
    ScoreSpec(TOP1, "ratio", True, "share of aligned steps at which the two most likely tokens differ"),
    ScoreSpec(EARLY, "ratio", True, "share of the longer reply that comes after the first differing token"),
    ScoreSpec(TAIL, "ratio", True, "mean reference mass outside the tokens that both lists know"),
    ScoreSpec(DOUBT, "ratio", True, "mean over the aligned prefix of the reference's 1 - sum p^2: how open it was"),
    ScoreSpec(TEACHER, "nats", False, "mean D_S(candidate||reference) on the candidate's own tokens, one prefill"),
)
_UPPER_BOUNDS = np.array([upper for _, upper in LENGTH_BUCKETS])
_PREFIX_NAMES = (KL, KL_MAX, TV, TOP1, TAIL, DOUBT)


class LogprobScorer:
    """Scores of the `logprobs` family; without state."""

    family = "logprobs"
    specs = SPECS

    def __call__(self, pair: Pair) -> tuple[Scored, ...]:
        scored = (*_aligned_prefix(pair), _early(pair), _teacher_forced(pair))
        by_name = {item.name: item for item in scored}
        return tuple(by_name[spec.name] for spec in SPECS)

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        return tuple(Unscored(spec.name, why) for spec in SPECS)


def _aligned_prefix(pair: Pair) -> tuple[Scored, ...]:
    reason = unready(pair)
    if reason is not None:
        return tuple(Unscored(name, reason) for name in _PREFIX_NAMES)
    codes = KeyCodes() if False in (by_id(pair.left), by_id(pair.right)) else None
    rights = [grid(choice, codes) for choice in pair.right.choices]
    lefts = [grid(choice, codes) for choice in pair.left.choices[: len(rights)]]
    compared = [_compared(left, right) for left, right in zip(lefts, rights, strict=False)]
    steps = joined_steps(compared)
    silent = sum(len(right) > 0 for right in rights) - sum(len(part) > 0 for part in compared)
    if silent:
        return _with_silent(steps, silent)
    count, nats = len(steps), float(steps.kl.sum())
    explanation: dict[str, Json] = {
        "direction": "D_S(reference||candidate)",
        "steps": count,
        "sum_nats": nats,
        "clamped": steps.clamped,
        "by_position": _by_position(steps, [len(part) for part in compared], _prompt_tokens(pair)),
    }
    peak, differing = int(steps.kl.argmax()), int(steps.disagree.sum())
    return (
        Score(KL, nats / count, explanation),
        Score(KL_MAX, float(steps.kl[peak]), {"step": peak}),
        Score(TV, float(steps.tv.sum()) / count),
        Score(TOP1, differing / count, {"differing_steps": differing}),
        Score(TAIL, float(steps.tail.sum()) / count, {"largest": float(steps.tail.max())}),
        Score(DOUBT, float(steps.doubt.sum()) / count),
    )


def _with_silent(steps: Steps, silent: int) -> tuple[Scored, ...]:
    """The scores where in so many choices only the reference gave a token: each is one step at the worst."""
    explanation = {"silent_choices": silent}
    count = len(steps) + silent
    return (
        Unscored(KL, Reason.LEFT_EMPTY, explanation),
        Unscored(KL_MAX, Reason.LEFT_EMPTY, explanation),
        Score(TV, (float(steps.tv.sum()) + silent) / count, explanation),
        Score(TOP1, (float(steps.disagree.sum()) + silent) / count, explanation),
        Score(TAIL, (float(steps.tail.sum()) + silent) / count, explanation),
        Unscored(DOUBT, Reason.LEFT_EMPTY, explanation),
    )


def _compared(left: TokenGrid, right: TokenGrid) -> Steps:
    """The steps up to and including the first that emits different tokens."""
    shorter = min(len(left), len(right))
    count = min(_first_difference(left.chosen, right.chosen) + 1, shorter)
    return compare(right.head(count), left.head(count))


def _first_difference(left: Ids, right: Ids) -> int:
    """Index of the first differing token; the shorter length where one side is a prefix of the other."""
    shorter = min(len(left), len(right))
    differing = np.flatnonzero(left[:shorter] != right[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _prompt_tokens(pair: Pair) -> int | None:
    ids = pair.right.prompt_token_ids
    return len(ids) if ids is not None else pair.right.prompt_tokens


def _by_position(steps: Steps, counts: Sequence[int], prompt_tokens: int | None) -> dict[str, Json]:
    """Mean KL by bucket of absolute position: flat means weights, rising means KV cache."""
    if prompt_tokens is None:
        return {}
    positions = prompt_tokens + np.concatenate([np.arange(count) for count in counts])
    bucket = np.searchsorted(_UPPER_BOUNDS, positions, side="right")
    counted, summed = np.bincount(bucket), np.bincount(bucket, weights=steps.kl)
    return {
        LENGTH_BUCKETS[n][0]: {"steps": int(counted[n]), "mean_nats": float(summed[n] / counted[n])}
        for n in dict.fromkeys(bucket.tolist())
    }


def _early(pair: Pair) -> Scored:
    """1 - d/n per choice, d the first differing token, n the longer reply; needs tokens, not logprobs."""
    if pair.left_served and not asks_tokens(pair):
        return Unscored(EARLY, Reason.NOT_PLANNED)
    left, right = tokens_of(pair)
    if left is None or right is None:
        return Unscored(EARLY, Reason.NO_LOGPROBS)
    if prompts_differ(pair.left, pair.right):
        return Unscored(EARLY, Reason.TOKENS_DIFFER)
    sides = list(zip_longest(left, right, fillvalue=np.empty(0, np.int32)))
    lengths = [max(len(mine), len(other)) for mine, other in sides]
    firsts = [_first_difference(mine, other) for mine, other in sides]
    losses = [1.0 - first / length if length else 0.0 for first, length in zip(firsts, lengths, strict=True)]
    explanation = {
        "first_divergence": [first if first < n else None for first, n in zip(firsts, lengths, strict=True)],
        "tokens": {"left": [len(mine) for mine, _ in sides], "right": [len(other) for _, other in sides]},
    }
    return Score(EARLY, sum(losses) / len(losses), explanation)


def _teacher_forced(pair: Pair) -> Scored:
    """KL(Q||P) on the candidate's own tokens of choice 0, Q from its decode, P from the reference's prefill."""
    if pair.teacher_forced is None:
        return Unscored(TEACHER, Reason.NOT_PLANNED)
    choice = pair.left.choices[0] if pair.left.choices else None
    if choice is None or choice.logprobs is None:
        return Unscored(TEACHER, Reason.NO_LOGPROBS)
    if by_id(pair.left) is False:
        return Unscored(TEACHER, Reason.TOKENS_DIFFER)
    own, forced = grid(choice, None), forced_grid(pair.teacher_forced.top)
    if len(own) != len(forced):
        return Unscored(TEACHER, Reason.TOKENS_DIFFER)
    if not len(own):
        return Unscored(TEACHER, Reason.LEFT_EMPTY if says_anything(pair.right) else Reason.EMPTY_REPLY)
    steps = compare(own, forced)
    explanation = {
        "direction": "D_S(candidate||reference)",
        "steps": len(steps),
        "sum_nats": float(steps.kl.sum()),
        "max_nats": float(steps.kl.max()),
        "clamped": steps.clamped,
    }
    return Score(TEACHER, float(steps.kl.mean()), explanation)
