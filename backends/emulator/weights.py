"""A weight matrix as a recipe stores it: rounded to nearest, and back to float32.

Scales are BF16 and the quotient is BF16, as where llm-compressor's round-to-nearest works on a BF16 checkpoint. Groups
come back as BF16, because kernels unpack them to that before they multiply; the scale of a whole channel or tensor is
applied to the sum instead, and stays exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from backends.emulator.formats import GRIDS, Floats, bf16, power_of_two_scale, scale_of
from backends.emulator.recipes import RecipeError, Weights

MX_BLOCK = 32  # OCP Microscaling Formats 1.0
NV_BLOCK = 16  # NVFP4: E4M3 scales over 16 values


def stored(matrix: Floats, recipe: Weights) -> Floats:
    """The matrix after quantizing and dequantizing. Shapes: (out, in) in and out.

    Raises:  RecipeError when the groups do not fit.
    """
    if recipe.format == "bf16":
        return matrix
    if recipe.format == "fp16":
        return GRIDS["fp16"].round(matrix)
    if recipe.format == "mxfp4":
        return _grouped(matrix, MX_BLOCK, recipe, _mxfp4)
    if recipe.format == "nvfp4":
        return _nvfp4(matrix, recipe)
    if recipe.per == "group":
        return _grouped(matrix, recipe.size, recipe, lambda groups: bf16(_scaled(groups, recipe.format, -1)))
    return _scaled(matrix, recipe.format, None if recipe.per == "tensor" else -1)


def _scaled(x: Floats, name: str, axes: int | None) -> Floats:
    grid = GRIDS[name]
    scale = bf16(scale_of(x, grid, axes))
    return grid.round(bf16(x / scale)) * scale


def _mxfp4(blocks: Floats) -> Floats:
    grid = GRIDS["fp4-e2m1"]
    scale = power_of_two_scale(blocks, grid, -1)
    return grid.round(blocks / scale) * scale


def _nvfp4(matrix: Floats, recipe: Weights) -> Floats:
    """Two levels: an E4M3 scale per 16 values, and one float32 for the matrix that lets those use their range."""
    grid, scales = GRIDS["fp4-e2m1"], GRIDS["fp8-e4m3"]
    top = float(np.abs(matrix).max())
    whole = np.float32(scales.high * grid.high / top) if top > 0 else np.float32(1)
    smallest = np.float32(2.0**-9)  # E4M3's smallest number

    def blocks(x: Floats) -> Floats:
        local = scales.round(scale_of(x, grid, -1) * whole)
        scale = (np.maximum(local, smallest) / whole).astype(np.float32)
        return grid.round(x / scale) * scale

    return _grouped(matrix, NV_BLOCK, recipe, blocks)


def _grouped(matrix: Floats, size: int, recipe: Weights, make: Callable[[Floats], Floats]) -> Floats:
    rows, columns = matrix.shape
    if columns % size:
        raise RecipeError(
            f"weights {recipe}: a group of {size} does not divide {columns} inputs; choose a divisor of {columns}"
        )
    return make(matrix.reshape(rows, columns // size, size)).reshape(rows, columns)
