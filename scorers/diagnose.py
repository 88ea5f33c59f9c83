"""From the pattern of a failure to the suspect axis and its fix, each with the numbers that led there.

The rules in their order, the cheapest explanation first. None names an axis on a mean alone: each compares, and asks
how many standard errors lie between. What no rule supports stays "undetermined", with what is missing.

1. template     the arms read other prompt tokens; or the calls differ where the generated tokens do not (a parser)
2. kernel       the reference differs from itself as much; or KL jumps at one prompt length and is level on both sides
3. kv_cache     KL grows with the prompt, and recall is lost as readily as tool calls
4. activations  neither, and a few steps carry the KL
5. weights      neither, and they do not

Where even short prompts lose most of their recall, 3 to 5 are not asked: all is broken.

Source:  DESIGN 2.8; metrology 3 and 5. "Measured" below means on the shipped model (backends/emulator/model): 350
held-out requests of all its kinds, 21 recipes, one axis at a time, D_S at top 20 along its right answers. The bounds
lie between what the weight and activation recipes showed and what the KV recipes did.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from scorers.pattern import FEWEST_LOST, FEWEST_PER_LANE, KERNEL_SHARE, KL, RERUN, Estimate, PatternTally
from scorers.records import LENGTH_BUCKETS
from scorers.verdict import Axis, Diagnosis

SURE = 2.0  # *choice*, standard errors: what names an axis of its own accord
UNLIKE_KV = -1.0  # *choice*, standard errors: from here on the KV cache is out, and what is left is named
FEWEST_PAIRS = 20  # *choice*: below it no number of ours says anything

TOKENS_DIFFER_SHARE = 0.01  # *choice*: a wrong template differs on every request of a kind, a racing upgrade on some
SAME_TOKENS_SHARE = 0.5  # *choice*: most of the calls that differ were generated alike
KL_PER_DOUBLING = 0.15
"""ln KL per doubling of the prompt, KL in units of the reference's doubt. Measured: weights and activations -0.53 to
-0.06 over all kinds of requests, at most 0.12 over needles alone; INT4, FP4 and INT3 KV 0.30 to 0.50, where not all is
broken. A KV cache of 8 bits shows 0.04 to 0.11 and breaks no budget."""
PLAIN_KL_PER_DOUBLING = 0.45
"""The same of KL as it is, for ledgers without the doubt: long prompts ask harder questions. Measured over needles
alone: weights and activations 0.30 to 0.42, KV 0.55."""
RECALL_ODDS = 0.25
"""Odds of a lost recall over those of a lost tool call. Measured: weights and activations to 0.16, KV from 0.6 on."""
JUMP_NATS = math.log(30.0)  # *choice*, of ln KL: ten times what INT4 KV does from the shortest bucket to the next
LEVEL = 0.25  # *choice*: the spread on either side of a jump, as a share of it
HEAVY_TAIL = 30.0  # *choice*: largest step over mean step; GGUF tables have their 99.9 % there on weights alone
HEAVIER_THAN_NOISE = 3.0  # *choice*: a model whose answers are mostly sure has heavy tails of its own; see `_spikes`
HEAVY_ALONE = 50.0  # *choice*: without a re-run that shows the model's own tail. Measured on weights: 6 to 26
SHORT_TOKENS = 1_024  # *choice*: up to here a KV cache has little to forget
ALL_BROKEN = 0.5  # *choice*: of recall on short prompts; FP4 activations per tensor lose all of it, INT4 KV a tenth
SHORT_LENGTHS = tuple(name for name, upper in LENGTH_BUCKETS if upper <= SHORT_TOKENS)
GROWS = math.log(2.0)  # *choice*, ln of the odds of a lost recall, long prompts over short ones; without tool calls

FIXES: Mapping[Axis, str] = {
    "template": "compare chat template, tokenizer and tool parser of both engines before touching the weights",
    "kernel": "make the reference repeatable (batch-invariant kernels, one attention backend), then measure again; "
    "what BF16 weights and KV still show on the candidate's engine and flags is the kernel's",
    "kv_cache": "per-head KV scales, or FP8 or BF16 KV; to rule the kernel out, run BF16 KV on the same backend",
    "activations": "weight-only quantization, or rotate the outliers away (QuaRot, SpinQuant)",
    "weights": "finer scales (per channel or smaller groups) and calibration data of the failing kind, e.g. tool use",
    "undetermined": "",
}


def diagnose(pattern: PatternTally, over: Sequence[str], prompt_token_mismatches: int = 0, pairs: int = 0) -> Diagnosis:
    """The suspect axis of the scores named in `over`, those beyond their limits.

    `prompt_token_mismatches` of `pairs` had arms that counted different prompt tokens. Other tokens are reported even
    when nothing is over: they make every other number meaningless.
    """
    found = _tokens(pattern, prompt_token_mismatches, pairs)
    if found is None and not over:
        return Diagnosis(evidence=("no budget is over its limit: nothing to diagnose",))
    for rule in (_parser, _noise, _jump):
        found = found or rule(pattern, over)
    return found or _precision(pattern, over)


def _found(axis: Axis, *evidence: str) -> Diagnosis:
    return Diagnosis(axis=axis, evidence=evidence, fix=FIXES[axis])


def _least_share(hits: float, of: float) -> float:
    """The lower end of Wilson's interval of a share, SURE standard errors wide; 0 without data."""
    if of <= 0:
        return 0.0
    share, z2 = min(hits / of, 1.0), SURE * SURE
    middle = share + z2 / (2.0 * of)
    return (middle - SURE * math.sqrt(share * (1.0 - share) / of + z2 / (4.0 * of * of))) / (1.0 + z2 / of)


