"""One lane of evidence: what a number, a lost score and a re-run do to each test."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.betting import contrast_bets, promotion_bets, rollback_bets, unbounded_bets
from scorers.budgets import EXCEEDANCE_LIMIT, WHOLE, Budget
from scorers.evidence import LARGEST_SCORE, LOST, BudgetEvidence, Lane, Thresholds, lane_count, ordered
from scorers.records import Reason, Stratum

NEVER = Thresholds(1e-300, 1e-300, 1)
DEFAULT = Thresholds(0.05, 0.01, 1)
TOOLS = Budget("tools", 0.03, bounded=True, critical=True)
KL = Budget("kl", 0.05, bounded=False, critical=True, unit="nats")


def log10_of(bets: Sequence[float], payoffs: Sequence[float]) -> float:
    """The formula of metrology 4, as it is printed there."""
    logs = [math.fsum(math.log1p(bet * payoff) for payoff in payoffs) for bet in bets]
    top = max(logs)
    return (top + math.log(math.fsum(math.exp(v - top) for v in logs) / len(bets))) / math.log(10.0)


def folded(lane: Lane, rows: Sequence[tuple[float, float | None]]) -> Lane:
    for position, (score, noise) in enumerate(rows):
        lane.fold(score, noise, position, may_promote=True)
    return lane


score = st.sampled_from([0.0, 1.0, LOST]) | st.floats(0.0, 1.0)
rerun = st.none() | score


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(score, rerun), min_size=1, max_size=80))
def test_each_test_is_metrologys_formula_with_loss_against_it(rows: list[tuple[float, float | None]]) -> None:
    lane = folded(Lane(TOOLS, NEVER), rows)
    worst = [1.0 if x == LOST else x for x, _ in rows]
    best = [0.0 if x == LOST else x for x, _ in rows]
    contrast = []
    for x, n in rows:
        if n is not None:
            floor = 0.0 if LOST in (x, n) else n
            contrast.append(3.0 * floor + 0.01 - (1.0 if x == LOST else x))
    assert lane.promotion.log10() == pytest.approx(log10_of(promotion_bets(0.03), [0.03 - x for x in worst]), abs=1e-9)
    assert lane.rollback.log10() == pytest.approx(log10_of(rollback_bets(0.03), [x - 0.03 for x in best]), abs=1e-9)
    assert lane.contrast is not None
    assert lane.contrast.log10() == pytest.approx(
        log10_of(contrast_bets(0.01), contrast) if contrast else 0.0, abs=1e-9
    )


def test_an_unbounded_score_has_two_gates_and_its_own_rollback() -> None:
    scores = [0.0, 0.02, 0.4, 0.6, 30.0]
    lane = folded(Lane(KL, NEVER), [(x, None) for x in scores])
    cap = 0.5  # 10 limits
    assert KL.cap == pytest.approx(cap)
    capped = [0.1 - min(x / cap, 1.0) for x in scores]
    beyond = [EXCEEDANCE_LIMIT - float(x > cap) for x in scores]
    assert lane.promotion.log10() == pytest.approx(log10_of(promotion_bets(0.1), capped))
    assert lane.exceedance is not None
    assert lane.exceedance.log10() == pytest.approx(log10_of(promotion_bets(EXCEEDANCE_LIMIT), beyond))
    assert lane.rollback.log10() == pytest.approx(log10_of(unbounded_bets(0.05), [x - 0.05 for x in scores]))
    assert lane.contrast is None


def test_an_unbounded_score_of_any_size_does_not_overflow() -> None:
    lane = folded(Lane(KL, NEVER), [(LARGEST_SCORE, None)] * 200)
    level = lane.rollback.log10()
    assert level is not None
    assert math.isfinite(level)
    assert level > 200.0


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0.0, 1.0), st.none() | st.floats(0.0, 1.0)), min_size=1, max_size=60),
    where=st.integers(0, 59),
    budget=st.sampled_from([TOOLS, Budget("x", 0.4, bounded=True, critical=True), KL]),
)
def test_a_mismatch_or_a_loss_never_helps_promotion(
    rows: list[tuple[float, float | None]], where: int, budget: Budget
) -> None:
    """In place of any score, and as one more row."""
    index = where % len(rows)
    base = _levels(folded(Lane(budget, NEVER), rows))
    for worse in (1.0 if budget.bounded else 100.0, LOST):
        replaced = [*rows[:index], (worse, rows[index][1]), *rows[index + 1 :]]
        inserted = [*rows[:index], (worse, 0.0), *rows[index:]]
        for changed in (replaced, inserted):
            for before, after in zip(base, _levels(folded(Lane(budget, NEVER), changed)), strict=True):
                assert after <= before + 1e-9


def _levels(lane: Lane) -> list[float]:
    tests = [test for test in (lane.promotion, lane.exceedance, lane.contrast) if test is not None]
    return [-math.inf if (level := test.log10()) is None else level for test in tests]


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(0.0, 1.0), st.none()), min_size=1, max_size=60), where=st.integers(0, 59))
def test_a_loss_never_helps_rollback(rows: list[tuple[float, None]], where: int) -> None:
    index = where % len(rows)
    lost = [*rows[:index], (LOST, None), *rows[index + 1 :]]
    before, after = folded(Lane(TOOLS, NEVER), rows), folded(Lane(TOOLS, NEVER), lost)
    assert (after.rollback.log10() or 0.0) <= (before.rollback.log10() or 0.0) + 1e-9


def test_matches_promote_at_metrologys_135th_pair() -> None:
    lane = Lane(Budget("x", 0.03, bounded=True, critical=True, noise_multiple=3.0, slack=0.9), DEFAULT)
    for position in range(200):
        lane.fold(0.0, 0.0, position, may_promote=True)
    assert lane.gate_position == 134  # the 135th
    assert lane.contrast_position is not None
    assert lane.promoted_position == max(134, lane.contrast_position)


def test_past_the_bound_of_pairs_nothing_is_promoted_and_rollback_still_works() -> None:
    lane = Lane(TOOLS, DEFAULT)
    for position in range(1_000):
        lane.fold(0.0, 0.0, position, may_promote=False)
    assert (lane.gate_position, lane.contrast_position) == (None, None)
    for position in range(1_000, 2_500):
        lane.fold(1.0, None, position, may_promote=False)
    assert lane.rollback_position is not None


def test_the_change_detector_starts_at_promotion_and_finds_a_change_long_after() -> None:
    lane = Lane(TOOLS, DEFAULT)
    promoted = 0
    while lane.promoted_position is None:
        assert lane.change is None
        lane.fold(0.0, 0.0, promoted, may_promote=True)
        promoted += 1
    assert lane.change is not None
    assert lane.change.level == 0.0  # the row that promoted is no news about a change
    changed = promoted + 20_000
    for position in range(promoted, changed):
        lane.fold(0.0, None, position, may_promote=True)
    for position in range(changed, changed + 60):
        lane.fold(1.0, None, position, may_promote=True)
    assert lane.alarm_position is not None
    assert lane.alarm_position - changed < 10
    assert lane.rollback_position is None  # it would first have to win 20,000 matches back


def test_lost_scores_alone_move_nothing_towards_a_decision() -> None:
    lane = folded(Lane(TOOLS, DEFAULT), [(LOST, LOST)] * 5_000)
    assert lane.promoted_position is None
    assert lane.rollback_position is None
    assert all(level < 0.0 for level in _levels(lane))
    level = lane.rollback.log10()
    assert level is not None
    assert level < 0.0


def test_reasons_are_skipped_or_lost_and_numbers_out_of_range_are_lost() -> None:
    evidence = BudgetEvidence(TOOLS, DEFAULT)
    rows: list[dict[str, float | Reason]] = [
        {"tools": Reason.NO_TOOLS},
        {"tools": Reason.NOT_PLANNED},
        {"other": 1.0},
        {},
        {"tools": Reason.REFERENCE_TIMEOUT},
        {"tools": math.nan},
        {"tools": 1.5},
        {"tools": -0.5},
        {"tools": 0.5},
    ]
    for position, row in enumerate(rows):
        evidence.fold(row, {}, "0-512", position, may_promote=True)
    lane = evidence.lanes[WHOLE]
    assert (lane.samples, lane.lost, lane.total) == (1, 4, 0.5)


def test_the_contrast_sees_rows_with_both_sides_only() -> None:
    evidence = BudgetEvidence(TOOLS, NEVER)
    rows: list[tuple[float | Reason, float | Reason | None]] = [
        (0.0, None),
        (0.0, Reason.NOT_PLANNED),
        (Reason.NO_CALLS, 1.0),  # floor, no contrast
        (0.0, 0.0),
        (1.0, 1.0),
        (0.0, Reason.REFERENCE_ERROR),
        (Reason.CANDIDATE_ERROR, 1.0),
    ]
    for position, (candidate, noise) in enumerate(rows):
        again = {} if noise is None else {"tools": noise}
        evidence.fold({"tools": candidate}, again, "0-512", position, may_promote=True)
    lane = evidence.lanes[WHOLE]
    payoffs = [0.01, 3.0 + 0.01 - 1.0, 0.01, 0.01 - 1.0]
    assert lane.contrast is not None
    assert lane.contrast.log10() == pytest.approx(log10_of(contrast_bets(0.01), payoffs))
    assert (lane.noise_samples, lane.noise_total) == (4, 3.0)


def test_strata_keep_a_lane_each_in_order() -> None:
    budget = Budget("recall", 0.05, bounded=True, critical=True, strata=("length",))
    evidence = BudgetEvidence(budget, DEFAULT)
    for position, length in enumerate(("64k+", "unknown", "0-512", "4k-16k", "0-512")):
        evidence.fold({"recall": 0.0}, {}, length, position, may_promote=True)
    assert ordered(evidence) == ["0-512", "4k-16k", "64k+", "unknown"]
    assert [evidence.lanes[name].samples for name in ordered(evidence)] == [2, 1, 1, 1]
    assert (lane_count(budget), lane_count(TOOLS)) == (7, 1)


def test_lanes_are_named_by_what_a_budget_keeps_apart() -> None:
    both = Budget("x", 0.05, bounded=True, critical=True, strata=("tools", "length"))
    assert both.strata == ("length", "tools")  # in one order, so that a contract does not change by it
    assert both.lane_of(Stratum("4k-16k", True, False, True)) == "4k-16k/tools"
    assert both.lane_of(None) == "unknown"
    tools = Budget("x", 0.05, bounded=True, critical=True, strata=("tools",))
    assert [tools.lane_of(Stratum("64k+", offered, True, False)) for offered in (True, False)] == ["tools", "plain"]
    assert TOOLS.lane_of(Stratum("64k+", True, True, False)) == TOOLS.lane_of(None) == WHOLE
    assert [lane_count(budget) for budget in (both, tools)] == [13, 3]
    assert Budget(**json.loads(json.dumps(both.as_dict()))) == both


@pytest.mark.parametrize("strata", [("depth",), ("tools", "tools")])
def test_strata_that_nobody_knows_or_given_twice_are_refused(strata: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="strata"):
        Budget("x", 0.05, bounded=True, critical=True, strata=strata)


def test_rollbacks_threshold_grows_with_the_lanes_that_share_it() -> None:
    alone, shared = Lane(TOOLS, DEFAULT), Lane(TOOLS, Thresholds(0.05, 0.01, 50))
    for position in range(30):
        alone.fold(1.0, None, position, may_promote=True)
        shared.fold(1.0, None, position, may_promote=True)
    assert alone.rollback_position is not None
    assert shared.rollback_position is not None
    assert alone.rollback_position < shared.rollback_position


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0.0, 1.0) | st.just(LOST), rerun), min_size=1, max_size=120),
    cut=st.integers(0, 119),
    budget=st.sampled_from([TOOLS, KL, Budget("x", 0.6, bounded=True, critical=False)]),
)
def test_a_restored_lane_goes_on_to_the_last_bit(
    rows: list[tuple[float, float | None]], cut: int, budget: Budget
) -> None:
    whole, first, second = (Lane(budget, Thresholds(0.5, 0.5, 1)) for _ in range(3))
    folded(whole, rows)
    for position, (x, n) in enumerate(rows[:cut]):
        first.fold(x, n, position, may_promote=True)
    second.restore(json.loads(json.dumps(first.to_json(), allow_nan=False)))
    for position, (x, n) in enumerate(rows[cut:], start=cut):
        second.fold(x, n, position, may_promote=True)
    assert second.to_json() == whole.to_json()
