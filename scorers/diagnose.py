"""From the pattern of a failure to the suspect axis and its fix (DESIGN 2.8, metrology 5). A first version.

`PatternTally` keeps a few means by prompt length; `diagnose` reads them by rules in a fixed order, the cheapest
explanation first: other tokens, a reference that disagrees with itself, then KV cache, activations, weights. What no
rule supports stays "undetermined", with what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from scorers.records import LENGTH_BUCKETS, Reason
from scorers.verdict import Axis, Diagnosis

Scores: TypeAlias = Mapping[str, float | Reason]

KL = "logprob_kl"
KL_MAX = "logprob_kl_max"
TOOLS = ("tool_call_mismatch", "tool_schema_failure")
RECALL = ("copy_recall_loss", "needle_recall_loss")
SHORT_RANGE = (*TOOLS, "tool_trigger_mismatch", "tool_call_f1_loss", "text_mismatch", "json_invalid")
"""What damaged weights break on any prompt. Recall over its limit without one of these points at the cache."""
WATCHED = (KL, KL_MAX, *TOOLS, *RECALL)

FEWEST_PAIRS = 20  # *choice*: below it a mean of ours says nothing
TOKENS_DIFFER_SHARE = 0.01  # *choice*: a wrong template differs on every request, a racing upgrade on some
KL_NEAR_ZERO_NATS = 0.001  # twice llama.cpp's f16-against-f16 floor of 0.00055 (metrology 1)
KERNEL_SHARE = 0.5  # *choice*: the reference against itself reaches half of what the candidate shows
LONG_TOKENS, SHORT_TOKENS = 4_096, 1_024  # RULER's shortest length (metrology 3); a quarter of it is a *choice*
RISING = 3.0  # *choice*: long over short; below, the divergence counts as flat
RECALL_LOSS = 0.05  # the recall budget of metrology 4.5
HEAVY_TAIL = 30.0  # *choice*: mean of the largest step's KL over the mean KL; a spike on one token of a hundred

FIXES: Mapping[Axis, str] = {
    "template": "compare chat template, tokenizer and tool parser of both engines before touching the weights",
    "kernel": "make the reference repeatable (batch-invariant kernels, one attention backend), then measure again",
    "kv_cache": "per-head KV scales, or FP8 or BF16 KV; to rule the kernel out, run BF16 KV on the same backend",
    "activations": "weight-only quantization, or rotate the outliers away (QuaRot, SpinQuant)",
    "weights": "finer scales (per channel or smaller groups) and calibration data of the failing kind, e.g. tool use",
    "undetermined": "",
}


class PatternTally:
    """Counts and sums by score and prompt length. Its size depends on the closed sets alone."""

    __slots__ = ("_lanes", "_noise", "compared", "tokens_differ")

    def __init__(self) -> None:
        # By prompt length (and for the re-runs of any length): count and sum per watched score, side by side
        self._lanes: dict[str, list[float]] = {}
        self._noise: list[float] = _empty()
        self.compared = 0  # rows whose tokens were compared
        self.tokens_differ = 0

    def fold(self, candidate: Scores, noise: Scores, length: str) -> None:
        """Take in one planned row's two sides."""
        lane = self._lanes.get(length)
        if lane is None:
            lane = self._lanes[length] = _empty()
        _add(lane, candidate)
        if noise:
            _add(self._noise, noise)
        kl = candidate.get(KL)
        if kl is Reason.TOKENS_DIFFER:
            self.compared += 1
            self.tokens_differ += 1
        elif kl is not None and not isinstance(kl, Reason):
            self.compared += 1

    def mean(self, name: str, lengths: Sequence[str] | None = None) -> float | None:
        """The mean over the named prompt lengths, all by default; None below FEWEST_PAIRS."""
        return _mean([self._lanes[key] for key in sorted(self._lanes) if lengths is None or key in lengths], name)

    def floor(self, name: str) -> float | None:
        """The mean of the reference against itself; None below FEWEST_PAIRS."""
        return _mean([self._noise], name)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` gives the same tally."""
        return {
            "lanes": {length: list(lane) for length, lane in sorted(self._lanes.items())},
            "noise": list(self._noise),
            "compared": self.compared,
            "tokens_differ": self.tokens_differ,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PatternTally:
        """The tally that `to_json` wrote."""
        tally = cls()
        tally._lanes = {length: list(lane) for length, lane in data["lanes"].items()}
        tally._noise = list(data["noise"])
        tally.compared = data["compared"]
        tally.tokens_differ = data["tokens_differ"]
        return tally


def _empty() -> list[float]:
    return [0, 0.0] * len(WATCHED)


def _add(lane: list[float], scores: Scores) -> None:
    at = 0
    for name in WATCHED:
        value = scores.get(name)
        if value is not None and not isinstance(value, Reason):
            lane[at] += 1
            lane[at + 1] += value
        at += 2


def _mean(lanes: Sequence[Sequence[float]], name: str) -> float | None:
    if name not in WATCHED:
        return None
    at = 2 * WATCHED.index(name)
    count, total = 0.0, 0.0
    for lane in lanes:
        count += lane[at]
        total += lane[at + 1]
    return total / count if count >= FEWEST_PAIRS else None


def diagnose(pattern: PatternTally, over: Sequence[str], prompt_token_mismatches: int = 0, pairs: int = 0) -> Diagnosis:
    """The suspect axis of the scores named in `over`, those beyond their limits.

    `prompt_token_mismatches` of `pairs` had arms that counted different prompt tokens. Other tokens are reported even
    when nothing is over: they make every other number meaningless.
    """
    found = _tokens(pattern, prompt_token_mismatches, pairs)
    if found is None and not over:
        return Diagnosis(evidence=("no budget is over its limit: nothing to diagnose",))
    for rule in (_kernel, _parser, _kv_cache, _activations, _weights):
        found = found or rule(pattern, over)
    return found or Diagnosis(evidence=_missing(pattern, over))


def _found(axis: Axis, *evidence: str) -> Diagnosis:
    return Diagnosis(axis=axis, evidence=evidence, fix=FIXES[axis])


def _tokens(pattern: PatternTally, prompt_token_mismatches: int, pairs: int) -> Diagnosis | None:
    said = []
    if pattern.tokens_differ >= max(1.0, TOKENS_DIFFER_SHARE * pattern.compared):
        said.append(f"the prompt's token ids differ between the arms on {pattern.tokens_differ} of {pattern.compared}")
    if prompt_token_mismatches >= max(1.0, TOKENS_DIFFER_SHARE * pairs):
        said.append(f"the arms counted different prompt tokens on {prompt_token_mismatches} of {pairs} pairs")
    return _found("template", *said) if said else None


def _kernel(pattern: PatternTally, over: Sequence[str]) -> Diagnosis | None:
    for name in over:
        value, floor = pattern.mean(name), pattern.floor(name)
        if value is not None and floor is not None and floor > 0.0 and floor >= KERNEL_SHARE * value:
            return _found(
                "kernel",
                f"{name} is {value:.3g}, and the reference against itself shows {floor:.3g}: "
                "most of it depends on the run, not on the bits",
            )
    return None


def _parser(pattern: PatternTally, over: Sequence[str]) -> Diagnosis | None:
    kl = pattern.mean(KL)
    tools = [name for name in over if name in TOOLS]
    if not tools or kl is None or kl > max(KL_NEAR_ZERO_NATS, 2.0 * (pattern.floor(KL) or 0.0)):
        return None
    return _found(
        "template",
        f"{tools[0]} is over its limit while {KL} is {kl:.3g} nats, near the floor of a 16-bit run "
        f"({KL_NEAR_ZERO_NATS:g}): the model agrees, its template or tool parser does not",
    )


def _kv_cache(pattern: PatternTally, over: Sequence[str]) -> Diagnosis | None:
    """What is far back goes first where the cache is coarse: recall lost alone, or whatever grows with the prompt."""
    said = [line for name in (*RECALL, KL) if (line := _rises(pattern, name))]
    if not any(name in SHORT_RANGE for name in over):
        for name in RECALL:
            loss = pattern.mean(name)
            if name in over and loss is not None:
                said.append(f"{name} is {loss:.1%} while tool calls and text are within their limits")
                said.extend(_clean_when_short(pattern, name))
    return _found("kv_cache", *said) if said else None


def _clean_when_short(pattern: PatternTally, name: str) -> tuple[str, ...]:
    short = pattern.mean(name, _lengths(upto=SHORT_TOKENS))
    if short is None or short > RECALL_LOSS:
        return ()
    return (f"and prompts below {SHORT_TOKENS} tokens are clean: {short:.1%}",)


def _rises(pattern: PatternTally, name: str) -> str | None:
    """A sentence when the score is much worse on long prompts than on short ones."""
    short = pattern.mean(name, _lengths(upto=SHORT_TOKENS))
    long = pattern.mean(name, _lengths(above=LONG_TOKENS))
    least = RECALL_LOSS if name in RECALL else KL_NEAR_ZERO_NATS
    if short is None or long is None or long < least or long < RISING * short:
        return None
    return f"{name} grows with the prompt: {short:.3g} below {SHORT_TOKENS} tokens, {long:.3g} from {LONG_TOKENS} on"


def _activations(pattern: PatternTally, over: Sequence[str]) -> Diagnosis | None:
    mean, peak = pattern.mean(KL), pattern.mean(KL_MAX)
    if mean is None or peak is None or mean <= KL_NEAR_ZERO_NATS or peak < HEAVY_TAIL * mean:
        return None
    return _found("activations", f"KL comes in spikes: {peak:.3g} nats at the worst step, {mean:.3g} on the mean")


def _weights(pattern: PatternTally, over: Sequence[str]) -> Diagnosis | None:
    mean, peak = pattern.mean(KL), pattern.mean(KL_MAX)
    if mean is None or peak is None or mean <= KL_NEAR_ZERO_NATS:
        return None
    said = [f"{KL} is {mean:.3g} nats without spikes ({peak:.3g} at the worst step)"]
    short = pattern.mean(KL, _lengths(upto=SHORT_TOKENS))
    long = pattern.mean(KL, _lengths(above=LONG_TOKENS))
    if short is not None and long is not None:
        said.append(f"and flat in length: {short:.3g} below {SHORT_TOKENS} tokens, {long:.3g} from {LONG_TOKENS} on")
    said.extend(f"{name} is over its limit" for name in over if name in TOOLS)
    return _found("weights", *said)


def _missing(pattern: PatternTally, over: Sequence[str]) -> tuple[str, ...]:
    said = [f"over the limit: {', '.join(over)}"]
    if pattern.mean(KL) is None:
        said.append(f"fewer than {FEWEST_PAIRS} pairs have {KL}: give the mirror a replay_rate")
    if all(pattern.mean(name, _lengths(above=LONG_TOKENS)) is None for name in (*RECALL, KL)):
        said.append(f"fewer than {FEWEST_PAIRS} pairs have prompts from {LONG_TOKENS} tokens on")
    return tuple(said)


def _lengths(upto: int = 1 << 62, above: int = 0) -> tuple[str, ...]:
    """The buckets that lie between two token counts. Units: tokens."""
    lower = [0, *(upper for _, upper in LENGTH_BUCKETS[:-1])]
    return tuple(
        name for (name, upper), low in zip(LENGTH_BUCKETS, lower, strict=True) if low >= above and upper <= upto
    )
