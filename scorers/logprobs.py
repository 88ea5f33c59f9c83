"""How far two next-token distributions are apart, from the top-k lists that any engine gives.

P = reference (right), Q = candidate (left); natural logarithms. S = tokens known under both at one step;
everything else is one bucket, so D_S(P||Q) <= KL(P||Q) and TV_S <= TV whatever k is (data processing).
Steps 0..d are compared, d the first step at which the two replies emit different tokens: up to and
including it, both distributions are conditioned on the same prefix.

Source:  metrology, section 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest

import numpy as np
import numpy.typing as npt

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
    TokenLogprobs,
    Unscored,
    length_bucket,
)
from scorers.wire import TOKEN_ID_PREFIX

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

FLOOR = 1e-12  # metrology 1: clamp here, and count
MIN_SERVED_TOP = 5  # choice: a served reply with shorter lists is not mixed with replays at top 20

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Steps:
    """What each compared step is worth.

    Shapes:  every array has one entry per step.
    Units:   kl in nats; tv and tail are masses in [0, 1]; disagree is 0 or 1.
    """

    kl: _Floats
    tv: _Floats
    tail: _Floats
    disagree: _Floats
    clamped: int


class LogprobScorer:
    """Scores of the `logprobs` family; without state."""

    family = "logprobs"
    specs = SPECS

    def __call__(self, pair: Pair) -> tuple[Scored, ...]:
        prefix = self._prefix(pair)
        by_name = {item.name: item for item in (*prefix, _early(pair), _teacher_forced(pair))}
        return tuple(by_name[spec.name] for spec in SPECS)

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        return tuple(Unscored(spec.name, why) for spec in SPECS)

    def _prefix(self, pair: Pair) -> tuple[Scored, ...]:
        reason = _unready(pair)
        if reason is not None:
            return tuple(Unscored(name, reason) for name in _PREFIX_NAMES)
        spans = [
            (left.logprobs, right.logprobs, _aligned(left.logprobs.tokens, right.logprobs.tokens))
            for left, right in zip(pair.left.choices, pair.right.choices, strict=False)
            if left.logprobs is not None and right.logprobs is not None
        ]
        if not any(count for _, _, count in spans):
            return tuple(Unscored(name, Reason.EMPTY_REPLY) for name in _PREFIX_NAMES)
        steps = compare(
            list(chain.from_iterable(_known(right, count) for _, right, count in spans)),
            list(chain.from_iterable(_known(left, count) for left, _, count in spans)),
        )
        explanation: dict[str, Json] = {
            "direction": "D_S(reference||candidate)",
            "steps": len(steps.kl),
            "sum_nats": float(steps.kl.sum()),
            "clamped": steps.clamped,
            "by_position": _by_position(steps, [count for _, _, count in spans], _prompt_tokens(pair)),
        }
        return (
            Score(KL, float(steps.kl.mean()), explanation),
            Score(KL_MAX, float(steps.kl.max()), {"step": int(steps.kl.argmax())}),
            Score(TV, float(steps.tv.mean())),
            Score(TOP1, float(steps.disagree.mean()), {"differing_steps": int(steps.disagree.sum())}),
            Score(TAIL, float(steps.tail.mean()), {"largest": float(steps.tail.max())}),
        )


def compare(p: Sequence[Mapping[str, float]], q: Sequence[Mapping[str, float]]) -> Steps:
    """D_S(P||Q), TV_S, the tail 1 - pS and top-1 disagreement at each step.

    Shapes:  p and q have one top-k list per step, none of them empty.
    Units:   nats in, nats and masses out.
    """
    sizes = np.fromiter(map(len, p), np.intp, len(p))
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    total = int(sizes.sum())
    log_p = np.fromiter(chain.from_iterable(map(dict.values, p)), np.float64, total)  # type: ignore[arg-type]
    log_q = np.fromiter(_looked_up(p, q), np.float64, total)
    common = ~np.isnan(log_q)
    top_q = np.fromiter((max(step.values()) for step in q), np.float64, len(q))
    agree = (
        common & (log_p == np.repeat(np.maximum.reduceat(log_p, starts), sizes)) & (log_q == np.repeat(top_q, sizes))
    )

    low = np.log(FLOOR)
    clamped = int(((log_p < low) & common).sum() + (log_q[common] < low).sum())
    log_p = np.where(common, np.clip(log_p, low, 0.0), -np.inf)
    log_q = np.where(common, np.clip(log_q, low, 0.0), -np.inf)
    mass_p, mass_q = np.exp(log_p), np.exp(log_q)
    gap = np.where(common, log_p, 0.0) - np.where(common, log_q, 0.0)
    inside = np.add.reduceat(mass_p * gap, starts)
    tail_p = 1.0 - np.add.reduceat(mass_p, starts)
    tail_q = 1.0 - np.add.reduceat(mass_q, starts)
    clamped += int((tail_p < FLOOR).sum() + (tail_q < FLOOR).sum())
    tail_p, tail_q = np.clip(tail_p, FLOOR, 1.0), np.clip(tail_q, FLOOR, 1.0)
    spread = np.add.reduceat(np.abs(mass_p - mass_q), starts) + np.abs(tail_p - tail_q)
    return Steps(
        kl=np.maximum(inside + tail_p * np.log(tail_p / tail_q), 0.0),
        tv=np.clip(0.5 * spread, 0.0, 1.0),
        tail=tail_p,
        disagree=1.0 - np.minimum(np.add.reduceat(agree.astype(np.float64), starts), 1.0),
        clamped=clamped,
    )


def _looked_up(p: Sequence[Mapping[str, float]], q: Sequence[Mapping[str, float]]) -> Iterator[float]:
    """For every entry of p in order, q's logprob of the same token, NaN where q does not list it."""
    missing = repeat(float("nan"))
    return chain.from_iterable(map(other.get, step, missing) for step, other in zip(p, q, strict=True))


