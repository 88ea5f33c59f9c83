"""The rows: one recipe each. Every method and every format that llm-compressor takes on a CPU is in one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from backends.recipes.reading import parse_recipe
from backends.recipes.recipe import Recipe
from backends.recipes.serving import kv_dtype
from tests.e2e.engines import MODEL

Axes = Mapping[str, Mapping[str, Any]]

INT4, INT8, FP8 = {"format": "int4"}, {"format": "int8"}, {"format": "fp8-e4m3"}

ROWS: Mapping[str, Axes] = {
    "bf16": {},
    "rtn-w4a16": {"weights": INT4},
    "rtn-w4a16-channel": {"weights": {**INT4, "per": "channel"}},
    "gptq-w4a16": {"weights": {**INT4, "method": "gptq"}},
    "awq-w4a16": {"weights": {**INT4, "method": "awq"}},
    "quarot-w4a16": {"weights": {**INT4, "method": "quarot"}},
    "spinquant-w4a16": {"weights": {**INT4, "method": "spinquant"}},
    "rtn-w8a16": {"weights": INT8},
    "rtn-w8a8": {"weights": INT8, "activations": INT8},
    "smoothquant-w8a8": {"weights": {**INT8, "method": "smoothquant"}, "activations": INT8},
    "fp8-dynamic": {"weights": FP8, "activations": FP8},
    "fp8-static": {"weights": {**FP8, "per": "tensor"}, "activations": {**FP8, "per": "tensor"}},
    "fp8-static-channel": {"weights": FP8, "activations": {**FP8, "per": "tensor"}},
    "fp8-kv": {"kv_cache": {**FP8, "per": "tensor"}},
    "fp8-kv-one": {"kv_cache": {**FP8, "per": "one"}},
    "fp8-e5m2-kv": {"kv_cache": {"format": "fp8-e5m2", "per": "one"}},
    "fp8-kv-head": {"kv_cache": {**FP8, "per": "head"}},
    "nvfp4": {"weights": {"format": "nvfp4"}, "activations": {"format": "nvfp4"}},
    "nvfp4-a16": {"weights": {"format": "nvfp4"}},
    "mxfp4": {"weights": {"format": "mxfp4"}, "activations": {"format": "mxfp4"}},
    "mxfp4-a16": {"weights": {"format": "mxfp4"}},
}
OPTIONAL: Mapping[str, Axes] = {"autoawq-w4a16": {"weights": {**INT4, "method": "awq"}}}
"""Rows that need one environment more, and are made only when they are named: .venv-autoawq (docs/quantize.md)."""

NO_CHECKPOINT = ("bf16", "fp8-kv-one", "fp8-e5m2-kv")
"""The cache's format is a flag of the engine here, and nothing is made: the shipped model itself is served."""


def document(name: str) -> dict[str, Any]:
    """A row's recipe file, as TOML's tables."""
    return {
        "name": name, "workload": "agent", "hardware": "cpu", "context_tokens": 4096, "concurrency": 4,
        "model": {"path": str(MODEL)}, **{**ROWS, **OPTIONAL}[name],
    }  # fmt: skip


def recipe_of(name: str) -> Recipe:
    """The row's recipe."""
    return parse_recipe(document(name))


def write_recipe(name: str, folder: Path) -> Path:
    """The recipe file of a row."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in document(name).items():
        if isinstance(value, Mapping):
            tables += ["", f"[{key}]", *(f"{one} = {orjson.dumps(said).decode()}" for one, said in value.items())]
        else:
            lines.append(f"{key} = {orjson.dumps(value).decode()}")
    file = folder / f"{name}.toml"
    file.write_text("\n".join([*lines, *tables]) + "\n", encoding="utf-8")
    return file


def flags_of(name: str) -> tuple[str, ...]:
    """What vLLM is told beside the checkpoint."""
    dtype = kv_dtype(recipe_of(name).kv_cache)
    return () if dtype in (None, "auto") else ("--kv-cache-dtype", str(dtype))
