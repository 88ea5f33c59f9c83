"""Grids and scales against values worked out by hand, and against ml_dtypes' own list of each format's values."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.emulator.formats import GRIDS, bf16, power_of_two_scale, scale_of, through


def values_of(dtype: np.dtype) -> np.ndarray:
    """All finite values of a format of at most 8 bits, read from its codes."""
    bits = {"float8_e4m3fn": 8, "float8_e5m2": 8, "float6_e3m2fn": 6, "float6_e2m3fn": 6, "float4_e2m1fn": 4}[
        dtype.name
    ]
    codes = np.arange(1 << bits, dtype=np.uint8).view(dtype).astype(np.float64)
    return np.unique(codes[np.isfinite(codes)])


@pytest.mark.parametrize("name", ["fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1"])
def test_a_float_grid_gives_its_nearest_value(name: str) -> None:
    grid = GRIDS[name]
    values = values_of(grid.dtype)
    assert values.max() == grid.high == -grid.low
    x = np.random.default_rng(0).uniform(-1.3 * grid.high, 1.3 * grid.high, 4_000).astype(np.float32)
    got = grid.round(x)
    held = np.clip(x, grid.low, grid.high)
    nearest = np.abs(values[None] - held[:, None]).min(1)
    assert set(got.tolist()) <= set(values.tolist())
    np.testing.assert_allclose(np.abs(got - held), nearest, rtol=0, atol=1e-6)


def test_the_last_values_are_the_standards() -> None:
    assert {name: (grid.low, grid.high, grid.reach) for name, grid in GRIDS.items() if name != "fp16"} == {
        "fp8-e4m3": (-448, 448, 448),
        "fp8-e5m2": (-57344, 57344, 57344),
        "fp6-e3m2": (-28, 28, 28),
        "fp6-e2m3": (-7.5, 7.5, 7.5),
        "fp4-e2m1": (-6, 6, 6),
        "int8": (-128, 127, 127.5),
        "int4": (-8, 7, 7.5),
    }
    assert GRIDS["fp16"].high == 65504


def test_ties_go_to_even_and_what_lies_beyond_is_the_last_value() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, 6.6, 7.5, 99, -7.6, -99], np.float32)
    assert GRIDS["int4"].round(x).tolist() == [0, 2, 2, 0, 7, 7, 7, -8, -8]
    assert GRIDS["fp4-e2m1"].round(np.array([0.25, 0.75, 2.5, 5.0, 7.0], np.float32)).tolist() == [0, 1, 2, 4, 6]


def test_int4_by_hand() -> None:
    """The largest magnitude, 15, sits at 7.5 steps of 2: it becomes 7 steps on one side and 8 on the other."""
    grid = GRIDS["int4"]
    x = np.array([[15.0, 2.9, -1.1, 0.0], [-15.0, 3.1, 1.0, 14.0]], np.float32)
    scale = scale_of(x, grid, -1)
    assert scale.tolist() == [[2.0], [2.0]]
    assert through(x, grid, scale).tolist() == [[14, 2, -2, 0], [-16, 4, 0, 14]]


def test_zeros_have_a_scale() -> None:
    zeros = np.zeros((2, 4), np.float32)
    for grid in GRIDS.values():
        assert through(zeros, grid, scale_of(zeros, grid, -1)).tolist() == zeros.tolist()
    assert power_of_two_scale(zeros, GRIDS["fp4-e2m1"], -1).tolist() == [[0.25], [0.25]]


def test_the_axes_of_a_scale_are_what_shares_it() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    grid = GRIDS["int8"]
    assert scale_of(x, grid, None).shape == (1, 1, 1)
    assert scale_of(x, grid, (-2, -1)).ravel().tolist() == pytest.approx([11 / 127.5, 23 / 127.5])
    assert scale_of(x, grid, -1).ravel().tolist() == pytest.approx([one / 127.5 for one in (3, 7, 11, 15, 19, 23)])


@pytest.mark.parametrize(
    ("top", "scale"),
    [(6.0, 1.0), (4.0, 1.0), (6.9, 1.0), (7.0, 2.0), (7.9, 2.0), (3.4, 0.5), (3.5, 1.0)],
)
def test_microscaling_exponents(top: float, scale: float) -> None:
    assert power_of_two_scale(np.array([top, -top / 3], np.float32), GRIDS["fp4-e2m1"], -1).item() == scale


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_bf16_is_ml_dtypes_and_stays_where_it_is(numbers: list[float]) -> None:
    x = np.array(numbers, np.float32)
    assert bf16(x).tolist() == x.astype(ml_dtypes.bfloat16).astype(np.float32).tolist()
    assert bf16(bf16(x)).tolist() == bf16(x).tolist()
