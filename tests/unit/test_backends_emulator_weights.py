"""Stored matrices: which values share a scale, and that what comes back is on the grid."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from backends.emulator.formats import bf16
from backends.emulator.recipes import RECIPES, RecipeError, parsed
from backends.emulator.weights import stored


def matrix(rows: int = 8, columns: int = 256, seed: int = 0) -> np.ndarray:
    return bf16(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


def stored_as(axes: str, x: np.ndarray) -> np.ndarray:
    return stored(x, parsed(axes).weights)


def test_bf16_is_untouched_and_fp16_keeps_what_it_can() -> None:
    x = matrix()
    assert stored_as("weights=bf16", x) is x
    tiny = np.array([[1e-9, 1.0, 1e6]], np.float32)
    assert stored_as("weights=fp16", tiny).tolist() == [[0.0, 1.0, 65504.0]]


@pytest.mark.parametrize(
    ("axes", "shared"), [("int4:tensor", 8 * 256), ("int4:channel", 256), ("int4:group128", 128), ("int4:group32", 32)]
)
def test_a_scale_covers_what_its_granularity_says(axes: str, shared: int) -> None:
    x = matrix()
    groups = stored_as(f"weights={axes}", x).reshape(-1, shared)
    tops = np.abs(x.reshape(-1, shared)).max(1)
    for group, top in zip(groups, tops, strict=True):
        scale = np.float32(bf16(np.array([top / np.float32(7.5)], np.float32))[0])
        steps = np.rint(group / scale)
        unpacked = steps * scale
        np.testing.assert_array_equal(group, bf16(unpacked) if "group" in axes else unpacked)
        assert -8 <= steps.min() < steps.max() <= 7


def test_an_outlier_costs_only_those_that_share_its_scale() -> None:
    x = matrix()
    x[0, 0] = 100.0
    lost = {axes: np.abs(stored_as(f"weights=int4:{axes}", x) - x) for axes in ("tensor", "channel", "group128")}
    assert lost["tensor"][1:].mean() > 5 * lost["channel"][1:].mean()
    assert lost["channel"][0, 128:].mean() > 5 * lost["group128"][0, 128:].mean()


def test_the_fewer_bits_the_more_is_lost() -> None:
    x = matrix(64)
    names = (
        "int8-weights",
        "fp8-weights",
        "fp6-e2m3-weights",
        "int4-weights",
        "int4-weights-per-channel",
        "int4-weights-per-tensor",
    )
    lost = [float(np.square(stored(x, RECIPES[name].weights) - x).mean()) for name in names]
    assert lost == sorted(lost)
    assert lost[0] > 0


def test_mxfp4_by_hand() -> None:
    """The largest is 5: exponent 2, so the block's scale is 1. Steps are those of E2M1."""
    x = np.zeros((1, 32), np.float32)
    x[0, :6] = [5.0, 0.3, 0.7, -1.3, 2.4, 3.6]
    assert stored_as("weights=mxfp4", x)[0, :6].tolist() == [4.0, 0.5, 0.5, -1.5, 2.0, 4.0]


def test_nvfp4_scales_are_e4m3_over_sixteen_values() -> None:
    x = matrix()
    whole = np.float32(448 * 6 / np.abs(x).max())
    blocks = stored_as("weights=nvfp4", x).reshape(-1, 16)
    given = x.reshape(-1, 16)
    for block, before in zip(blocks, given, strict=True):
        wanted = np.abs(before).max() / 6 * whole
        scale = np.float32(ml_dtypes.float8_e4m3fn(wanted)) / whole
        steps = (block / scale).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
        np.testing.assert_allclose(block, steps * scale, rtol=1e-6)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"a group of 128 does not divide 96 inputs"):
        stored_as("weights=int4:group128", matrix(4, 96))
    with pytest.raises(RecipeError, match=r"a group of 32 does not divide 48"):
        stored_as("weights=mxfp4", matrix(4, 48))
