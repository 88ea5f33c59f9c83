"""Each pattern to its axis, with the numbers that led there, and the near misses that must not be named."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.diagnose import FEWEST_PAIRS, FIXES, diagnose
from scorers.pattern import OCTAVES, PatternTally
from scorers.records import LENGTH_BUCKETS, Reason, Stratum
from scorers.verdict import AXES, Diagnosis
from tests.bench.diagnosis_confusion import JUDGED_PAIRS, LEAST_RIGHT, MOST_WRONG, confusion, summary

Scores = Mapping[str, float | Reason]
TOOLS, COPY, NEEDLES, KL = "tool_call_mismatch", "copy_recall_loss", "needle_recall_loss", "logprob_kl"
SHORT, MIDDLE, LONG, LONGER = "0-512", "1k-4k", "4k-16k", "16k-64k"


def cell(length: str, *, tools: bool = False, stream: bool = False) -> Stratum:
    return Stratum(length, tools, stream, greedy=True)


def fold(tally: PatternTally, count: int, scores: Scores, noise: Scores | None = None, **of: str | bool) -> None:
    stratum = cell(str(of.pop("length", SHORT)), **{name: bool(value) for name, value in of.items()})
    for _ in range(count):
        tally.fold(scores, noise or {}, stratum)


def damaged(
    kl: Mapping[str, float], count: int = 100, tail: float = 8.0, spread: float = 0.5, rerun: float = 0.0
) -> PatternTally:
    """KL by prompt length, its logarithm spread from request to request; the largest step is `tail` times the mean."""
    tally, dice = PatternTally(), random.Random(7)
    for length, mean in kl.items():
        for _ in range(count):
            value = mean * dice.lognormvariate(0.0, spread)
            again = rerun * dice.lognormvariate(0.0, spread)
            noise = {KL: again, "logprob_kl_max": 8.0 * again} if rerun else {}
            tally.fold({KL: value, "logprob_kl_max": tail * value, "reference_doubt": 0.2}, noise, cell(length))
    return tally


def lose(tally: PatternTally, name: str, bad: int, of: int, length: str = SHORT, early: float | None = None) -> None:
    more = {} if early is None else {"early_divergence": early}
    fold(tally, bad, {name: 1.0, **more}, length=length)
    fold(tally, of - bad, {name: 0.0, "early_divergence": 0.0}, length=length)


def said(found: Diagnosis) -> str:
    return "\n".join(found.evidence)


# ---- nothing to diagnose


def test_nothing_over_nothing_diagnosed() -> None:
    found = diagnose(damaged({SHORT: 0.1, LONG: 1.0}), [])
    assert (found.axis, found.fix) == ("undetermined", "")
    assert "nothing to diagnose" in said(found)


def test_every_axis_has_its_fix_and_only_undetermined_has_none() -> None:
    assert set(FIXES) == set(AXES)
    assert [axis for axis, fix in FIXES.items() if not fix] == ["undetermined"]


# ---- template


def test_other_prompt_tokens_come_before_any_weight_and_need_no_breach() -> None:
    tally = damaged({SHORT: 0.5})
    fold(tally, 5, {KL: Reason.TOKENS_DIFFER}, tools=True)
    found = diagnose(tally, [])
    assert found.axis == diagnose(tally, [TOOLS, KL]).axis == "template"
    assert found.evidence == ("the prompt's token ids differ between the arms on 5 of 5 pairs with tools",)


@pytest.mark.parametrize(
    ("differ", "of", "axis"), [(1, 20, "undetermined"), (3, 20, "template"), (9, 500, "undetermined")]
)
def test_one_stray_prompt_is_no_template(differ: int, of: int, axis: str) -> None:
    """A racing upgrade differs now and then; 1 of 20 may well be 1 of 1,000."""
    tally = PatternTally()
    fold(tally, differ, {KL: Reason.TOKENS_DIFFER})
    fold(tally, of - differ, {KL: 0.01})
    assert diagnose(tally, []).axis == axis
    assert diagnose(PatternTally(), [], prompt_token_mismatches=differ, pairs=of).axis == axis


def test_same_tokens_and_other_calls_are_the_parser_whatever_the_kl() -> None:
    tally = damaged({SHORT: 0.2, LONG: 0.2})
    lose(tally, TOOLS, 20, 100, early=0.0)
    found = diagnose(tally, [TOOLS])
    assert found.axis == "template"
    assert "on 20 of 20 requests whose tool calls differ, both arms generated the same tokens" in said(found)
    assert "streamed" not in said(found)
    assert diagnose(tally, [KL]).axis == "weights", "the calls are within their limit: the parser is not what is asked"


def test_other_tokens_are_not_the_parser_however_small_the_kl() -> None:
    """A confident model: INT4 weights broke a tenth of the shipped model's calls at a KL of 0.0007 nats."""
    tally = damaged({SHORT: 0.0005, LONG: 0.0005})
    lose(tally, TOOLS, 20, 100, early=0.6)
    assert diagnose(tally, [TOOLS]).axis == "weights"


