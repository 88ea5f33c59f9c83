"""How far two next-token distributions are apart, from the top-k lists that any engine gives.

P = reference (right), Q = candidate (left); natural logarithms. Steps 0..d are compared, d the first step
at which the two replies emit different tokens: up to and including it, both distributions are conditioned
on the same prefix. The arithmetic of one step is divergence.py's.

Source:  metrology, section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from scorers.divergence import Steps, compare, joined_steps
from scorers.grid import TOKEN_ID_PREFIX, Ids, KeyCodes, TokenGrid, forced_grid, grid_of
from scorers.records import (
    Choice,
    DecodedReply,
    DecodedRequest,
    Json,
    Pair,
    Reason,
    Score,
    Scored,
    ScoreSpec,
    Unscored,
    length_bucket,
)

KL, KL_MAX, TV, TOP1 = "logprob_kl", "logprob_kl_max", "logprob_tv", "top1_disagreement"
EARLY, TAIL, TEACHER = "early_divergence", "tail_mass", "teacher_forced_kl"

SPECS: tuple[ScoreSpec, ...] = (
    ScoreSpec(KL, "nats", False, "mean over the aligned prefix of D_S(reference||candidate), bucketed tail"),
    ScoreSpec(KL_MAX, "nats", False, "largest D_S(reference||candidate) of one step of the aligned prefix"),
    ScoreSpec(TV, "ratio", True, "mean over the aligned prefix of the bucketed total variation"),
    ScoreSpec(TOP1, "ratio", True, "share of aligned steps at which the two most likely tokens differ"),
    ScoreSpec(EARLY, "ratio", True, "share of the longer reply that comes after the first differing token"),
    ScoreSpec(TAIL, "ratio", True, "mean reference mass outside the tokens that both lists know"),
    ScoreSpec(TEACHER, "nats", False, "mean D_S(candidate||reference) on the candidate's own tokens, one prefill"),
)
_PREFIX_NAMES = (KL, KL_MAX, TV, TOP1, TAIL)

MIN_SERVED_TOP = 5  # choice: a served reply with shorter lists is not mixed with replays at top 20


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
    reason = _unready(pair)
    if reason is not None:
        return tuple(Unscored(name, reason) for name in _PREFIX_NAMES)
    codes = None if _by_id(pair.left) else KeyCodes()
    compared = [
        _compared(_grid(left, codes), _grid(right, codes))
        for left, right in zip(pair.left.choices, pair.right.choices, strict=False)
    ]
    steps = joined_steps(compared)
    if not len(steps):
        return tuple(Unscored(name, Reason.EMPTY_REPLY) for name in _PREFIX_NAMES)
    explanation: dict[str, Json] = {
        "direction": "D_S(reference||candidate)",
        "steps": len(steps),
        "sum_nats": float(steps.kl.sum()),
        "clamped": steps.clamped,
        "by_position": _by_position(steps, [len(part) for part in compared], _prompt_tokens(pair)),
    }
    return (
        Score(KL, float(steps.kl.mean()), explanation),
        Score(KL_MAX, float(steps.kl.max()), {"step": int(steps.kl.argmax())}),
        Score(TV, float(steps.tv.mean())),
        Score(TOP1, float(steps.disagree.mean()), {"differing_steps": int(steps.disagree.sum())}),
        Score(TAIL, float(steps.tail.mean()), {"largest": float(steps.tail.max())}),
    )


def _compared(left: TokenGrid, right: TokenGrid) -> Steps:
    """The steps up to and including the first that emits different tokens."""
    shorter = min(len(left), len(right))
    count = min(_first_difference(left.chosen, right.chosen) + 1, shorter)
    return compare(right.head(count), left.head(count))


def _grid(choice: Choice, codes: KeyCodes | None) -> TokenGrid:
    logprobs = choice.logprobs
    if logprobs is None:
        raise ValueError("a choice without logprobs")
    return logprobs if isinstance(logprobs, TokenGrid) else grid_of(logprobs, codes)


def _first_difference(left: Ids, right: Ids) -> int:
    """Index of the first differing token; the shorter length where one side is a prefix of the other."""
    shorter = min(len(left), len(right))
    differing = np.flatnonzero(left[:shorter] != right[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _unready(pair: Pair) -> Reason | None:
    """Why the aligned prefix cannot be scored, or None when it can."""
    if _without_logprobs(pair.left):
        return _absent(pair)
    if pair.left_served and pair.arm == "candidate" and _shortest_list(pair.left) < MIN_SERVED_TOP:
        return Reason.NOT_PLANNED
    if _without_logprobs(pair.right):
        return Reason.NO_LOGPROBS
    if prompts_differ(pair.left, pair.right):
        return Reason.TOKENS_DIFFER
    if _by_id(pair.left) != _by_id(pair.right):
        return Reason.NOT_PLANNED if pair.left_served else Reason.NO_LOGPROBS
    return None


def _without_logprobs(reply: DecodedReply) -> bool:
    return any(choice.logprobs is None for choice in reply.choices)


def _absent(pair: Pair) -> Reason:
    """What it means that the left side tells no logprobs: nobody asked for them, or they were lost."""
    return Reason.NOT_PLANNED if pair.left_served and not _asked(pair.request) else Reason.NO_LOGPROBS


def _asked(request: DecodedRequest) -> bool:
    """Whether the client asked for logprobs. An absent or zero count on a completion asks for none."""
    asked = request.body.get("logprobs")
    return asked is True if request.kind == "chat" else isinstance(asked, int) and asked > 0


def _shortest_list(reply: DecodedReply) -> int:
    """Entries of the shortest list; a grid is as wide as its request asked."""
    sizes = (
        logprobs.ids.shape[1]
        if isinstance(logprobs, TokenGrid)
        else min(map(len, logprobs.top), default=MIN_SERVED_TOP)
        for logprobs in (choice.logprobs for choice in reply.choices)
        if logprobs is not None
    )
    return min(sizes, default=MIN_SERVED_TOP)


def _by_id(reply: DecodedReply) -> bool:
    """Whether the reply's keys are token ids; keys of another kind are other words for the same tokens."""
    for choice in reply.choices:
        if isinstance(choice.logprobs, TokenGrid):
            return True
        if choice.logprobs is not None and choice.logprobs.tokens:
            return choice.logprobs.tokens[0].startswith(TOKEN_ID_PREFIX)
    return True


