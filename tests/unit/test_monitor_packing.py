"""Scores come back from their packed form as they went in, to the last bit."""

from __future__ import annotations

import struct
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import LedgerError
from proxy.monitor.packing import Shape, pack, slots_of
from proxy.monitor.rows import ScoreRow
from scorers.records import Reason
from tests.unit.monitor_samples import row

_finite = st.floats(allow_nan=False, allow_infinity=False)
_ARMS: tuple[Literal["candidate", "noise"], ...] = ("candidate", "noise")


@st.composite
def _scores(draw: st.DrawFn) -> tuple[ScoreRow, ...]:
    keys = draw(st.lists(st.tuples(st.sampled_from(_ARMS), st.sampled_from("abcdefgh")), unique=True, max_size=12))
    scores = []
    for arm, name in keys:
        value = draw(st.none() | _finite)
        scores.append(ScoreRow(arm, name, value, draw(st.sampled_from(list(Reason))) if value is None else None))
    return tuple(scores)


@given(_scores())
def test_scores_and_observation_survive_packing(scores: tuple[ScoreRow, ...]) -> None:
    shape = Shape.from_text(Shape(slots_of(scores)).to_text())
    packed = pack(scores)

    assert shape.rows(packed) == scores
    expected = row(0, scores=scores).observation()
    assert shape.sides(packed) == (expected.candidate, expected.noise)
    bits = [struct.pack("<d", score.value) for score in shape.rows(packed) if score.value is not None]
    assert bits == [struct.pack("<d", score.value) for score in scores if score.value is not None]  # -0.0 too


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_is_refused(value: float) -> None:
    with pytest.raises(LedgerError, match="tool_x"):
        pack([ScoreRow("candidate", "tool_x", value, None)])


def test_neither_number_nor_reason_is_refused() -> None:
    with pytest.raises(LedgerError, match="neither"):
        pack([ScoreRow("candidate", "tool_x", None, None)])


def test_one_score_twice_for_an_arm_is_refused() -> None:
    with pytest.raises(LedgerError, match="twice"):
        Shape((("candidate", "a", None), ("candidate", "a", Reason.LATE)))


@pytest.mark.parametrize("text", ['[["x","a",null]]', '[["noise","a","new_reason"]]', "{", "3", '[["noise"]]'])
def test_an_unknown_layout_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match="layout"):
        Shape.from_text(text)


def test_numbers_that_do_not_fit_the_layout_are_corruption() -> None:
    with pytest.raises(LedgerError, match="corrupt"):
        Shape((("candidate", "a", None),)).rows(b"\0" * 7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_is_corruption_when_it_is_read(value: float) -> None:
    shape = Shape((("candidate", "a", None), ("noise", "a", None)))
    with pytest.raises(LedgerError, match="corrupt"):
        shape.sides(struct.pack("<2d", 0.5, value))
    assert shape.sides(struct.pack("<2d", 1e308, 1e308)) == ({"a": 1e308}, {"a": 1e308})
