"""The hardware gate, the anomalies, the method guide: every row of the knowledge page speaks."""

from __future__ import annotations

import pytest

from backends.recipes.hardware import CARDS, card_named
from backends.recipes.methods import METHODS
from tests.unit.recipe_rig import AWQ, FP8, found, recipe, rules

# The matrix of the knowledge page, cell by cell.
MATRIX = {
    "a100": {"fp16": True, "bf16": True, "fp8-e4m3": False, "fp6-e3m2": False, "mxfp4": False, "int8": True},
    "rtx-3090": {"fp16": True, "bf16": True, "fp8-e4m3": False, "fp6-e3m2": False, "mxfp4": False, "int8": True},
    "h100": {"fp16": True, "bf16": True, "fp8-e4m3": True, "fp6-e3m2": False, "mxfp4": False, "int8": True},
    "h200": {"fp16": True, "bf16": True, "fp8-e4m3": True, "fp6-e3m2": False, "mxfp4": False, "int8": True},
    "l40s": {"fp16": True, "bf16": True, "fp8-e4m3": True, "fp6-e3m2": False, "mxfp4": False, "int8": True},
    "rtx-4090": {"fp16": True, "bf16": True, "fp8-e4m3": True, "fp6-e3m2": False, "mxfp4": False, "int8": True},
    "b200": {"fp16": True, "bf16": True, "fp8-e4m3": True, "fp6-e3m2": True, "mxfp4": True, "int8": True},
    "rtx-5090": {"fp16": True, "bf16": True, "fp8-e4m3": True, "fp6-e3m2": True, "mxfp4": True, "int8": True},
}
CELLS = [(card, name, native) for card, row in MATRIX.items() for name, native in row.items()]


@pytest.mark.parametrize(("card", "name", "native"), CELLS)
def test_the_hardware_matrix(card: str, name: str, native: bool) -> None:
    gate = [one for one in found(recipe(hardware=card, weights={"format": name})) if one.rule == "hardware-gate"]
    assert [one.level for one in gate] == ([] if native else ["error"])
    assert all("INT4 AWQ" in one.fix for one in gate)


@pytest.mark.parametrize("card", [name for name in CARDS if name != "cpu"])
def test_int4_weights_are_stored_low_and_computed_higher_everywhere(card: str) -> None:
    assert not rules(found(recipe(hardware=card, weights=AWQ)), "error")


def test_no_fp8_on_an_a100_says_what_would_be_emulated_and_what_to_take() -> None:
    findings = found(recipe(hardware="a100", weights=FP8, activations=FP8, kv_cache={"format": "fp8-e4m3"}))
    gate = {one.key: one for one in findings if one.rule == "hardware-gate"}
    assert set(gate) == {"weights.format", "activations.format", "kv_cache.format"}
    assert "Marlin" in gate["weights.format"].found
    assert "INT8 (W8A8 by SmoothQuant)" in gate["weights.format"].fix
    assert "cast up" in gate["kv_cache.format"].found


def test_what_is_only_stored_low_can_be_allowed() -> None:
    chosen = recipe(hardware="a100", weights=FP8)
    assert rules(found(chosen), "error") == {"hardware-gate"}
    allowed = found(chosen, allow_emulated=True)
    assert not rules(allowed, "error")
    assert "hardware-gate" in rules(allowed, "warning")


@pytest.mark.parametrize(
    ("name", "weights", "warned"),
    [
        ("meta-llama/Meta-Llama-3-70B-Instruct", {"format": "int8", "method": "smoothquant"}, True),
        ("meta-llama/Llama-3.3-70B-Instruct", {"format": "int8"}, True),
        ("llama3-70b", {"format": "int8"}, True),
        ("meta-llama/Llama-3.3-70B-Instruct", {"format": "int8", "method": "quarot"}, False),
        ("meta-llama/Llama-3.3-70B-Instruct", {"format": "int8", "method": "spinquant"}, False),
        ("meta-llama/Llama-3.3-70B-Instruct", {"format": "int8", "per": "group"}, False),
        ("", {"format": "int8"}, True),
        ("Qwen/Qwen2.5-72B", {"format": "int8"}, False),
        ("someone/other-70b", {"format": "int8"}, False),
        ("meta-llama/Llama-3.1-8B", {"format": "int8"}, False),
    ],
)
def test_llama_3_70b_at_w8a8(name: str, weights: dict[str, str], warned: bool) -> None:
    size = "8B" if "8B" in name else "72B" if "72B" in name else "70B"
    chosen = recipe(model={"name": name, "size": size}, weights=weights, activations={"format": "int8"})
    spoke = [one for one in found(chosen) if one.rule == "llama-3-70b-w8a8"]
    assert [one.level for one in spoke] == (["warning"] if warned else [])
    if warned:
        assert "2 to 4 points of MMLU" in spoke[0].found
        assert "2408.15301" in spoke[0].source
        assert all(word in spoke[0].fix for word in ("quarot", "spinquant", "group", "W4A16"))


def test_llama_3_70b_at_w4a16_is_sound() -> None:
    chosen = recipe(model={"name": "meta-llama/Llama-3.3-70B-Instruct", "size": "70B"}, weights=AWQ)
    assert not rules(found(chosen), "warning") | rules(found(chosen), "error")


@pytest.mark.parametrize(
    ("cache", "rule"),
    [
        ({"format": "int4", "per": "tensor"}, "int4-kv-per-tensor"),
        ({"format": "fp8-e4m3", "per": "tensor"}, "fp8-kv-per-tensor"),
        ({"format": "fp8-e4m3", "per": "one"}, "fp8-kv-per-tensor"),
        ({"format": "fp8-e4m3"}, "fp8-kv-per-tensor"),
    ],
)
def test_the_anomalies_of_the_cache(cache: dict[str, str], rule: str) -> None:
    findings = found(recipe(kv_cache=cache, context_tokens=32_768))
    assert rule in rules(findings, "warning")
    if rule == "int4-kv-per-tensor":
        assert any("32,768" in one.fix for one in findings)