def test_a_few_equal_replies_among_many_are_not_the_parser() -> None:
    tally = damaged({SHORT: 0.1, LONG: 0.1})
    lose(tally, TOOLS, 8, 8, early=0.0)
    lose(tally, TOOLS, 8, 80, early=0.5)
    assert diagnose(tally, [TOOLS]).axis == "weights"


def test_a_parser_that_fails_only_streamed_replies_is_told() -> None:
    tally = damaged({SHORT: 0.01})
    fold(tally, 10, {TOOLS: 1.0, "early_divergence": 0.0}, stream=True)
    found = diagnose(tally, [TOOLS])
    assert found.axis == "template"
    assert "all 10 were streamed" in said(found)
    fold(tally, 1, {TOOLS: 1.0, "early_divergence": 0.0})
    assert "streamed" not in said(diagnose(tally, [TOOLS]))


# ---- kernel


def test_a_reference_that_disagrees_with_itself_is_the_kernel() -> None:
    tally = damaged({SHORT: 0.1, LONG: 0.1})
    fold(tally, 10, {TOOLS: 1.0}, {TOOLS: 1.0})
    fold(tally, 90, {TOOLS: 0.0}, {TOOLS: 0.0})
    found = diagnose(tally, [TOOLS])
    assert found.axis == "kernel"
    assert "the reference against itself shows 0.1 (100 requests)" in said(found)


def test_two_re_runs_that_differ_among_thirty_are_chance() -> None:
    tally = damaged({SHORT: 0.1, LONG: 0.1}, rerun=1e-4)
    fold(tally, 2, {TOOLS: 1.0}, {TOOLS: 1.0})
    fold(tally, 28, {TOOLS: 0.0}, {TOOLS: 0.0})
    assert diagnose(tally, [TOOLS]).axis == "weights"


def test_a_run_that_differs_as_much_is_the_kernel_whatever_is_over() -> None:
    assert diagnose(damaged({SHORT: 0.1, LONG: 0.1}, rerun=0.09), [TOOLS]).axis == "kernel"
    unclear = diagnose(damaged({SHORT: 0.1, LONG: 0.1}, rerun=0.0495), [TOOLS])
    assert unclear.axis == "undetermined"
    assert "raise mirror.noise_rate" in unclear.evidence
    assert diagnose(damaged({SHORT: 0.1, LONG: 0.1}, rerun=0.01), [TOOLS]).axis == "weights"


def test_a_jump_between_two_levels_is_the_kernel() -> None:
    found = diagnose(damaged({SHORT: 0.001, MIDDLE: 0.001, LONG: 0.3, LONGER: 0.3}), [KL])
    assert found.axis == "kernel"
    assert f"between prompts of {MIDDLE} and of {LONG} tokens" in said(found)


@pytest.mark.parametrize(
    "kl",
    [
        {SHORT: 0.001, MIDDLE: 0.01, LONG: 0.1, LONGER: 1.0},  # a slope
        {SHORT: 0.01, MIDDLE: 0.01, LONG: 0.1, LONGER: 0.1},  # a small step
        {SHORT: 0.001, LONGER: 1.0},  # two points have no level sides
    ],
)
def test_growth_that_is_no_jump_is_the_kv_cache(kl: Mapping[str, float]) -> None:
    assert diagnose(damaged(kl), [KL]).axis == "kv_cache"


# ---- KV cache, weights, activations


def test_kl_that_grows_with_the_prompt_is_the_kv_cache() -> None:
    found = diagnose(damaged({SHORT: 0.01, MIDDLE: 0.03, LONG: 0.06}), [KL])
    assert found.axis == "kv_cache"
    assert "with each doubling of the prompt" in said(found)
    assert "per-head" in found.fix


