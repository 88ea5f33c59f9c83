"""The fold: what is counted where, its errors, and that it restores to the last bit."""

from __future__ import annotations

import json
import math
import random

import pytest

from scorers.pattern import FEWEST_PER_LANE, LARGEST, PatternTally
from scorers.records import Reason, Stratum

KL, PEAK, DOUBT, TOOLS = "logprob_kl", "logprob_kl_max", "reference_doubt", "tool_call_mismatch"


def cell(length: str = "0-512", *, tools: bool = False, stream: bool = False) -> Stratum:
    return Stratum(length, tools, stream, greedy=True)


def test_the_slope_is_the_one_planted_and_its_error_covers_it() -> None:
    """60 samples of a known slope: the error is the spread of the estimates, and two of it cover the truth."""
    estimates = []
    for seed in range(60):
        tally, dice = PatternTally(), random.Random(seed)
        for length, octave, spread in (("0-512", 8.0, 0.5), ("1k-4k", 11.0, 1.0), ("4k-16k", 13.0, 2.0)):
            for _ in range(60):
                kl = 0.01 * math.exp(0.3 * octave) * dice.lognormvariate(0.0, spread)
                tally.fold({KL: kl, DOUBT: 0.1}, {}, cell(length))
        found = tally.kl_slope()
        assert found is not None
        assert found[1], "by the doubt"
        estimates.append(found[0])
    covered = sum(abs(e.above(0.3)) <= 2.0 for e in estimates)
    assert covered >= 52  # 95 % of 60 are 57
    mean = sum(e.value for e in estimates) / len(estimates)
    spread = math.sqrt(sum((e.value - mean) ** 2 for e in estimates) / len(estimates))
    assert mean == pytest.approx(0.3, abs=0.05)
    assert spread == pytest.approx(sum(e.error for e in estimates) / len(estimates), rel=0.25)


def test_a_thin_lane_has_no_slope() -> None:
    tally = PatternTally()
    for length, count in (("0-512", 50), ("64k+", FEWEST_PER_LANE - 1)):
        for _ in range(count):
            tally.fold({KL: 0.1, DOUBT: 0.1}, {}, cell(length))
    assert tally.kl_slope() is None
    tally.fold({KL: 0.1, DOUBT: 0.1}, {}, cell("64k+"))
    found = tally.kl_slope()
    assert found is not None
    assert found[0].pairs == 60


def test_rows_without_the_doubt_are_kept_apart() -> None:
    tally = PatternTally()
    for length in ("0-512", "1k-4k"):
        for _ in range(20):
            tally.fold({KL: 0.1}, {}, cell(length))
    found = tally.kl_slope()
    assert found is not None
    assert not found[1]
    assert found[0].value == pytest.approx(0.0)


def test_odds_have_an_error_where_nothing_was_lost() -> None:
    tally = PatternTally()
    for lost in (1.0, 0.0):
        for _ in range(10):
            tally.fold({TOOLS: lost, "copy_recall_loss": 0.0}, {}, cell())
    odds = tally.recall_odds()
    assert odds is not None
    assert odds.value == pytest.approx(math.log(0.5 / 20.5))
    assert odds.error == pytest.approx(math.sqrt(1 / 0.5 + 1 / 20.5 + 2 / 10.5))


def test_odds_of_a_handful_are_none() -> None:
    tally = PatternTally()
    for lost in [1.0] * 4 + [0.0] * 100:
        tally.fold({TOOLS: lost, "copy_recall_loss": 0.0}, {}, cell())
    assert tally.recall_odds() is None


def test_tokens_and_calls_are_counted_by_kind() -> None:
    tally = PatternTally()
    tally.fold({KL: Reason.TOKENS_DIFFER, TOOLS: 1.0, "early_divergence": Reason.TOKENS_DIFFER}, {}, cell(tools=True))
    tally.fold({KL: 0.1, TOOLS: 1.0, "early_divergence": 0.0}, {}, cell(tools=True, stream=True))
    tally.fold({KL: 0.1, TOOLS: 0.0, "early_divergence": 0.0}, {}, cell(tools=True))
    tally.fold({KL: Reason.NOT_PLANNED}, {}, None)
    assert tally.tokens() == {"tools": [3, 1], "plain": [0, 0]}
    assert tally.calls() == {"stream": [1, 1, 1], "whole": [1, 0, 0]}


def test_the_rerun_is_compared_on_its_own_requests_alone() -> None:
    tally = PatternTally()
    for _ in range(50):
        tally.fold({TOOLS: 1.0}, {}, cell())
    for _ in range(20):
        tally.fold({TOOLS: 0.0}, {TOOLS: 1.0}, cell())
    found = tally.rerun(TOOLS)
    assert found is not None
    assert (found[0], found[1], found[2].value, found[2].pairs) == (0.0, 1.0, 1.0, 20)
    assert tally.rerun("no_such_score") is None


def test_spikiness_is_a_ratio_of_sums() -> None:
    tally = PatternTally()
    for kl, peak in [(0.01, 0.1)] * 30 + [(0.1, 10.0)] * 10:
        tally.fold({KL: kl, PEAK: peak}, {}, cell())
    found = tally.spikiness()
    assert found is not None
    assert found.value == pytest.approx((3.0 + 100.0) / (0.3 + 1.0))
    assert found.error > 0.0
    assert tally.spikiness(of_noise=True) is None


@pytest.mark.parametrize("value", [-1.0, 2 * LARGEST, math.inf, math.nan])
def test_a_number_that_no_scorer_gives_changes_nothing(value: float) -> None:
    tally = PatternTally()
    for _ in range(30):
        tally.fold({KL: value, PEAK: 1.0, DOUBT: 0.1}, {KL: value, PEAK: 1.0}, cell())
    assert tally.kl() is None
    assert tally.kl_slope() is None
    assert tally.spikiness() is None
    assert tally.rerun(KL) is None


def test_it_restores_to_the_last_bit() -> None:
    tally, dice = PatternTally(), random.Random(3)

    def some(into: PatternTally, dice: random.Random) -> None:
        for length in ("0-512", "64k+"):
            for _ in range(30):
                kl, again = dice.random(), dice.random()
                side = {KL: kl, PEAK: 3 * kl, DOUBT: dice.random(), TOOLS: float(kl < 0.3), "copy_recall_loss": again}
                into.fold(side, {KL: again, PEAK: again, TOOLS: 0.0}, cell(length))

    some(tally, dice)
    again = PatternTally.from_json(json.loads(json.dumps(tally.to_json())))
    assert again.to_json() == tally.to_json()
    some(tally, random.Random(5))
    some(again, random.Random(5))
    assert again.to_json() == tally.to_json()
    assert again.kl_slope() == tally.kl_slope()