def _known(logprobs: TokenLogprobs, count: int) -> Iterator[Mapping[str, float]]:
    """The first `count` lists, each with its chosen token, which some engines leave out of the list."""
    for token, logprob, top in zip(logprobs.tokens[:count], logprobs.chosen, logprobs.top, strict=False):
        yield top if token in top else {**top, token: logprob}


def _aligned(left: Sequence[str], right: Sequence[str]) -> int:
    """How many steps share their prefix: up to and including the first that differs."""
    shorter = min(len(left), len(right))
    return min(_first_difference(left, right) + 1, shorter)


def _first_difference(left: Sequence[str | int], right: Sequence[str | int]) -> int:
    """Index of the first differing token; the shorter length where one side is a prefix of the other."""
    shorter = min(len(left), len(right))
    if left[:shorter] == right[:shorter]:
        return shorter
    return next(i for i in range(shorter) if left[i] != right[i])


def _unready(pair: Pair) -> Reason | None:
    """Why the aligned prefix cannot be scored, or None when it can."""
    left = _side_unready(pair.left)
    if left is not None:
        return Reason.NOT_PLANNED if pair.left_served and not _asked(pair.request) else left
    if pair.left_served and pair.arm == "candidate" and _shortest_top(pair.left) < MIN_SERVED_TOP:
        return Reason.NOT_PLANNED
    right = _side_unready(pair.right)
    if right is not None:
        return right
    if prompts_differ(pair.left, pair.right):
        return Reason.TOKENS_DIFFER
    if _by_id(pair.left) != _by_id(pair.right):
        return Reason.NOT_PLANNED if pair.left_served else Reason.NO_LOGPROBS
    return None


def _side_unready(reply: DecodedReply) -> Reason | None:
    return Reason.NO_LOGPROBS if any(choice.logprobs is None for choice in reply.choices) else None


def _asked(request: DecodedRequest) -> bool:
    """Whether the client asked for logprobs. An absent or zero count on a completion asks for none."""
    asked = request.body.get("logprobs")
    return asked is True if request.kind == "chat" else isinstance(asked, int) and asked > 0