def _tokens(pattern: PatternTally, prompt_token_mismatches: int, pairs: int) -> Diagnosis | None:
    said = [
        f"the prompt's token ids differ between the arms on {differ} of {of} pairs {kind} tools"
        for kind, (of, differ) in zip(
            ("with", "without"), (pattern.tokens()[name] for name in ("tools", "plain")), strict=True
        )
        if _least_share(differ, of) >= TOKENS_DIFFER_SHARE
    ]
    if _least_share(prompt_token_mismatches, max(pairs, prompt_token_mismatches)) >= TOKENS_DIFFER_SHARE:
        said.append(f"the arms counted different prompt tokens on {prompt_token_mismatches} of {pairs} pairs")
    return _found("template", *said) if said else None


def _parser(pattern: PatternTally, over: Sequence[str]) -> Diagnosis | None:
    """The same tokens, other calls: the model agrees, what reads its text does not."""
    if not any(name.startswith("tool_") for name in over):
        return None
    calls = pattern.calls()
    known, same = (sum(counts[at] for counts in calls.values()) for at in (1, 2))
    if _least_share(same, known) < SAME_TOKENS_SHARE:
        return None
    said = [
        f"on {same} of {known} requests whose tool calls differ, both arms generated the same tokens: not the model's"
    ]
    (streamed, _, _), (whole, _, _) = calls["stream"], calls["whole"]
    if not whole:
        said.append(f"all {streamed} were streamed: look at the streaming tool parser")
    return _found("template", *said)


def _noise(pattern: PatternTally, over: Sequence[str]) -> Diagnosis | None:
    for name in dict.fromkeys((*over, KL)):
        found = pattern.rerun(name) if name in RERUN else None
        if found is not None and found[2].pairs >= FEWEST_PAIRS and found[2].above(0.0) >= SURE:
            return _found(
                "kernel",
                f"{name} is {found[0]:.3g} where the reference was run again, and the reference against itself shows "
                f"{found[1]:.3g} ({found[2].pairs} requests): {KERNEL_SHARE:.0%} of it or more depends on the run, not "
                "on the bits",
            )
    return None