def test_the_doubt_of_the_reference_is_taken_off() -> None:
    """Long prompts whose answers are as much more open as their KL is larger: nothing grows."""
    tally, dice = PatternTally(), random.Random(7)
    for length, scale in ((SHORT, 1.0), (LONG, 20.0)):
        for _ in range(100):
            kl = 0.005 * scale * dice.lognormvariate(0.0, 0.5)
            tally.fold({KL: kl, "logprob_kl_max": 8.0 * kl, "reference_doubt": 0.01 * scale}, {}, cell(length))
    assert diagnose(tally, [KL]).axis == "weights"


def test_recall_lost_as_readily_as_tools_is_the_kv_cache_at_any_length() -> None:
    tally = damaged({SHORT: 0.05})
    lose(tally, COPY, 30, 100)
    lose(tally, TOOLS, 5, 100, early=0.5)
    found = diagnose(tally, [COPY])
    assert found.axis == "kv_cache"
    assert "recall is lost on 30.0% of 100 pairs, tool calls on 5.0% of 100" in said(found)


def test_needles_count_as_recall() -> None:
    tally = damaged({SHORT: 0.05})
    lose(tally, NEEDLES, 30, 100, length=MIDDLE)
    lose(tally, TOOLS, 2, 100, early=0.5)
    assert diagnose(tally, [NEEDLES]).axis == "kv_cache"


def test_recall_lost_on_long_prompts_and_kept_on_short_ones_is_the_kv_cache() -> None:
    """A workload without tools and without replays."""
    tally = PatternTally()
    lose(tally, COPY, 0, 60)
    lose(tally, COPY, 20, 60, length=LONG)
    found = diagnose(tally, [COPY])
    assert found.axis == "kv_cache"
    assert "recall is lost on 0.0% of 60 pairs below 1024 tokens and on 33.3% of 60 from there on" in said(found)


def test_recall_lost_everywhere_with_nothing_beside_it_is_undetermined() -> None:
    tally = damaged({SHORT: 0.05})
    lose(tally, COPY, 20, 60)
    found = diagnose(tally, [COPY])
    assert found.axis == "undetermined"
    assert "run the recipe with BF16 KV on the same backend" in said(found)


def test_tool_calls_lost_while_recall_is_stable_are_weights() -> None:
    tally = damaged({SHORT: 0.05})
    lose(tally, COPY, 0, 100)
    lose(tally, TOOLS, 20, 100, early=0.5)
    found = diagnose(tally, [TOOLS])
    assert found.axis == "weights"
    assert "tool-use" in found.fix or "tool use" in found.fix


def test_where_all_is_broken_nothing_is_told_apart() -> None:
    tally = damaged({SHORT: 2.0, LONG: 2.6}, spread=3.0)
    lose(tally, COPY, 98, 100)
    lose(tally, TOOLS, 98, 100, early=0.9)
    assert diagnose(tally, [TOOLS, COPY]).axis == "undetermined"


@pytest.mark.parametrize(("lost", "axis"), [(30, "undetermined"), (10, "kv_cache")])
def test_recall_lost_on_most_short_prompts_is_no_sign_of_the_kv_cache(lost: int, axis: str) -> None:
    """FP4 activations per tensor on the shipped model: no recall at all, and tool calls that mostly still agree on
    "no call"; the odds alone would say KV cache."""
    tally = PatternTally()
    lose(tally, COPY, lost, 40)
    lose(tally, COPY, 40, 40, length=LONG)
    lose(tally, TOOLS, 4, 11, early=0.9)
    lose(tally, TOOLS, 1, 30, early=0.9)
    found = diagnose(tally, [COPY])
    assert found.axis == axis
    assert ("set one axis back to BF16" in said(found)) == (axis == "undetermined")


def test_contradicting_contrasts_are_undetermined_whatever_the_sample() -> None:
    """KL grows with the prompt, yet recall holds while tool calls break."""
    tally = damaged({SHORT: 0.01, LONG: 0.1}, count=5_000)
    lose(tally, COPY, 0, 3_000)
    lose(tally, TOOLS, 900, 3_000, early=0.5)
    found = diagnose(tally, [TOOLS])
    assert found.axis == "undetermined"
    assert len(found.evidence) > 2, "both contrasts are told"


