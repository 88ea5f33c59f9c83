"""Coverage: every live sample is counted once, and a shortfall is said."""

from __future__ import annotations

import json
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from scorers.coverage import NO_SCORE_APPLIES, RECENT, UNKNOWN_STRATUM, Coverage, CoverageTally, placed
from scorers.records import Observation, Reason


def seen(
    disposition: Literal["scored", "ineligible", "lost"] = "scored",
    reason: str | None = None,
    **candidate: float | Reason,
) -> Observation:
    return Observation(0, "live", disposition, reason, None, candidate=candidate)


def tally(*rows: tuple[Observation, str]) -> Coverage:
    counts = CoverageTally()
    for observation, stratum in rows:
        counts.fold(observation, stratum)
    return counts.coverage()


def test_where_a_row_counts() -> None:
    assert placed(seen(a=Reason.NO_TOOLS, b=0.0)) == ("scored", "")
    assert placed(seen(a=Reason.NO_TOOLS, b=Reason.REFERENCE_TIMEOUT)) == ("lost", "reference_timeout")
    assert placed(seen(a=Reason.NO_TOOLS)) == ("ineligible", NO_SCORE_APPLIES)
    assert placed(seen()) == ("ineligible", NO_SCORE_APPLIES)
    assert placed(seen("ineligible", "path")) == ("ineligible", "path")
    assert placed(seen("lost", "late")) == ("lost", "late")


rows = st.lists(
    st.tuples(
        st.sampled_from(
            [
                seen(a=0.0),
                seen(a=Reason.NO_TOOLS),
                seen(a=Reason.BREAKER_OPEN),
                seen("lost", "late"),
                seen("lost"),
                seen("ineligible", "path"),
            ]
        ),
        st.sampled_from(["x", "y", UNKNOWN_STRATUM]),
    ),
    max_size=60,
)


@given(rows=rows)
def test_nothing_is_counted_twice_or_not_at_all(rows: list[tuple[Observation, str]]) -> None:
    coverage = tally(*rows)
    assert coverage.sampled == len(rows)
    assert coverage.sampled == coverage.scored + sum(coverage.lost.values()) + sum(coverage.ineligible.values())
    assert sum(cell.sampled for cell in coverage.strata.values()) == coverage.sampled
    assert sum(cell.eligible for cell in coverage.strata.values()) == coverage.eligible
    assert sum(cell.scored for cell in coverage.strata.values()) == coverage.scored
    losses = [(cell.dropped, cell.reference_error, cell.unpaired) for cell in coverage.strata.values()]
    assert sum(map(sum, losses)) == sum(coverage.lost.values())
    for cell, lost in zip(coverage.strata.values(), losses, strict=True):
        assert cell.sampled == cell.scored + cell.ineligible + sum(lost)


def test_each_loss_is_told_by_who_lost_it() -> None:
    cell = tally(
        *[(seen("lost", "feed_full"), "x"), (seen("lost", "late"), "x"), (seen("lost", "one of a later version"), "x")],
        *[(seen(a=Reason.REFERENCE_TIMEOUT), "x"), (seen(a=Reason.BREAKER_OPEN), "x")],
        *[(seen(a=Reason.CANDIDATE_ERROR), "x")],
    ).strata["x"]
    assert (cell.dropped, cell.reference_error, cell.unpaired) == (3, 2, 1)


@given(rows=rows)
def test_it_restores(rows: list[tuple[Observation, str]]) -> None:
    counts = CoverageTally()
    for observation, stratum in rows:
        counts.fold(observation, stratum)
    again = CoverageTally.from_json(json.loads(json.dumps(counts.to_json())))
    assert again.coverage() == counts.coverage()
    assert again.to_json() == counts.to_json()


GOOD, LOST = seen(a=0.0), seen("lost", "queue_full")


def test_enough_and_even_coverage_has_no_shortfall() -> None:
    assert tally(*[(GOOD, "x")] * 60, *[(LOST, "x")] * 40).shortfalls(0.5) == ()


