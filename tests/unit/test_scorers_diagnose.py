"""Each pattern to its axis, with the sentence that led there; honest where it does not suffice."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from scorers.diagnose import FEWEST_PAIRS, FIXES, PatternTally, diagnose
from scorers.records import Reason
from scorers.verdict import AXES

Row = tuple[str, int, Mapping[str, float | Reason], Mapping[str, float | Reason]]
TOOLS, RECALL, NEEDLES, KL, PEAK = (
    *("tool_call_mismatch", "copy_recall_loss", "needle_recall_loss"),
    *("logprob_kl", "logprob_kl_max"),
)


def pattern(*rows: Row) -> PatternTally:
    tally = PatternTally()
    for length, count, candidate, noise in rows:
        for _ in range(count):
            tally.fold(candidate, noise, length)
    return tally


def test_nothing_over_nothing_diagnosed() -> None:
    found = diagnose(pattern(("0-512", 100, {TOOLS: 0.01, KL: 0.01}, {})), [])
    assert (found.axis, found.fix) == ("undetermined", "")
    assert "nothing to diagnose" in found.evidence[0]


def test_other_tokens_come_before_any_weight_and_need_no_breach() -> None:
    rows = pattern(("0-512", 100, {KL: 0.5, PEAK: 0.9, TOOLS: 1.0}, {}), ("0-512", 5, {KL: Reason.TOKENS_DIFFER}, {}))
    found = diagnose(rows, [])
    assert found.axis == "template"
    assert "5 of 105" in found.evidence[0]
    assert diagnose(pattern(), [], prompt_token_mismatches=3, pairs=100).axis == "template"
    assert diagnose(pattern(), [], prompt_token_mismatches=3, pairs=1_000).axis == "undetermined"
    assert diagnose(rows, [TOOLS]).axis == "template"


def test_a_stray_token_difference_is_no_template() -> None:
    rows = pattern(("0-512", 500, {KL: 0.5, PEAK: 0.9}, {}), ("0-512", 2, {KL: Reason.TOKENS_DIFFER}, {}))
    assert diagnose(rows, [KL]).axis == "weights"


def test_a_reference_that_disagrees_with_itself_is_the_kernel() -> None:
    found = diagnose(pattern(("0-512", 100, {TOOLS: 0.1, KL: 0.2, PEAK: 0.4}, {TOOLS: 0.08})), [TOOLS])
    assert found.axis == "kernel"
    assert "the reference against itself shows 0.08" in found.evidence[0]


def test_tools_fail_while_kl_is_near_zero_is_template_or_parser() -> None:
    assert diagnose(pattern(("0-512", 100, {TOOLS: 0.3, KL: 0.0002}, {})), [TOOLS]).axis == "template"
    assert diagnose(pattern(("0-512", 100, {TOOLS: 0.3, KL: 0.2, PEAK: 0.5}, {})), [TOOLS]).axis == "weights"


@pytest.mark.parametrize(("name", "short", "long"), [(RECALL, 0.01, 0.4), (NEEDLES, 0.0, 0.5), (KL, 0.01, 0.05)])
def test_what_grows_with_the_prompt_is_the_kv_cache(name: str, short: float, long: float) -> None:
    rows = pattern(("0-512", 50, {name: short}, {}), ("16k-64k", 50, {name: long}, {}))
    found = diagnose(rows, [name])
    assert found.axis == "kv_cache"
    assert "grows with the prompt" in found.evidence[0]


def test_needles_lost_alone_are_the_kv_cache() -> None:
    assert diagnose(pattern(("0-512", 50, {NEEDLES: 0.6}, {})), [NEEDLES]).axis == "kv_cache"
    assert diagnose(pattern(("0-512", 50, {NEEDLES: 0.6}, {})), [NEEDLES, TOOLS]).axis == "undetermined"


@pytest.mark.parametrize("name", [RECALL, NEEDLES])
def test_recall_lost_alone_is_the_kv_cache_ahead_of_the_weights(name: str) -> None:
    """Neither bucket has pairs enough from LONG_TOKENS on to show growth, and the KL alone would say weights."""
    clean = {name: 0.0, TOOLS: 0.0, KL: 0.02, PEAK: 0.2}
    rows = pattern(("0-512", 60, clean, {}), ("1k-4k", 40, {**clean, name: 0.4}, {}))
    found = diagnose(rows, [name, KL])
    assert found.axis == "kv_cache"
    assert found.evidence == (
        f"{name} is 16.0% while tool calls and text are within their limits",
        "and prompts below 1024 tokens are clean: 0.0%",
    )
    for other in (TOOLS, "text_mismatch"):
        assert diagnose(rows, [name, other]).axis == "weights"


def test_recall_lost_on_short_prompts_too_does_not_call_them_clean() -> None:
    found = diagnose(pattern(("0-512", 60, {RECALL: 0.2}, {})), [RECALL])
    assert found.evidence == (f"{RECALL} is 20.0% while tool calls and text are within their limits",)


def test_spikes_are_activations_and_an_even_kl_is_weights() -> None:
    assert diagnose(pattern(("0-512", 50, {KL: 0.02, PEAK: 2.0}, {})), [KL]).axis == "activations"
    flat = pattern(("0-512", 50, {KL: 0.02, PEAK: 0.2}, {}), ("16k-64k", 50, {KL: 0.025, PEAK: 0.2}, {}))
    found = diagnose(flat, [KL])
    assert found.axis == "weights"
    assert "flat in length" in found.evidence[1]


def test_too_few_pairs_are_undetermined_and_say_what_is_missing() -> None:
    found = diagnose(pattern(("0-512", FEWEST_PAIRS - 1, {KL: 0.5, PEAK: 9.0, TOOLS: 1.0}, {})), [TOOLS, KL])
    assert found.axis == "undetermined"
    assert found.evidence[0] == "over the limit: tool_call_mismatch, logprob_kl"
    assert any("replay_rate" in line for line in found.evidence)


def test_every_axis_has_its_fix_and_only_undetermined_has_none() -> None:
    assert set(FIXES) == set(AXES)
    assert [axis for axis, fix in FIXES.items() if not fix] == ["undetermined"]


def test_it_restores() -> None:
    rows = pattern(("0-512", 30, {KL: 0.1, TOOLS: 0.3}, {KL: 0.01}), ("64k+", 2, {KL: Reason.TOKENS_DIFFER}, {}))
    again = PatternTally.from_json(json.loads(json.dumps(rows.to_json())))
    assert again.to_json() == rows.to_json()
    assert again.mean(KL) == rows.mean(KL)
    assert again.floor(KL) == rows.floor(KL)
    again.fold({KL: 0.2}, {KL: 0.3}, "0-512")
    assert again.mean(KL) != rows.mean(KL)
