"""Since when the verdict is what it is: told by events, by the epoch's opening, or said to be unknown."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from proxy.monitor.history import Since, note_of, same, since
from proxy.monitor.rows import VERDICT, Opening
from scorers.judge import Verdict
from tests.unit.monitor_samples import verdict

OPENINGS = [Opening(1, 10.0, "first"), Opening(2, 50.0, "changed")]


class Told(NamedTuple):
    at_unix_s: float
    kind: str
    detail: dict[str, Any]


def event(at: float, state: str, epoch: int = 2, **more: Any) -> Told:
    return Told(at, VERDICT, {"epoch": epoch, "state": state, "stage": "proving", **more})


def of(state: Any, **more: Any) -> Verdict:
    return verdict(state, **{"epoch": 2, **more})


@pytest.mark.parametrize(
    ("state", "events", "expected"),
    [
        ("inconclusive", [], Since(50.0, True)),
        ("inconclusive", [event(20.0, "fail", epoch=1)], Since(50.0, True)),
        ("fail", [event(70.0, "fail")], Since(70.0, True)),
        ("fail", [event(90.0, "fail"), event(80.0, "fail"), event(70.0, "pass")], Since(80.0, True)),
        ("fail", [event(70.0, "fail", found=True)], Since(70.0, False)),
        ("inconclusive", [event(90.0, "inconclusive"), event(80.0, "fail")], Since(90.0, True)),
        ("fail", [Told(99.0, "reset", {"epoch": 2}), event(70.0, "fail")], Since(70.0, True)),
        ("fail", [], None),
        ("fail", [event(70.0, "pass")], None),
    ],
)
def test_since_when(state: str, events: list[Told], expected: Since | None) -> None:
    assert since(of(state), events, OPENINGS) == expected


def test_an_event_is_made_for_another_state_or_stage_and_for_none_else() -> None:
    fail = of("fail", stage="rolled_back", reasons=("x" * 1000,))
    told = note_of(fail)
    assert same(told, fail)
    assert not same(told, of("inconclusive"))
    assert not same(told, of("fail", stage="proving"))
    assert not same(told, of("fail", stage="rolled_back", epoch=3))
    assert same(None, of("inconclusive"))
    assert same(told, of("inconclusive", epoch=3))
    assert len(told["reason"]) == 300
    assert "found" not in told
    assert note_of(fail, found=True)["found"] is True