def test_spikes_are_activations_only_beyond_the_models_own() -> None:
    level = {SHORT: 0.05, LONG: 0.05}
    assert diagnose(damaged(level, tail=100.0, rerun=1e-4), [KL]).axis == "activations"
    assert diagnose(damaged(level, tail=100.0), [KL]).axis == "activations"
    assert diagnose(damaged(level, tail=26.0), [KL]).axis == "weights"
    own = damaged(level, tail=100.0)
    fold(own, 50, {KL: 0.05}, {KL: 1e-4, "logprob_kl_max": 5e-3})
    assert diagnose(own, [KL]).axis == "weights", (
        "the reference against itself is as spiky: the model's answers are sure"
    )


def test_short_prompts_alone_are_weights_and_long_ones_alone_undetermined() -> None:
    found = diagnose(damaged({SHORT: 0.1}), [KL])
    assert found.axis == "weights"
    assert "a KV cache has little to forget" in said(found)
    long = diagnose(damaged({LONG: 0.1}), [KL])
    assert long.axis == "undetermined"
    assert "raise sampling.rate" in said(long)


def test_a_slope_that_few_pairs_cannot_tell_is_undetermined() -> None:
    found = diagnose(damaged({SHORT: 0.01, LONG: 0.02}, count=12, spread=2.0), [KL])
    assert found.axis == "undetermined"
    assert "wait for more pairs" in said(found) or "needle_rate" in said(found)


def test_too_few_pairs_name_the_settings_that_bring_more() -> None:
    found = diagnose(damaged({SHORT: 0.5}, count=FEWEST_PAIRS - 1), [TOOLS, KL])
    assert found.axis == "undetermined"
    assert found.evidence[0] == "over the limit: tool_call_mismatch, logprob_kl"
    assert "mirror.replay_rate" in said(found)
    assert "mirror.needle_rate" in said(found)


# ---- all of it, and whatever comes


def test_planted_failures_are_named_and_seldom_wrongly() -> None:
    """A small draw of `make bench`, where the shares are judged: its bounds, and the spread of so few runs."""
    found = summary(confusion(JUDGED_PAIRS, runs=6))
    assert found["right"] >= LEAST_RIGHT - 0.05
    assert found["wrong"] <= MOST_WRONG


_NUMBERS = st.one_of(
    st.sampled_from([*Reason]),
    st.sampled_from([0.0, 1.0, 1e-12, 1e12, 1e300]),
    st.floats(0.0, 10.0, allow_subnormal=True),
)
_NAMES = (TOOLS, COPY, NEEDLES, KL, "logprob_kl_max", "reference_doubt", "early_divergence", "logprob_tv")
_SIDES = st.dictionaries(st.sampled_from(_NAMES), _NUMBERS, max_size=len(_NAMES))
_STRATA = st.one_of(
    st.none(),
    st.builds(Stratum, st.sampled_from([n for n, _ in LENGTH_BUCKETS]), st.booleans(), st.booleans(), st.booleans()),
)
_ROWS = st.lists(st.tuples(st.integers(1, 40), _SIDES, _SIDES, _STRATA), max_size=8)
_OVER = st.lists(st.sampled_from([*_NAMES, "length_ratio"]), unique=True)


@settings(max_examples=150, deadline=None)
@given(_ROWS, _OVER, st.integers(0, 50), st.integers(0, 500))
def test_any_rows_give_one_axis_with_evidence_and_no_nan(
    rows: Iterable[tuple[int, Scores, Scores, Stratum | None]], over: list[str], mismatches: int, pairs: int
) -> None:
    tally = PatternTally()
    for count, candidate, noise, stratum in rows:
        for _ in range(count):
            tally.fold(candidate, noise, stratum)
        found = diagnose(tally, over, mismatches, pairs)
        assert found.axis in AXES
        assert found.evidence
        assert bool(found.fix) == (found.axis != "undetermined")
        assert "nan" not in said(found).replace("undetermined", "")
        assert found == diagnose(PatternTally.from_json(tally.to_json()), over, mismatches, pairs)


def test_every_bucket_has_its_place() -> None:
    places = [OCTAVES[name] for name, _ in LENGTH_BUCKETS]
    assert all(a < b for a, b in pairwise(places))