def _jump(pattern: PatternTally, over: Sequence[str]) -> Diagnosis | None:
    """KL that is level, jumps between two prompt lengths, and is level again: a kernel chosen by length."""
    levels = pattern.kl_levels()
    for cut in range(1, len(levels)):
        sides = levels[:cut], levels[cut:]
        if len(levels) < 3:
            break
        low, high = (sum(e.value * e.pairs for *_, e in side) / sum(e.pairs for *_, e in side) for side in sides)
        error = math.sqrt(
            sum(sum((e.error * e.pairs) ** 2 for *_, e in s) / sum(e.pairs for *_, e in s) ** 2 for s in sides)
        )
        spread = max(max(e.value for *_, e in side) - min(e.value for *_, e in side) for side in sides)
        if high - low - SURE * error >= JUMP_NATS and spread <= LEVEL * (high - low):
            return _found(
                "kernel",
                f"KL jumps {math.exp(min(high - low, 99.0)):.3g}-fold between prompts of {sides[0][-1][0]} and of "
                f"{sides[1][0][0]} tokens, and is level on both sides: bits know no threshold, a kernel may",
            )
    return None


def _precision(pattern: PatternTally, over: Sequence[str]) -> Diagnosis:
    """KV cache, activations or weights; each contrast is told, also one that speaks against the axis named."""
    lost, of = pattern.loss("recall", SHORT_LENGTHS)
    if _least_share(lost, of) >= ALL_BROKEN:
        return Diagnosis(
            evidence=(
                f"recall is lost on {lost / of:.1%} of {of} pairs below {SHORT_TOKENS} tokens too: where next to "
                "nothing works, no pattern tells one axis from another; set one axis back to BF16 at a time",
            )
        )
    contrasts = list(_contrasts(pattern))
    said = [sentence for _, sentence in contrasts]
    # Stouffer's sum; a contrast counts for at most five, or the larger sample alone would decide a contradiction
    like_kv = sum(max(-5.0, min(5.0, z)) for z, _ in contrasts) / math.sqrt(len(contrasts)) if contrasts else None
    if like_kv is not None and like_kv >= SURE:
        return _found("kv_cache", *said)
    kl = pattern.kl()
    if kl is None or kl.pairs < FEWEST_PAIRS:
        return Diagnosis(evidence=(*said, *_missing(pattern, over, contrasts)))
    short = [name for name, *_ in pattern.kl_levels() if name in SHORT_LENGTHS]
    again = pattern.rerun(KL)
    if again is not None and again[2].above(0.0) > -SURE:
        own = f"KL is {again[0]:.3g} nats, {again[1]:.3g} in the reference against itself: the run is not ruled out"
        return Diagnosis(evidence=(own, *said, "raise mirror.noise_rate"))
    if like_kv is None and not short:
        return Diagnosis(evidence=_missing(pattern, over, contrasts))
    alone = _recall_lost_alone(pattern)
    if like_kv is not None and like_kv > (-SURE if alone else UNLIKE_KV):
        return Diagnosis(evidence=(*said, *alone, *_missing(pattern, over, contrasts)))
    if like_kv is None and alone:
        return Diagnosis(evidence=(*alone, *_missing(pattern, over, contrasts)))
    if like_kv is None:
        said.append(f"every prompt with KL is below {SHORT_TOKENS} tokens, where a KV cache has little to forget")
    heavy, told = _spikes(pattern, kl)
    if heavy is None:
        return Diagnosis(evidence=(*said, told))
    return _found("activations" if heavy else "weights", *said, told)