@pytest.mark.parametrize("per", ["head", "token-head"])
def test_finer_scales_are_no_anomaly(per: str) -> None:
    spoke = {one.rule for one in found(recipe(kv_cache={"format": "fp8-e4m3", "per": per}))}
    assert not spoke & {"fp8-kv-per-tensor", "int4-kv-per-tensor"}


@pytest.mark.parametrize(
    ("weights", "level", "told"),
    [
        ({"format": "int4", "method": "rtn"}, "warning", "weakest INT4"),
        ({"format": "int4", "method": "smoothquant"}, "warning", "weak below 8 bits"),
        ({"format": "int4", "method": "omniquant"}, "error", "research code"),
        ({"format": "int4", "method": "quarot"}, "note", "changes the graph"),
        ({"format": "int4", "method": "online"}, "error", "quantizes nothing to int4"),
        ({"format": "int3", "method": "spinquant"}, "warning", "smaller model"),
        ({"format": "int2", "method": "gptq"}, "warning", "smaller model"),
        ({"format": "int4", "method": "gptq"}, "note", "must be calibrated"),
        ({"format": "int4", "method": "awq"}, "note", "AWQ must be calibrated"),
        ({"format": "int4", "method": "spinquant"}, "note", "SpinQuant must be calibrated"),
    ],
)
def test_the_method_guide(weights: dict[str, str], level: str, told: str) -> None:
    assert any(one.level == level and told in one.found for one in found(recipe(weights=weights)))


@pytest.mark.parametrize("weights", [{"format": "fp8-e4m3", "method": "rtn"}, {"format": "fp8-e4m3"}])
def test_what_needs_no_calibration_is_not_told_to(weights: dict[str, str]) -> None:
    assert not any(one.rule == "calibration" for one in found(recipe(weights=weights, activations=FP8)))


def test_every_method_has_its_row() -> None:
    assert set(METHODS) == {
        "none", "gptq", "awq", "smoothquant", "quarot", "spinquant", "omniquant", "gguf", "rtn", "online"
    }  # fmt: skip
    papers = {"gptq": "2210.17323", "awq": "2306.00978", "smoothquant": "2211.10438", "quarot": "2404.00456",
              "spinquant": "2405.16406", "omniquant": "2308.13137"}  # fmt: skip
    assert {name: METHODS[name].source.removeprefix("arXiv ") for name in papers} == papers


def test_an_agent_is_calibrated_on_tool_use() -> None:
    findings = found(recipe(workload="agent", weights=AWQ))
    assert any(one.rule == "calibration" and "tool-use" in one.fix and "256" in one.fix for one in findings)
    assert any("AWQ with tool-use" in one.found for one in found(
        recipe(workload="agent", weights={"format": "int4", "method": "gptq"})))  # fmt: skip


def test_static_scales_are_calibrated_and_dynamic_ones_are_not() -> None:
    static = found(recipe(weights=FP8, activations={"format": "fp8-e4m3", "per": "tensor"}))
    assert any("static activation scales" in one.found for one in static)


def test_low_activations_beside_4_bit_weights_hint_at_rotations() -> None:
    w4a4 = recipe(hardware="b200", weights={"format": "mxfp4"}, activations={"format": "mxfp4"})
    assert any("QuaRot or SpinQuant" in one.fix for one in found(w4a4))


def test_a_model_that_does_not_fit_is_an_error_with_the_room_there_is() -> None:
    full = [one for one in found(recipe(hardware="h100"), with_roof=True) if one.rule == "capacity"]
    assert [one.level for one in full] == ["error"]
    assert "141.1 GB of weights" in full[0].found
    assert "gpus = 2" in full[0].fix
    long = recipe(hardware="h100", weights=AWQ, context_tokens=131_072)
    (short,) = [one for one in found(long, with_roof=True) if one.rule == "capacity"]
    assert "context_tokens up to" in short.fix
    assert "FP8 cache" in short.fix


def test_fewer_sequences_than_asked_is_a_warning() -> None:
    crowded = recipe(weights=AWQ, context_tokens=16_384, concurrency=32)
    (told,) = [one for one in found(crowded, with_roof=True) if one.rule == "capacity"]
    assert (told.level, "17 sequences" in told.found) == ("warning", True)


def test_a_cpu_tries_parity_but_not_speed() -> None:
    """What vLLM's CPU build serves and what it has no kernel for."""
    for weights, activations in ((AWQ, {}), ({"format": "int8"}, {"format": "int8"}), (FP8, FP8)):
        served = recipe("0.6B", hardware="cpu", weights=weights, activations=activations)
        assert not rules(found(served), "error"), weights
    for name in ("mxfp4", "nvfp4"):
        assert rules(found(recipe("0.6B", hardware="cpu", weights={"format": name})), "error") == {"hardware-gate"}
    assert not rules(found(recipe("0.6B", hardware="cpu", kv_cache={"format": "fp8-e5m2"})), "error")


def test_errors_come_first() -> None:
    levels = [one.level for one in found(recipe(hardware="a100", weights=FP8, activations=FP8, kv_cache=FP8))]
    assert levels == sorted(levels, key=("error", "warning", "note").index)


@pytest.mark.parametrize(("said", "meant"), [("H200", "h200"), ("A100-80GB", "a100"), ("RTX 4090", "rtx-4090")])
def test_a_card_by_its_usual_names(said: str, meant: str) -> None:
    assert card_named(said).name == meant
