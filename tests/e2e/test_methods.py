"""Every method that a vLLM on a CPU serves, made, served, mirrored and scored once; and whether the table is whole.

The table: `python -m tests.bench.methods`, docs/methods.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import pytest

from backends.checkpoints.planned import METHODS
from tests.bench.methods.command import MAX_MODEL_LEN, PAGE, PLACE, quantized, touched
from tests.bench.methods.mirrored import LEAST_KL, mirrored
from tests.bench.methods.page import page
from tests.bench.methods.recipes import OPTIONAL, ROWS, flags_of, recipe_of
from tests.bench.methods.traffic import SMALL, bodies, write_calibration
from tests.e2e.engines import Engine, vllm_servers

Run: TypeAlias = tuple[dict[str, Any], dict[str, Any]]  # the card, and the figures

AXES = {"weights", "activations", "kv_cache"}


SERVED = (
    "awq-w4a16", "gptq-w4a16", "spinquant-w4a16", "quarot-w4a16", "rtn-w4a16", "smoothquant-w8a8", "rtn-w8a8",
    "fp8-dynamic", "fp8-kv",
)  # fmt: skip
"""One row of the table for each method that a vLLM on a CPU serves, the longest to make first."""
AT_ONCE = 2  # *choice*: most of an engine's start is imports on one core, and the machine has two


@pytest.fixture(scope="module")
def runs(engines: dict[str, Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    """Every method's checkpoint, made, served, mirrored and scored; two at a time, and each test waits for its own."""
    folder = tmp_path_factory.mktemp("methods")
    file = write_calibration(folder / "calibration.jsonl", 24)

    def run(name: str) -> Run:
        out = folder / name
        card = quantized(name, out / "made", "--calibration", str(file), "--samples", "8", "--max-tokens", "256")
        with vllm_servers({name: out / "made"}, MAX_MODEL_LEN, flags_of(name)) as started:
            url = started[name].url
            return card, asyncio.run(mirrored(name, url, engines["reference"].url, bodies(SMALL), out / "run"))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(run, name) for name in SERVED}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", SERVED)
def test_made_served_mirrored_and_scored(name: str, runs: dict[str, Future[Run]], table: dict[str, Any]) -> None:
    card, found = runs[name].result()
    assert card["calibration"]["source"] == table["rows"][name]["calibration"]
    assert card["calibration"]["source"] == "none" or card["calibration"]["samples"] == 8
    assert found["client_errors"] == 0
    assert found["counts"]["logprob_kl"] == found["requests"]
    assert found["counts"]["tool_call_mismatch"] >= 30
    # It differs from BF16, which shows 1e-7 against itself, and is no ruin. INT8 costs 3e-6 on so few requests.
    assert (LEAST_KL / 10 if "w8a8" in name else LEAST_KL) < found["scores"]["logprob_kl"] < 0.15
    assert found["verdict"] != "fail"
    # The gate may name no axis but the recipe's own. Asked as if a budget were over its limit (`suspect_if_over`), 64
    # requests are too few to hold it to its word: "weights" was once its answer for an FP8 cache (2026-11-25).
    assert {found["suspect"]} & AXES <= set(touched(name))


def test_every_method_that_can_be_served_is(table: dict[str, Any]) -> None:
    served = {recipe_of(name).weights.made_by for name, row in table["rows"].items() if "not_served" not in row}
    assert served <= {recipe_of(name).weights.made_by for name in SERVED}


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


def test_the_gate_told_a_damaged_cache_from_damaged_weights(table: dict[str, Any]) -> None:
    named = {name: (row["axis"], row["suspect"]) for name, row in table["scales_study"].items()}
    assert {said for _, said in named.values()} >= {"kv_cache", "weights"}
    for name, (axis, said) in named.items():
        assert said in (axis, "undetermined"), name


def test_the_page_is_what_was_measured(table: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(table)
