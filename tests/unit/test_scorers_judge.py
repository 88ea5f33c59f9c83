"""The gate as a whole: who may pass, who may fail, what holds, and that the same rows give the same verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.judge import STICKY, Budget, EvidenceState, GateRules, VerdictContext, start
from scorers.records import LENGTH_BUCKETS, Disposition, Observation, Reason, Stratum

TOOLS = Budget("tool_call_mismatch", 0.03, bounded=True, critical=True)
TEXT = Budget("text_mismatch", 0.1, bounded=True, critical=False)
KL = Budget("logprob_kl", 0.05, bounded=False, critical=False, unit="nats")
RECALL = Budget("copy_recall_loss", 0.05, bounded=True, critical=True, strata=("length",))
RULES = GateRules()

Scores = Mapping[str, float | Reason]


def row(
    position: int,
    candidate: Scores,
    noise: Scores | None = None,
    *,
    length: str = "0-512",
    kind: Literal["live", "probe"] = "live",
) -> Observation:
    stratum = Stratum(length, tools=True, stream=False, greedy=True)
    return Observation(position, kind, "scored", None, stratum, candidate, noise or {})


def feed(state: EvidenceState, count: int, candidate: Scores, noise: Scores | None = None, **more: Any) -> None:
    first = state.position + 1
    for position in range(first, first + count):
        state.fold(row(position, candidate, noise, **more))


def clean(state: EvidenceState, count: int = 1_000) -> None:
    zero = {budget.name: 0.0 for budget in state.budgets}
    feed(state, count, zero, zero)


def test_no_data_never_passes() -> None:
    verdict = start([TOOLS, TEXT, KL], RULES).verdict()
    assert verdict.state == "inconclusive"
    assert verdict.reasons[0] == "nothing eligible was sampled yet"
    assert all(budget.state == "inconclusive" for budget in verdict.budgets.values())
    assert verdict.budgets["text_mismatch"].value is None


def test_a_budget_without_data_holds_the_recipe() -> None:
    state = start([TOOLS, TEXT], RULES)
    feed(state, 2_000, {"tool_call_mismatch": 0.0}, {"tool_call_mismatch": 0.0})
    verdict = state.verdict()
    assert verdict.budgets["tool_call_mismatch"].state == "pass"
    assert verdict.state == "inconclusive"
    assert verdict.reasons[0] == "text_mismatch: no data: no pair was scored yet"


def test_all_unscored_is_inconclusive() -> None:
    state = start([TOOLS, TEXT], RULES)
    feed(state, 3_000, {"tool_call_mismatch": Reason.REFERENCE_TIMEOUT, "text_mismatch": Reason.REFERENCE_TIMEOUT})
    verdict = state.verdict()
    assert verdict.state == "inconclusive"
    assert "coverage is too low: 0 of 3000" in verdict.reasons[0]
    assert (verdict.samples, verdict.coverage.lost) == (0, {"reference_timeout": 3_000})


def test_a_budget_that_no_pair_can_score_says_why_and_never_passes() -> None:
    state = start([TOOLS, TEXT, KL], RULES)
    feed(state, 3_000, {"tool_call_mismatch": 0.0, "text_mismatch": Reason.ENGINE_LACKS})
    why = {"text_mismatch": "no pair can: the reference lacks it", "logprob_kl": "no pair can: likewise"}
    verdict = state.verdict(VerdictContext(lacks=why))
    assert verdict.state == "inconclusive"
    assert "text_mismatch: no pair can: the reference lacks it" in verdict.reasons
    assert verdict.budgets["text_mismatch"].reasons[0] == why["text_mismatch"]
    assert "scores that never arrived and count against it: 3000" in verdict.budgets["text_mismatch"].reasons
    assert "logprob_kl: no pair can: likewise" in verdict.reasons  # none waits for it, and it is said


def test_a_lack_undoes_no_fail_and_no_pass() -> None:
    state = start([TOOLS], RULES)
    clean(state, 800)
    why = VerdictContext(lacks={"tool_call_mismatch": "no pair can"})
    assert state.verdict(why) == state.verdict()
    assert state.verdict(why).state == "pass"
    feed(state, 100, {"tool_call_mismatch": 1.0})
    assert state.verdict(why).state == "fail"
    assert "no pair can" not in " ".join(state.verdict(why).reasons)


def test_a_clean_candidate_passes_when_every_gate_is_through() -> None:
    state = start([TOOLS, TEXT, KL], RULES)
    clean(state, 500)
    assert state.verdict().state == "inconclusive"  # the contrast needs more than the absolute gate
    assert "noise floor" in state.verdict().reasons[0]
    clean(state, 300)
    verdict = state.verdict(VerdictContext(recipe="awq", epoch=4))
    assert verdict.state == "pass"
    assert "tool_call_mismatch 0 % against 3 % over 800 pairs" in verdict.reasons[0]
    assert (verdict.recipe, verdict.epoch, verdict.samples, verdict.noise_samples) == ("awq", 4, 800, 800)


def test_without_noise_pairs_nothing_passes() -> None:
    state = start([TOOLS], RULES)
    feed(state, 3_000, {"tool_call_mismatch": 0.0})
    verdict = state.verdict()
    assert verdict.state == "inconclusive"
    assert "no noise pair was scored yet" in verdict.reasons[0]
    assert verdict.budgets["tool_call_mismatch"].noise is None


def test_a_critical_budget_fails_the_recipe_and_stays() -> None:
    state = start([TEXT, TOOLS], RULES)
    clean(state, 2_000)
    feed(state, 60, {"tool_call_mismatch": 1.0, "text_mismatch": 0.0})
    verdict = state.verdict()
    assert verdict.state == "fail"
    assert verdict.reasons[0].startswith("tool_call_mismatch: changed for the worse after its promotion")
    clean(state, 20_000)
    assert state.verdict().state == "fail"


def test_a_fail_stands_whatever_coverage_and_holds_say() -> None:
    state = start([TOOLS], GateRules(min_coverage=0.9))
    feed(state, 60, {"tool_call_mismatch": 1.0})
    feed(state, 400, {"tool_call_mismatch": Reason.BREAKER_OPEN})
    verdict = state.verdict(VerdictContext(holds=("the contract no longer holds",)))
    assert verdict.state == "fail"
    assert verdict.reasons[0].startswith("tool_call_mismatch: over its limit")
    assert "the contract no longer holds" in verdict.reasons
    assert any("coverage is too low" in reason for reason in verdict.reasons)


def test_a_budget_that_is_not_critical_holds_and_cannot_fail() -> None:
    state = start([TOOLS, TEXT], RULES)
    feed(state, 3_000, {"tool_call_mismatch": 0.0, "text_mismatch": 1.0}, {"tool_call_mismatch": 0.0})
    verdict = state.verdict()
    assert verdict.budgets["text_mismatch"].state == "fail"
    assert verdict.state == "inconclusive"
    assert verdict.reasons[0].startswith("text_mismatch is not critical and holds the promotion: over its limit: 100 %")


def test_nothing_outvotes_a_critical_budget() -> None:
    others = [Budget(f"b{i}", 0.1, bounded=True, critical=False) for i in range(8)]
    state = start([*others, TOOLS], RULES)
    good = {budget.name: 0.0 for budget in others}
    feed(state, 2_000, {**good, "tool_call_mismatch": 1.0}, {**good, "tool_call_mismatch": 0.0})
    assert state.verdict().state == "fail"


def test_critical_budgets_share_the_alpha_of_rollback() -> None:
    def crossing(*others: Budget) -> int:
        state = start([TOOLS, *others], RULES)
        feed(state, 60, {"tool_call_mismatch": 1.0})
        at = state.verdict().budgets["tool_call_mismatch"].lane.first_crossed_position
        assert at is not None
        return at

    more = [Budget(f"b{i}", 0.1, bounded=True, critical=True, strata=("length",)) for i in range(20)]
    assert crossing() == crossing(TEXT) < crossing(*more)


def test_an_unbounded_budget_that_is_not_critical_does_not_block() -> None:
    state = start([TOOLS, KL], RULES)
    at_its_limit = {"tool_call_mismatch": 0.0, "logprob_kl": 0.05}
    feed(state, 3_000, at_its_limit, at_its_limit)
    verdict = state.verdict()
    assert verdict.budgets["logprob_kl"].state == "inconclusive"
    assert verdict.state == "pass"
    assert "logprob_kl: not certified; it can hold a promotion, and none waits for it" in verdict.reasons
    feed(state, 200, {"tool_call_mismatch": 0.0, "logprob_kl": 5.0})
    assert state.verdict().state == "inconclusive"
    assert "logprob_kl is not critical and holds the promotion" in state.verdict().reasons[0]


def test_an_unbounded_critical_budget_must_pass_both_gates_and_may_fail() -> None:
    critical = Budget("logprob_kl", 0.05, bounded=False, critical=True, unit="nats")
    state = start([critical], RULES)
    feed(state, 150, {"logprob_kl": 0.001})
    assert "may lie above 0.5 nats" in state.verdict().reasons[0]
    feed(state, 100, {"logprob_kl": 0.001})
    assert state.verdict().state == "pass"
    feed(state, 100, {"logprob_kl": 0.5})
    assert state.verdict().state == "fail"


def test_a_hold_forbids_a_pass_at_once() -> None:
    state = start([TOOLS], RULES)
    clean(state)
    assert state.verdict().state == "pass"
    verdict = state.verdict(VerdictContext(holds=("the contract no longer holds",)))
    assert (verdict.state, verdict.reasons[0]) == ("inconclusive", "the contract no longer holds")


def test_lopsided_coverage_forbids_a_pass() -> None:
    state = start([TOOLS], RULES)
    clean(state)
    feed(state, 200, {"tool_call_mismatch": Reason.REFERENCE_TIMEOUT}, length="64k+")
    clean(state, 150)
    verdict = state.verdict()
    assert verdict.budgets["tool_call_mismatch"].state == "pass"
    assert verdict.state == "inconclusive"
    assert "lopsided: stratum 64k+/tools/whole/greedy" in verdict.reasons[0]


def lost(state: EvidenceState, count: int) -> None:
    """Rows of which nobody knows what was asked."""
    for position in range(state.position + 1, state.position + 1 + count):
        state.fold(Observation(position, "live", "lost", "feed_full", None))


def test_losses_of_unknown_requests_forbid_a_pass_once_a_breach_could_hide_in_them() -> None:
    state = start([TOOLS, TEXT, KL], RULES)
    clean(state, 970)
    lost(state, 30)
    assert state.verdict().state == "pass"  # 3.0 % against the smallest limit of 3 %
    lost(state, 2)
    verdict = state.verdict()
    assert verdict.state == "inconclusive"
    assert verdict.reasons[0].startswith("too much was lost unseen: of 32 of 1002")


def test_where_only_an_unbounded_budget_is_needed_its_tail_bounds_the_unseen() -> None:
    state = start([Budget("logprob_kl", 0.05, bounded=False, critical=True)], RULES)
    clean(state, 970)
    lost(state, 15)
    assert state.verdict().state == "pass"
    lost(state, 15)
    assert "could hide in them" in state.verdict().reasons[0]


def test_a_stall_of_today_forbids_a_pass_whatever_the_past() -> None:
    state = start([TOOLS, KL], RULES)
    clean(state, 20_000)
    feed(state, 150, {"tool_call_mismatch": Reason.BREAKER_OPEN})
    verdict = state.verdict()
    assert verdict.budgets["tool_call_mismatch"].state == "pass"
    assert verdict.state == "inconclusive"
    assert verdict.reasons[0].startswith("recent coverage is too low: 50 of the last 200")
    clean(state, 200)
    assert state.verdict().state == "pass"


def test_a_pass_names_the_budget_that_has_no_number() -> None:
    state = start([TOOLS, KL], RULES)
    feed(state, 1_000, {"tool_call_mismatch": 0.0}, {"tool_call_mismatch": 0.0})
    verdict = state.verdict()
    assert verdict.state == "pass"
    assert "logprob_kl: no number yet; it can hold a promotion, and none waits for it" in verdict.reasons


def test_past_max_pairs_it_stays_inconclusive() -> None:
    state = start([TOOLS], GateRules(max_pairs=100))
    clean(state, 5_000)
    verdict = state.verdict()
    assert verdict.state == "inconclusive"
    assert verdict.reasons[0].startswith("no promotion within max_pairs = 100")


def test_every_large_bucket_must_pass_and_a_small_one_is_named() -> None:
    state = start([RECALL], RULES)
    name, (small, *_, large) = RECALL.name, [bucket for bucket, _ in LENGTH_BUCKETS]
    feed(state, 700, {name: 0.0}, {name: 0.0}, length=small)
    feed(state, 100, {name: 0.0}, {name: 0.0}, length=large)
    verdict = state.verdict()
    assert verdict.state == "inconclusive"
    assert verdict.reasons[0].startswith(f"{RECALL.name}: {large}: not decided")
    feed(state, 2_000, {name: 0.0}, {name: 0.0}, length=small)
    verdict = state.verdict()
    assert verdict.state == "pass"
    assert f"{name} {large}: holds 3.6% of the samples: not certified" in verdict.reasons


def test_a_small_bucket_may_fail_the_recipe() -> None:
    state = start([RECALL], RULES)
    name = RECALL.name
    feed(state, 4_000, {name: 0.0}, {name: 0.0})
    feed(state, 40, {name: 1.0}, length="64k+")
    verdict = state.verdict()
    assert verdict.state == "fail"
    assert verdict.reasons[0].startswith(f"{name}: 64k+: over its limit: 100 % over 40 pairs")
    assert verdict.budgets[name].strata["64k+"].state == "fail"
    assert verdict.budgets[name].strata["0-512"].state == "pass"


def test_a_probe_feeds_needles_only_and_no_coverage() -> None:
    needles = Budget("needle_recall_loss", 0.05, bounded=True, critical=True)
    state = start([needles, TOOLS], RULES)
    feed(state, 50, {"needle_recall_loss": 1.0, "tool_call_mismatch": 1.0}, kind="probe")
    verdict = state.verdict()
    assert (verdict.coverage.sampled, verdict.samples) == (0, 50)
    assert verdict.budgets["needle_recall_loss"].state == "fail"
    assert verdict.budgets["tool_call_mismatch"].samples == 0


def test_positions_only_rise() -> None:
    state = start([TOOLS], RULES)
    state.fold(row(5, {}))
    for position in (5, 4, 0):
        with pytest.raises(ValueError, match="sampling order"):
            state.fold(row(position, {}))
    assert state.coverage.sampled == 1


def test_a_reset_begins_anew_and_says_so() -> None:
    state = start([TOOLS], RULES)
    feed(state, 60, {"tool_call_mismatch": 1.0})
    assert state.verdict().state == "fail"
    with pytest.raises(ValueError, match="already folded"):
        state.reset(10)
    state.reset(59)
    assert state.verdict().state == "inconclusive"
    clean(state)
    verdict = state.verdict()
    assert verdict.state == "pass"
    assert "evidence begins after position 59: an operator reset it" in verdict.reasons
    assert EvidenceState.from_json(state.to_json()).verdict() == verdict


def test_an_overridden_noise_multiple_is_said() -> None:
    state = start([Budget("x", 0.03, bounded=True, critical=True, noise_multiple=5.0)], RULES)
    assert any("5 times the noise floor" in reason for reason in state.verdict().reasons)


def test_looking_changes_nothing() -> None:
    watched, blind = start([TOOLS, RECALL, KL], RULES), start([TOOLS, RECALL, KL], RULES)
    for position in range(300):
        observation = row(position, {"tool_call_mismatch": float(position % 7 == 0), "logprob_kl": 0.01})
        watched.fold(observation)
        blind.fold(observation)
        watched.verdict()
    assert watched.to_json() == blind.to_json()


value = st.floats(0.0, 1.0) | st.sampled_from([0.0, 1.0]) | st.sampled_from(list(Reason))
scores = st.dictionaries(st.sampled_from([b.name for b in (TOOLS, TEXT, KL, RECALL)]), value, max_size=4)


@st.composite
def observations(draw: st.DrawFn) -> list[Observation]:
    rows = []
    for position in range(draw(st.integers(0, 25))):
        disposition: Disposition = draw(st.sampled_from(["scored", "scored", "scored", "ineligible", "lost"]))
        stratum = draw(st.none() | st.builds(Stratum, st.sampled_from(["0-512", "64k+"]), *[st.booleans()] * 3))
        kind: Literal["live", "probe"] = draw(st.sampled_from(["live", "live", "probe"]))
        reason = None if disposition == "scored" else "why"
        rows.append(Observation(position, kind, disposition, reason, stratum, draw(scores), draw(scores)))
    return rows


def play(state: EvidenceState, rows: Iterable[Observation]) -> EvidenceState:
    for observation in rows:
        state.fold(observation)
    return state


@settings(max_examples=150, deadline=None)
@given(rows=observations(), cut=st.integers(0, 25))
def test_a_stored_state_goes_on_to_the_last_bit_and_reads_as_json(rows: list[Observation], cut: int) -> None:
    budgets = [TOOLS, TEXT, KL, RECALL]
    rules = GateRules(alpha_promote=0.4, alpha_rollback=0.4)
    whole = play(start(budgets, rules), rows)
    stored = json.dumps(play(start(budgets, rules), rows[:cut]).to_json(), allow_nan=False)
    resumed = play(EvidenceState.from_json(json.loads(stored)), rows[cut:])
    assert resumed.to_json() == whole.to_json()
    shown = json.dumps(whole.verdict().as_dict(), allow_nan=False)
    assert shown == json.dumps(resumed.verdict().as_dict(), allow_nan=False)
    assert whole.verdict().reasons


@settings(max_examples=60, deadline=None)
@given(rows=observations())
def test_loss_alone_never_decides(rows: list[Observation]) -> None:
    """Whatever the rows, with every number replaced by a loss nothing passes and nothing fails."""
    lost = [
        Observation(
            o.position,
            o.kind,
            o.disposition,
            o.reason,
            o.stratum,
            dict.fromkeys(o.candidate, Reason.LATE),
            dict.fromkeys(o.noise, Reason.LATE),
        )
        for o in rows
    ]
    rules = GateRules(alpha_promote=0.9, alpha_rollback=0.9)
    assert play(start([TOOLS, TEXT, KL], rules), lost).verdict().state == "inconclusive"


@pytest.mark.parametrize("spoil", ["format", "evidence", "budgets", "coverage"])
def test_stored_evidence_that_is_damaged_is_refused(spoil: str) -> None:
    data = start([TOOLS], RULES).to_json()
    del data[spoil]
    with pytest.raises(ValueError, match=r"format|damaged"):
        EvidenceState.from_json(data)


def test_the_answer_has_the_shape_of_the_gate() -> None:
    state = start([TOOLS, RECALL], RULES)
    clean(state, 300)
    shown = state.verdict(VerdictContext(recipe="r", epoch=1)).as_dict()
    assert set(shown) == {
        *("verdict", "reason", "reasons", "stage", "promoted_position", "recipe", "epoch", "samples", "noise_samples"),
        *("budgets", "coverage", "diagnosis", "contract"),
    }
    assert shown["reason"] == shown["reasons"][0]
    wanted = {
        *("verdict", "samples", "value", "limit", "noise", "noise_samples", "critical", "unit", "bound"),
        *("log10_e_promote", "log10_e_rollback", "log10_e_noise", "first_crossed_position", "reasons", "strata"),
    }
    for budget in shown["budgets"].values():
        assert wanted <= set(budget)
    assert set(shown["budgets"]["copy_recall_loss"]["strata"]) == {"0-512"}
    assert wanted - {"limit", "critical", "unit", "strata"} <= set(
        shown["budgets"]["copy_recall_loss"]["strata"]["0-512"]
    )


@pytest.mark.parametrize("state", ["pass", "fail", "inconclusive"])
def test_arms_that_read_other_prompts_never_pass_and_are_told_before_any_weight(state: str) -> None:
    evidence = start([TOOLS, KL], RULES)
    if state == "pass":
        clean(evidence, 1_000)
    elif state == "fail":
        for position in range(200):
            evidence.fold(row(position, {"tool_call_mismatch": 1.0, "logprob_kl": 0.4, "logprob_kl_max": 0.5}, {}))
    about = VerdictContext(contract={"prompt_tokens": "differ"})
    assert evidence.verdict(about).state == state
    about = replace(about, mismatch="the arms count different prompt tokens")
    held = evidence.verdict(replace(about, holds=("the ledger cannot be written",)))
    said = evidence.verdict(about)
    assert held.reasons[0] == said.reasons[0]
    assert said.state == ("fail" if state == "fail" else "inconclusive")
    assert said.reasons[0] == "the arms count different prompt tokens"
    assert said.diagnosis.axis == "template"
    assert said.diagnosis.evidence[0] == said.reasons[0]
    assert "template" in said.diagnosis.fix
    assert said.as_dict()["contract"] == {"prompt_tokens": "differ"}


def test_the_stage_goes_from_proving_to_promoted_to_rolled_back_and_back_by_a_reset() -> None:
    state = start([TOOLS, KL], RULES)
    assert (state.verdict().stage, state.verdict().promoted_position) == ("proving", None)
    clean(state, 1_000)
    good = state.verdict()
    crossed = good.budgets["tool_call_mismatch"].lane.crossed
    assert (good.stage, good.promoted_position) == ("promoted", max(crossed["limit"], crossed["noise"]))
    feed(state, 100, {"tool_call_mismatch": 1.0})
    bad = state.verdict()
    at = bad.budgets["tool_call_mismatch"].lane.crossed["change"]
    assert (bad.stage, bad.promoted_position) == ("rolled_back", good.promoted_position)
    assert at > max(crossed["limit"], crossed["noise"])
    assert STICKY in bad.reasons
    clean(state, 5_000)
    assert state.verdict().stage == "rolled_back"
    state.reset(state.position)
    assert state.verdict().stage == "proving"


def test_where_each_test_crossed_is_where_it_first_reached_its_threshold() -> None:
    state, seen = start([TOOLS], RULES), {}
    for _ in range(1_000):
        clean(state, 1)
        budget = state.verdict().budgets["tool_call_mismatch"]
        for test, level in (("limit", budget.lane.log10_e_promote), ("noise", budget.lane.log10_e_noise)):
            if level is not None and level >= budget.log10_threshold_promote:
                seen.setdefault(test, state.position)
    assert seen == state.verdict().budgets["tool_call_mismatch"].lane.crossed
    assert set(seen) == {"limit", "noise"}


def test_state_does_not_grow_with_rows() -> None:
    state = start([TOOLS, RECALL, KL], RULES)
    clean(state, 200)
    before = len(json.dumps(state.to_json()))
    clean(state, 5_000)
    assert len(json.dumps(state.to_json())) < before * 1.5


def test_an_axis_is_asked_for_only_beyond_chance() -> None:
    """Two of 40 lie above the limit of 3 %, and say nothing yet; eight of 40 do."""
    for bad, asked in ((2, False), (8, True)):
        state = start([TOOLS], RULES)
        feed(state, bad, {"tool_call_mismatch": 1.0, "early_divergence": 0.0})
        feed(state, 40 - bad, {"tool_call_mismatch": 0.0, "early_divergence": 0.0})
        found = state.verdict().diagnosis
        assert (found.axis == "template") is asked
        assert any("nothing to diagnose" in line for line in found.evidence) is not asked


def test_the_diagnosis_is_restored_with_the_evidence() -> None:
    state = start([TOOLS, KL], RULES)
    feed(state, 60, {"tool_call_mismatch": 1.0, "logprob_kl": 0.2, "logprob_kl_max": 1.0, "early_divergence": 0.4})
    again = EvidenceState.from_json(json.loads(json.dumps(state.to_json())))
    assert state.verdict().diagnosis.axis == "weights"
    assert again.verdict().diagnosis == state.verdict().diagnosis
