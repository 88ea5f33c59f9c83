"""The picture of the evidence: bounded, the same from the ledger as live, and kept when rows are pruned."""

from __future__ import annotations

import json

import pytest

from proxy.monitor.trail import MAX_POINTS, Trail
from proxy.settings import LedgerSettings
from tests.unit.monitor_rig import MemoryLedger
from tests.unit.test_monitor_standing import evidence, scored, standing


def drawn(rows: int) -> Trail:
    trail, state = Trail(), evidence()
    for at in range(rows):
        state.fold(scored(at).observation())
        trail.look(state, 100.0 + at)
    return trail


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 1_000, 5_000])
def test_points_are_bounded_and_evenly_spaced_to_the_present(rows: int) -> None:
    state = evidence()
    trail = Trail()
    for at in range(rows):
        state.fold(scored(at).observation())
        trail.look(state, 100.0 + at)
    course = trail.course(state, 9.0)
    assert len(course.points) <= MAX_POINTS
    assert len(course.points) >= min(rows, MAX_POINTS // 2)
    if rows:
        assert course.points[-1].rows == rows
        steps = {b.rows - a.rows for a, b in zip(course.points, course.points[1:-1], strict=False)}
        assert len(steps) <= 1
        last = course.points[-1].sums["tool_call_mismatch"]["all"]
        assert last.samples == rows
        assert last.total == sum(at % 7 == 0 for at in range(rows))


def test_folding_again_draws_the_same_picture_with_its_times() -> None:
    rows = [scored(n, sampled_unix_s=100.0 + n) for n in range(300)]
    ledger = MemoryLedger()
    live = standing(ledger)
    for at in range(0, 300, 7):
        live.fold(rows[at : at + 7])
    ledger.append(rows)
    assert standing(ledger).course(1.0).points == live.course(1.0).points
    assert live.course(1.0).points[0].at_unix_s == 100.0 + live.course(1.0).points[0].position


def test_the_picture_outlives_the_rows_in_the_checkpoint() -> None:
    rows, ledger = [scored(n, sampled_unix_s=100.0 + n) for n in range(120)], MemoryLedger()
    live = standing(ledger)
    live.fold(rows[:80])
    checkpoint = live.checkpoint()
    assert checkpoint is not None
    ledger.checkpoint(*checkpoint)
    ledger.append(rows[80:])
    ledger.pruned_through = 79
    live.fold(rows[80:])
    again = standing(ledger)
    assert again.course(1.0).points == live.course(1.0).points
    assert again.verdict(()).as_dict() == live.verdict(()).as_dict()


def test_a_trail_that_was_stored_goes_on_at_its_own_distance() -> None:
    """One that began again at every row would draw the latest rows closer together until it was full."""
    trail, state = Trail(), evidence()
    for at in range(910):
        state.fold(scored(at).observation())
        trail.look(state, 100.0 + at)
        if at == 900:
            trail = Trail.from_json(json.loads(json.dumps(trail.to_json())))
    assert trail.course(state, 9.0).points == drawn(910).course(state, 9.0).points


def test_a_checkpoint_from_before_there_were_pictures_is_read() -> None:
    rows, ledger = [scored(n) for n in range(50)], MemoryLedger()
    live = standing(ledger)
    live.fold(rows)
    checkpoint = live.checkpoint()
    assert checkpoint is not None
    epoch, position, text = checkpoint
    old = {key: value for key, value in json.loads(text).items() if key != "trail"}
    ledger.checkpoint(epoch, position, json.dumps(old))
    ledger.pruned_through = position
    again = standing(ledger)
    assert again.verdict(()).as_dict() == live.verdict(()).as_dict()
    assert again.course(1.0).points == ()


def test_a_damaged_trail_says_so() -> None:
    with pytest.raises(ValueError, match="damaged"):
        Trail.from_json({"rows": 3})


def test_a_checkpoint_stays_small() -> None:
    assert len(json.dumps(drawn(10_000).to_json())) < 10_000 < LedgerSettings().max_bytes
