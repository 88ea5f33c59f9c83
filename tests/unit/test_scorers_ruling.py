"""The sentences and the pooled figures of one budget."""

from __future__ import annotations

import pytest

from scorers.budgets import Budget, GateRules
from scorers.evidence import BudgetEvidence, Thresholds
from scorers.ruling import REQUIRED_SHARE, amount, remarks, rule
from scorers.verdict import BudgetVerdict

RULES = GateRules()
RATE = Budget("x", 0.03, bounded=True, critical=True)
NATS = Budget("kl", 0.05, bounded=False, critical=False, unit="nats")
BY_LENGTH = Budget("recall", 0.05, bounded=True, critical=True, strata=("length",))


def ruled(budget: Budget, *streams: tuple[str, int, float, float | None], sharing: int = 1) -> BudgetVerdict:
    evidence = BudgetEvidence(budget, Thresholds(0.05, 0.01, sharing))
    position = 0
    for length, count, score, noise in streams:
        for _ in range(count):
            again = {} if noise is None else {budget.name: noise}
            evidence.fold({budget.name: score}, again, length, position, may_promote=True)
            position += 1
    return rule(evidence, RULES)


def test_amounts_are_read_by_people() -> None:
    assert amount(RATE, 0.0312) == "3.12 %"
    assert amount(NATS, 0.0312) == "0.0312 nats"
    assert amount(Budget("r", 2.0, bounded=False, critical=False), 1.5) == "1.5"


def test_a_passed_budget_shows_value_bound_and_where() -> None:
    found = ruled(RATE, ("0-512", 1_000, 0.0, 0.0))
    assert (found.state, found.value, found.noise) == ("pass", 0.0, 0.0)
    assert found.bound is not None
    assert found.bound < RATE.limit
    assert found.noise_limit == pytest.approx(0.01)
    assert found.lane.first_crossed_position is not None
    assert found.reasons[0].startswith("within its limit: 0 % over 1000 pairs against 3 %, at most 0.")


def test_a_failed_budget_says_by_how_much_and_where() -> None:
    found = ruled(RATE, ("0-512", 20, 1.0, None))
    assert found.state == "fail"
    at = found.lane.first_crossed_position
    assert found.reasons == (
        f"over its limit: 100 % over 20 pairs against 3 %; the rollback test crossed at position {at}",
    )


def test_the_bound_of_an_unbounded_score_is_of_its_capped_mean_in_its_unit() -> None:
    found = ruled(NATS, ("0-512", 400, 0.01, None))
    assert found.bound is not None
    assert 0.01 < found.bound < NATS.limit
    assert found.noise_limit is None
    assert found.lane.log10_e_noise is None


def test_lanes_pool_to_the_weakest_of_those_that_must_pass() -> None:
    found = ruled(BY_LENGTH, ("0-512", 1_000, 0.0, 0.0), ("4k-16k", 800, 0.01, 0.01), ("64k+", 20, 0.0, 0.0))
    short, middle, long = (found.strata[name] for name in ("0-512", "4k-16k", "64k+"))
    assert (short.required, middle.required, long.required) == (True, True, False)
    assert long.share < REQUIRED_SHARE
    assert found.state == "pass"
    assert found.samples == 1_820
    assert found.value == pytest.approx(8.0 / 1_820)
    assert found.bound == max(short.bound or 0.0, middle.bound or 0.0)
    assert found.lane.log10_e_promote == min(short.log10_e_promote or 0.0, middle.log10_e_promote or 0.0)
    assert found.lane.first_crossed_position == middle.first_crossed_position
    assert list(remarks(BY_LENGTH, found)) == ["recall 64k+: holds 1.1% of the samples: not certified"]


def test_a_failed_lane_speaks_first() -> None:
    found = ruled(BY_LENGTH, ("0-512", 1_000, 0.0, 0.0), ("64k+", 20, 1.0, None))
    assert found.state == "fail"
    assert found.reasons[0].startswith("64k+: over its limit")
    assert found.lane.first_crossed_position == found.strata["64k+"].first_crossed_position


def test_strata_beyond_the_limit_are_listed_also_where_none_alone_has_failed_yet() -> None:
    lanes = ("0-512", "512-1k", "1k-4k", "4k-16k", "16k-64k", "64k+")
    found = ruled(BY_LENGTH, *[(length, 3, 1.0, None) for length in lanes], sharing=70)
    together = found.over
    alone = ruled(BY_LENGTH, *[(length, 3, float(length == "64k+"), None) for length in lanes], sharing=70).over
    assert found.state == "inconclusive"
    assert (together, alone) == (lanes, ())
    assert ruled(RATE, ("0-512", 20, 1.0, None)).over == ()


def test_no_lane_is_no_data() -> None:
    found = ruled(BY_LENGTH)
    assert (found.state, found.value, found.bound, found.samples) == ("inconclusive", None, None, 0)
    assert found.reasons == ("no data: no pair was scored yet",)
    assert found.lane.log10_e_promote is None


def test_loss_is_said() -> None:
    evidence = BudgetEvidence(RATE, Thresholds(0.05, 0.01, 1))
    evidence.fold({"x": float("nan")}, {}, "0-512", 0, may_promote=True)
    found = rule(evidence, RULES)
    assert found.value is None
    assert found.bound == ruled(RATE, ("0-512", 1, 1.0, None)).bound == pytest.approx(1.0)  # there, too
    assert found.reasons[-1] == "scores that never arrived and count against it: 1"


def test_pooled_figures_do_not_depend_on_which_lane_came_first() -> None:
    streams = [("0-512", 1, 0.1, 0.1), ("4k-16k", 1, 0.2, 0.2), ("64k+", 1, 0.3, 0.3)]
    one, other = ruled(BY_LENGTH, *streams), ruled(BY_LENGTH, *reversed(streams))
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    assert (one.value, one.noise) == (other.value, other.noise)
