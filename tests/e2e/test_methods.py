"""A small share of the methods' table with real engines, and whether the table itself is whole.

The table: `python -m tests.bench.methods`, docs/methods.md.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from backends.checkpoints.planned import METHODS
from tests.bench.methods.command import MAX_MODEL_LEN, PAGE, PLACE, quantized, touched
from tests.bench.methods.mirrored import LEAST_KL, mirrored
from tests.bench.methods.page import page
from tests.bench.methods.recipes import OPTIONAL, ROWS, flags_of, recipe_of
from tests.bench.methods.traffic import SMALL, bodies, write_calibration
from tests.e2e.engines import Engine, vllm_servers

AXES = {"weights", "activations", "kv_cache"}


@pytest.mark.parametrize("name", ["awq-w4a16", "fp8-kv"])
def test_made_served_mirrored_and_scored(name: str, engines: dict[str, Engine], tmp_path: Path) -> None:
    file = write_calibration(tmp_path / "calibration.jsonl", 24)
    card = quantized(name, tmp_path / name, "--calibration", str(file), "--samples", "8", "--max-tokens", "256")
    assert card["calibration"]["samples"] == 8
    with vllm_servers({name: tmp_path / name}, MAX_MODEL_LEN, flags_of(name)) as started:
        found = asyncio.run(
            mirrored(name, started[name].url, engines["reference"].url, bodies(SMALL), tmp_path / "run")
        )
    assert found["client_errors"] == 0
    assert found["counts"]["logprob_kl"] == found["requests"]
    assert found["counts"]["tool_call_mismatch"] >= 30
    assert LEAST_KL < found["scores"]["logprob_kl"] < 0.15  # it differs from BF16, and is no ruin
    assert found["verdict"] != "fail"
    # The gate may name no axis but the recipe's own. Asked as if a budget were over its limit (`suspect_if_over`), 64
    # requests are too few to hold it to its word: "weights" was once its answer for an FP8 cache (2026-11-25).
    assert {found["suspect"]} & AXES <= set(touched(name))


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(PLACE.read_text(encoding="utf-8"))
    return told


def test_the_table_has_every_row_and_every_method(table: dict[str, Any]) -> None:
    assert [name for name in table["rows"] if name not in OPTIONAL] == list(ROWS)
    covered = {recipe_of(name).weights.made_by for name in ROWS}
    assert set(METHODS) <= covered
    for name, row in table["rows"].items():
        assert "not_served" in row or row["scores"]["logprob_kl"] is not None, name
        assert row["touches"] == touched(name)


def test_no_row_names_an_axis_that_its_recipe_does_not_touch(table: dict[str, Any]) -> None:
    for name, row in table["rows"].items():
        named = {row.get("suspect"), row.get("suspect_if_over")} & AXES
        assert named <= set(row["touches"]), name


def test_the_page_is_what_was_measured(table: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(table)