def _shortest_top(reply: DecodedReply) -> int:
    lists = chain.from_iterable(choice.logprobs.top for choice in reply.choices if choice.logprobs is not None)
    return min(map(len, lists), default=MIN_SERVED_TOP)


def _by_id(reply: DecodedReply) -> bool:
    """Whether the reply's keys are token ids; keys of another kind are other words for the same tokens."""
    keys = chain.from_iterable(choice.logprobs.tokens for choice in reply.choices if choice.logprobs is not None)
    return next(keys, TOKEN_ID_PREFIX).startswith(TOKEN_ID_PREFIX)


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
        str(name): {"steps": int((names == name).sum()), "mean_nats": float(steps.kl[names == name].mean())}
        for name in dict.fromkeys(names.tolist())
    }


def _early(pair: Pair) -> Scored:
    """1 - d/n per choice, d the first differing token, n the longer reply; needs tokens, not logprobs."""
    sides = [(_tokens(left), _tokens(right)) for left, right in zip_longest(pair.left.choices, pair.right.choices)]
    if any(left is None for left, _ in sides):
        served = pair.left_served and not _asked(pair.request)
        return Unscored(EARLY, Reason.NOT_PLANNED if served else Reason.NO_LOGPROBS)
    if any(right is None for _, right in sides):
        return Unscored(EARLY, Reason.NO_LOGPROBS)
    if prompts_differ(pair.left, pair.right):
        return Unscored(EARLY, Reason.TOKENS_DIFFER)
    known = [(left, right) for left, right in sides if left is not None and right is not None]
    if any(_kind(left) != _kind(right) for left, right in known if left and right):
        return Unscored(EARLY, Reason.NOT_PLANNED if pair.left_served else Reason.NO_LOGPROBS)
    lengths = [max(len(left), len(right)) for left, right in known]
    if not any(lengths):
        return Unscored(EARLY, Reason.EMPTY_REPLY)
    firsts = [_first_difference(left, right) for left, right in known]
    losses = [1.0 - first / length if length else 0.0 for first, length in zip(firsts, lengths, strict=True)]
    explanation = {
        "first_divergence": [first if first < n else None for first, n in zip(firsts, lengths, strict=True)],
        "tokens": {"left": [len(left) for left, _ in known], "right": [len(right) for _, right in known]},
    }
    return Score(EARLY, sum(losses) / len(losses), explanation)


def _tokens(choice: Choice | None) -> Sequence[str] | Sequence[int] | None:
    if choice is None:
        return ()
    if choice.token_ids is not None:
        return choice.token_ids
    return choice.logprobs.tokens if choice.logprobs is not None else None


def _kind(tokens: Sequence[str | int]) -> str:
    first = tokens[0]
    return "id" if isinstance(first, int) else "key"


def _teacher_forced(pair: Pair) -> Scored:
    """KL(Q||P) on the candidate's own tokens of choice 0, Q from its decode, P from the reference's prefill."""
    if pair.teacher_forced is None:
        return Unscored(TEACHER, Reason.NOT_PLANNED)
    own = pair.left.choices[0].logprobs if pair.left.choices else None
    if own is None or not own.tokens:
        return Unscored(TEACHER, Reason.NO_LOGPROBS if own is None else Reason.EMPTY_REPLY)
    forced = pair.teacher_forced.top
    if len(forced) != len(own.tokens) or not _by_id(pair.left) or not all(forced):
        return Unscored(TEACHER, Reason.TOKENS_DIFFER)
    steps = compare(list(_known(own, len(own.tokens))), list(forced))
    explanation = {
        "direction": "D_S(candidate||reference)",
        "steps": len(steps.kl),
        "sum_nats": float(steps.kl.sum()),
        "max_nats": float(steps.kl.max()),
        "clamped": steps.clamped,
    }
    return Score(TEACHER, float(steps.kl.mean()), explanation)