def _contrasts(pattern: PatternTally) -> Iterator[tuple[float, str]]:
    """What tells the KV cache from the rest: standard errors towards it, and the sentence."""
    found = pattern.kl_slope()
    if found is not None and found[0].pairs >= FEWEST_PAIRS:
        slope, by_doubt = found
        bound = KL_PER_DOUBLING if by_doubt else PLAIN_KL_PER_DOUBLING
        what = "KL over the reference's doubt" if by_doubt else "KL"
        growth = [math.expm1(min(value, 50.0)) for value in (slope.value, bound)]
        yield (
            slope.above(bound),
            f"{what} changes by {growth[0]:+.0%} with each doubling of the prompt (standard error "
            f"{slope.error:.0%}, {slope.pairs} pairs); a KV cache's by more than {growth[1]:+.0%}",
        )
    odds = pattern.recall_odds()
    if odds is not None and odds.pairs >= FEWEST_PAIRS:
        (recall, of_recall), (tools, of_tools) = pattern.loss("recall"), pattern.loss("tools")
        yield (
            odds.above(math.log(RECALL_ODDS)),
            f"recall is lost on {recall / of_recall:.1%} of {of_recall} pairs, tool calls on {tools / of_tools:.1%} of "
            f"{of_tools}: a KV cache loses recall at no less than {RECALL_ODDS:g} times the odds of a tool call",
        )
    growth_of_loss = pattern.recall_growth(SHORT_LENGTHS) if odds is None else None
    # One that does not grow speaks for no axis: the KV recipes lose some on short prompts of the shipped model, too
    if growth_of_loss is not None and growth_of_loss.pairs >= FEWEST_PAIRS and growth_of_loss.value > GROWS:
        (short, of_short), (recall, of_recall) = pattern.loss("recall", SHORT_LENGTHS), pattern.loss("recall")
        yield (
            growth_of_loss.above(GROWS),
            f"recall is lost on {short / of_short:.1%} of {of_short} pairs below {SHORT_TOKENS} tokens and on "
            f"{(recall - short) / (of_recall - of_short):.1%} of {of_recall - of_short} from there on",
        )


def _recall_lost_alone(pattern: PatternTally) -> tuple[str, ...]:
    """The sentence when recall is lost and no tool call says whether anything else is: most KV recipes look so too."""
    lost, of = pattern.loss("recall")
    if pattern.recall_odds() is not None or lost < FEWEST_LOST:
        return ()
    return (
        f"recall is lost on {lost / of:.1%} of {of} pairs, and no tool calls tell whether other work suffers too: "
        "run the recipe with BF16 KV on the same backend, which leaves the weights",
    )


def _spikes(pattern: PatternTally, kl: Estimate) -> tuple[bool | None, str]:
    """Whether a few steps carry the KL (None: it cannot be told), and the sentence.

    How heavy is heavy depends on the model: where most answers are sure, a few open steps carry any damage. The
    reference's own re-run has the same open steps, and shows how heavy an even damage is there.
    """
    tail, own = pattern.spikiness(), pattern.spikiness(of_noise=True)
    if tail is None:
        return None, "no largest KL of a step is known beside the mean"
    what = f"the worst step of a reply has {tail.value:.3g} times the mean KL of {kl.value:.3g} nats"
    beside = "" if own is None else f", {own.value:.3g} times in the reference against itself"
    bound = HEAVY_ALONE if own is None else max(HEAVY_TAIL, HEAVIER_THAN_NOISE * own.value)
    if tail.above(bound) >= SURE:
        return True, f"KL comes in spikes: {what}{beside}"
    if tail.value >= bound:
        return None, f"{what}{beside}, which is about {bound:.3g}: too few pairs to tell spikes from an even KL"
    return False, f"KL without spikes: {what}{beside}; activations without outliers would look the same"


def _missing(pattern: PatternTally, over: Sequence[str], contrasts: Sequence[tuple[float, str]]) -> tuple[str, ...]:
    """What was not enough, and which setting brings more."""
    said = [f"over the limit: {', '.join(over)}"]
    kl = pattern.kl()
    if kl is None or kl.pairs < FEWEST_PAIRS:
        said.append(f"fewer than {FEWEST_PAIRS} pairs have logprobs: raise mirror.replay_rate")
    lanes = [name for name, _, _ in pattern.kl_levels()]
    if len(lanes) < 2:
        where = f"all in {lanes[0]} tokens" if lanes else "none"
        said.append(
            f"prompt lengths with {FEWEST_PER_LANE} pairs or more: {where}; whether damage grows with the prompt takes "
            "two: raise sampling.rate or sampling.large_body_rate"
        )
    if pattern.loss("recall")[1] < FEWEST_PER_LANE:
        said.append(f"fewer than {FEWEST_PER_LANE} pairs tell recall: raise mirror.needle_rate")
    if len(said) == 1:
        said.append("what is known speaks neither clearly for the KV cache nor against it: wait for more pairs")
    return tuple(said)
