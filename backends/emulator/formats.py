"""Number grids, and scales that fit values to them. The grids are ml_dtypes'; nothing here is a table of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Axes: TypeAlias = int | tuple[int, ...] | None

BF16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, slots=True)
class Grid:
    """The values of a format. `reach` is what the largest magnitude is scaled to.

    For integers that is half of the range, 7.5 and 127.5, so that -8 and -128 are used.
    Source: compressed-tensors 0.19 `quantization/utils/helpers.py: calculate_qparams` (symmetric).
    """

    dtype: np.dtype[Any]
    low: float
    high: float
    reach: float
    whole: bool

    def round(self, x: Floats) -> Floats:
        """The nearest value of the grid, ties to even; what lies beyond becomes the last value. Shapes: as `x`."""
        held = np.clip(x, np.float32(self.low), np.float32(self.high))
        return np.rint(held) if self.whole else held.astype(self.dtype).astype(np.float32)


def _float(dtype: Any) -> Grid:
    top = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]  # ml_dtypes has no types for it
    return Grid(np.dtype(dtype), -top, top, top, whole=False)


def _integer(dtype: Any) -> Grid:
    info = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]  # nor for this
    low, high = float(info.min), float(info.max)
    return Grid(np.dtype(dtype), low, high, (high - low) / 2, whole=True)


GRIDS: Mapping[str, Grid] = {
    "fp16": _float(np.float16),
    "fp8-e4m3": _float(ml_dtypes.float8_e4m3fn),
    "fp8-e5m2": _float(ml_dtypes.float8_e5m2),
    "fp6-e3m2": _float(ml_dtypes.float6_e3m2fn),
    "fp6-e2m3": _float(ml_dtypes.float6_e2m3fn),
    "fp4-e2m1": _float(ml_dtypes.float4_e2m1fn),
    "int8": _integer(np.int8),
    "int4": _integer(ml_dtypes.int4),
}
"""By name; bf16 is not among them, since it is what every value has before it is quantized."""


def bf16(x: Floats) -> Floats:
    """`x` rounded to BF16 and back."""
    return x.astype(BF16).astype(np.float32)


def scale_of(x: Floats, grid: Grid, axes: Axes) -> Floats:
    """The scale that maps the largest magnitude along `axes` to the grid's reach; 1 where all is zero.

    Shapes: as `x`, with 1 along `axes`.
    """
    scale = np.abs(x).max(axis=axes, keepdims=True) / np.float32(grid.reach)
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)


def through(x: Floats, grid: Grid, scale: Floats | np.float32) -> Floats:
    """`x` as it comes back from the grid with a scale. Shapes: as `x`."""
    return grid.round(x / scale) * scale


def power_of_two_scale(x: Floats, grid: Grid, axes: Axes) -> Floats:
    """The shared exponent of a microscaling block, an E8M0 number. Shapes: as `x`, with 1 along `axes`.

    A magnitude in the last eighth below a power of two (mantissa from 1.75) takes the next one, as in
    compressed-tensors 0.19 `quantization/utils/mxfp_utils.py: round_to_power_2`; OCP's own rule would cut it off.
    """
    top = np.abs(x).max(axis=axes, keepdims=True)
    mantissa, exponent = np.frexp(np.where(top > 0, top, np.float32(1)))
    power = exponent - 1 + (mantissa >= 0.875) - int(np.floor(np.log2(grid.high)))
    scale: Floats = np.ldexp(np.float32(1), power).astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    return scale