def prompts_differ(left: DecodedReply, right: DecodedReply) -> bool:
    """True when the two arms are known to have read different prompts: another template or tokenizer."""
    if left.prompt_token_ids is not None and right.prompt_token_ids is not None:
        return left.prompt_token_ids != right.prompt_token_ids
    if left.prompt_tokens is not None and right.prompt_tokens is not None:
        return left.prompt_tokens != right.prompt_tokens
    return False


def _prompt_tokens(pair: Pair) -> int | None:
    ids = pair.right.prompt_token_ids
    return len(ids) if ids is not None else pair.right.prompt_tokens


def _by_position(steps: Steps, counts: Sequence[int], prompt_tokens: int | None) -> dict[str, Json]:
    """Mean KL by bucket of absolute position: flat means weights, rising means KV cache."""
    if prompt_tokens is None:
        return {}
    positions = prompt_tokens + np.concatenate([np.arange(count) for count in counts])
    first, last = length_bucket(int(positions.min())), length_bucket(int(positions.max()))
    if first == last:
        return {first: {"steps": len(positions), "mean_nats": float(steps.kl.mean())}}
    names = np.array([length_bucket(int(position)) for position in positions])
    return {
        name: {"steps": int((names == name).sum()), "mean_nats": float(steps.kl[names == name].mean())}
        for name in dict.fromkeys(names.tolist())
    }


def _early(pair: Pair) -> Scored:
    """1 - d/n per choice, d the first differing token, n the longer reply; needs tokens, not logprobs."""
    left, right = _tokens(pair)
    if left is None:
        unplanned = pair.left_served and not _without_logprobs(pair.left)  # texts where the reference has ids
        return Unscored(EARLY, Reason.NOT_PLANNED if unplanned else _absent(pair))
    if right is None:
        return Unscored(EARLY, Reason.NO_LOGPROBS)
    if prompts_differ(pair.left, pair.right):
        return Unscored(EARLY, Reason.TOKENS_DIFFER)
    sides = list(zip_longest(left, right, fillvalue=np.empty(0, np.int32)))
    lengths = [max(len(mine), len(other)) for mine, other in sides]
    if not any(lengths):
        return Unscored(EARLY, Reason.EMPTY_REPLY)
    firsts = [_first_difference(mine, other) for mine, other in sides]
    losses = [1.0 - first / length if length else 0.0 for first, length in zip(firsts, lengths, strict=True)]
    explanation = {
        "first_divergence": [first if first < n else None for first, n in zip(firsts, lengths, strict=True)],
        "tokens": {"left": [len(mine) for mine, _ in sides], "right": [len(other) for _, other in sides]},
    }
    return Score(EARLY, sum(losses) / len(losses), explanation)


def _tokens(pair: Pair) -> tuple[list[Ids] | None, list[Ids] | None]:
    """Each side's tokens by choice, as ids, or as numbered texts where neither side tells ids; None where it
    tells neither."""
    sides = [_token_ids(reply) for reply in (pair.left, pair.right)]
    if sides == [None, None] and not any(map(_without_logprobs, (pair.left, pair.right))):
        codes = KeyCodes()
        sides = [[_grid(choice, codes).chosen for choice in reply.choices] for reply in (pair.left, pair.right)]
    return sides[0], sides[1]


def _token_ids(reply: DecodedReply) -> list[Ids] | None:
    found: list[Ids] = []
    for choice in reply.choices:
        if choice.token_ids is not None:
            found.append(np.array(choice.token_ids, np.int64).astype(np.int32))
        elif choice.logprobs is not None and _by_id(reply):
            found.append(_grid(choice, None).chosen)
        else:
            return None
    return found


def _teacher_forced(pair: Pair) -> Scored:
    """KL(Q||P) on the candidate's own tokens of choice 0, Q from its decode, P from the reference's prefill."""
    if pair.teacher_forced is None:
        return Unscored(TEACHER, Reason.NOT_PLANNED)
    choice = pair.left.choices[0] if pair.left.choices else None
    if choice is None or choice.logprobs is None:
        return Unscored(TEACHER, Reason.NO_LOGPROBS)
    if not _by_id(pair.left):
        return Unscored(TEACHER, Reason.TOKENS_DIFFER)
    own, forced = _grid(choice, None), forced_grid(pair.teacher_forced.top)
    if len(own) != len(forced):
        return Unscored(TEACHER, Reason.TOKENS_DIFFER)
    if not len(own):
        return Unscored(TEACHER, Reason.EMPTY_REPLY)
    steps = compare(own, forced)
    explanation = {
        "direction": "D_S(candidate||reference)",
        "steps": len(steps),
        "sum_nats": float(steps.kl.sum()),
        "max_nats": float(steps.kl.max()),
        "clamped": steps.clamped,
    }
    return Score(TEACHER, float(steps.kl.mean()), explanation)