def test_too_little_names_the_numbers_and_the_commonest_loss() -> None:
    (said,) = tally(*[(GOOD, "x")] * 40, *[(LOST, "x")] * 59, (seen("lost", "late"), "x")).shortfalls(0.5)
    assert "40 of 100" in said
    assert "40.0% against 50.0%" in said
    assert "queue_full (59)" in said


def test_a_stratum_left_out_is_said_even_when_the_whole_is_well_covered() -> None:
    (said,) = tally(*[(GOOD, "short")] * 88, *[(LOST, "long")] * 10, *[(GOOD, "long")] * 2).shortfalls(0.5)
    assert "lopsided" in said
    assert "long holds 12.0%" in said


def test_a_small_stratum_is_not_called_lopsided() -> None:
    assert tally(*[(GOOD, "short")] * 91, *[(LOST, "long")] * 9).shortfalls(0.5) == ()


def test_what_was_lost_before_it_was_read_may_hide_a_stratum() -> None:
    (said,) = tally(*[(GOOD, "short")] * 85, *[(LOST, UNKNOWN_STRATUM)] * 15).shortfalls(0.5)
    assert "unknown" in said


def test_nothing_eligible_is_a_shortfall() -> None:
    assert Coverage().shortfalls(0.0) == ("nothing eligible was sampled yet",)
    assert tally((seen("ineligible", "path"), "x")).shortfalls(0.0)


def test_as_dict_is_json() -> None:
    shown = json.loads(json.dumps(tally((GOOD, "x"), (LOST, "y")).as_dict(), allow_nan=False))
    assert shown["ratio"] == 0.5
    lost = {"dropped": 1, "reference_error": 0, "unpaired": 0}
    assert shown["strata"]["y"] == {"sampled": 1, "eligible": 1, "scored": 0, "ineligible": 0, "ratio": 0.0, **lost}
    assert {kind: shown[kind] for kind in lost} == lost


TIMED_OUT = seen(a=Reason.REFERENCE_TIMEOUT)


def test_a_long_good_past_does_not_hide_a_stall() -> None:
    fine = [(GOOD, "x")] * 10_000
    (said,) = tally(*fine, *[(TIMED_OUT, "x")] * 101, *[(GOOD, "x")] * 99).shortfalls(0.5)
    assert "recent coverage is too low: 99 of the last 200 eligible samples" in said
    assert tally(*fine, *[(TIMED_OUT, "x")] * 100, *[(GOOD, "x")] * 100).shortfalls(0.5) == ()
    assert tally(*fine, *[(TIMED_OUT, "x")] * 150, *[(GOOD, "x")] * RECENT).shortfalls(0.5) == ()


def test_what_is_ineligible_moves_no_window() -> None:
    stalled = [*[(GOOD, "x")] * 1_000, *[(TIMED_OUT, "x")] * RECENT]
    coverage = tally(*stalled, *[(seen("ineligible", "path"), "x")] * 500)
    assert (coverage.recent.eligible, coverage.recent.scored) == (RECENT, 0)
    assert tally(*stalled[:50]).recent.eligible == 50


def test_losses_of_unknown_requests_are_counted_apart_and_bounded_by_the_smallest_limit() -> None:
    coverage = tally(*[(GOOD, "x")] * 960, *[(LOST, UNKNOWN_STRATUM)] * 31, *[(TIMED_OUT, "x")] * 9)
    assert coverage.unknown == 31  # what timed out is known, and counts in the evidence
    (said,) = coverage.shortfalls(0.5, 0.03)
    assert "31 of 1000 eligible samples (3.1%)" in said
    assert "the smallest limit (3.0%)" in said
    assert coverage.shortfalls(0.5, 0.031) == ()


def test_as_dict_says_what_is_recent_and_unknown() -> None:
    shown = tally((GOOD, "x"), (LOST, "x")).as_dict()
    assert shown["unknown"] == 1
    assert shown["recent"] == {"eligible": 2, "scored": 1, "ratio": 0.5}
