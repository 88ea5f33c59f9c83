"""Shiryaev-Roberts: its formula, its alarm, its run length."""

from __future__ import annotations

import pytest

from scorers.betting import rollback_bets
from scorers.change import RUN_LENGTH, ShiryaevRoberts

LIMIT = 0.03


def test_it_is_metrologys_recursion() -> None:
    bets = rollback_bets(LIMIT)
    detector = ShiryaevRoberts(bets)
    values = [0.0] * 5
    for x in (0.0, 1.0, 0.25, 0.0, 1.0):
        detector.step(x - LIMIT)
        values = [(v + 1.0) * (1.0 + bet * (x - LIMIT)) for v, bet in zip(values, bets, strict=True)]
    assert detector.to_json() == values
    assert detector.level == pytest.approx(sum(values) / 5)


def delay(detector: ShiryaevRoberts, x: float) -> int:
    return next(n for n in range(1, 10_000) if detector.step(x - LIMIT))


def test_a_change_is_found_equally_fast_after_a_long_calm() -> None:
    early, late = ShiryaevRoberts(rollback_bets(LIMIT)), ShiryaevRoberts(rollback_bets(LIMIT))
    for _ in range(20_000):
        assert not late.step(0.0 - LIMIT)
    assert abs(delay(late, 1.0) - delay(early, 1.0)) <= 1


def test_the_level_never_exceeds_the_number_of_pairs_on_average_at_the_budget() -> None:
    """E[SR_n] = n exactly at the budget: by recursion over both outcomes, since SR is linear in the past."""
    expected = 0.0
    for _ in range(50):
        factors = [
            (1.0 + bet * (1.0 - LIMIT)) * LIMIT + (1.0 + bet * -LIMIT) * (1.0 - LIMIT) for bet in rollback_bets(LIMIT)
        ]
        assert factors == pytest.approx([1.0] * 5)
        expected = (expected + 1.0) * factors[0]
    assert expected == pytest.approx(50.0)
    assert RUN_LENGTH == 1e5


def test_it_restores_to_the_last_bit() -> None:
    first = ShiryaevRoberts(rollback_bets(LIMIT))
    for x in (0.0, 0.3, 1.0, 0.1):
        first.step(x - LIMIT)
    second = ShiryaevRoberts(rollback_bets(LIMIT))
    second.restore(first.to_json())
    for detector in (first, second):
        detector.step(0.7 - LIMIT)
    assert first.to_json() == second.to_json()


def test_a_wrong_number_of_bets_is_refused() -> None:
    with pytest.raises(ValueError, match="5 expected"):
        ShiryaevRoberts([0.1])
    with pytest.raises(ValueError, match="5 detectors"):
        ShiryaevRoberts(rollback_bets(LIMIT)).restore([1.0])
