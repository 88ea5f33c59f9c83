"""Every method of a recipe as llm-compressor's modifiers, or a refusal with its fix."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from backends.checkpoints.planned import METHODS, PlanError, plan
from backends.recipes.formats import SIXTEEN_BIT, ActivationFormat, KvFormat, KvPer, WeightFormat
from backends.recipes.reading import RecipeFileError
from backends.recipes.recipe import Method
from tests.unit.recipe_rig import AWQ, FP8, recipe

INT4, INT8 = {"format": "int4"}, {"format": "int8"}


def steps(**axes: Any) -> list[str]:
    return [one.name for one in plan(recipe(**axes)).modifiers]


def last(**axes: Any) -> dict[str, Any]:
    return dict(plan(recipe(**axes)).modifiers[-1].arguments)


def group(**axes: Any) -> dict[str, Any]:
    (found,) = last(**axes)["config_groups"].values()
    return dict(found)


@pytest.mark.parametrize(
    ("axes", "names", "calibrated"),
    [
        ({"weights": INT4}, ["QuantizationModifier"], False),
        ({"weights": {**INT4, "method": "gptq"}}, ["GPTQModifier"], True),
        ({"weights": AWQ}, ["AWQModifier", "QuantizationModifier"], True),
        (
            {"weights": {**INT8, "method": "smoothquant"}, "activations": INT8},
            ["SmoothQuantModifier", "QuantizationModifier"],
            True,
        ),
        ({"weights": {**INT4, "method": "quarot"}}, ["SpinQuantModifier", "QuantizationModifier"], False),
        ({"weights": {**INT4, "method": "spinquant"}}, ["SpinQuantModifier", "GPTQModifier"], True),
        ({"weights": FP8, "activations": FP8}, ["QuantizationModifier"], False),
        ({"weights": FP8, "activations": {**FP8, "per": "tensor"}}, ["QuantizationModifier"], True),
        ({"kv_cache": {**FP8, "per": "tensor"}}, ["QuantizationModifier"], True),
        ({"weights": {"format": "mxfp4"}, "activations": {"format": "mxfp4"}}, ["QuantizationModifier"], False),
        ({"weights": {"format": "nvfp4"}, "activations": {"format": "nvfp4"}}, ["QuantizationModifier"], True),
        ({"weights": {"format": "nvfp4"}}, ["QuantizationModifier"], False),
    ],
)
def test_what_each_method_is_made_of(axes: dict[str, Any], names: list[str], calibrated: bool) -> None:
    planned = plan(recipe(**axes))
    assert [one.name for one in planned.modifiers] == names
    assert planned.calibrated is calibrated
    assert json.loads(json.dumps(planned.as_dict())) == planned.as_dict()


def test_every_word_of_a_recipe_for_a_method_is_planned_or_refused_with_a_fix() -> None:
    for method in get_args(Method):
        if method == "none":
            continue
        weights = {"format": "q4_k_m" if method == "gguf" else "int4", "method": method}
        low = {"activations": {"format": "int8"}} if method == "smoothquant" else {}
        if method in (*METHODS, "gguf"):
            assert plan(recipe(weights=weights, **low)).modifiers
            continue
        assert method in ("omniquant", "online")
        with pytest.raises(PlanError, match="take method"):
            plan(recipe(weights=weights, **low))


def test_every_combination_of_formats_is_planned_or_refused() -> None:
    """No combination that a recipe can say ends in another error."""
    found = {"planned": 0, "refused": 0}
    for weights in get_args(WeightFormat):
        for activations in get_args(ActivationFormat):
            for cache in get_args(KvFormat):
                for per in (None, *get_args(KvPer)):
                    said = {"format": cache} | ({"per": per} if per else {})
                    try:
                        chosen = recipe(weights={"format": weights}, activations={"format": activations}, kv_cache=said)
                    except RecipeFileError:
                        continue
                    try:
                        planned = plan(chosen)
                    except PlanError:
                        found["refused"] += 1
                        continue
                    found["planned"] += 1
                    low = activations not in SIXTEEN_BIT
                    groups = planned.modifiers[-1].arguments.get("config_groups", {}).values()
                    assert all(("input_activations" in one) == low for one in groups)
    assert min(found.values()) > 100


def test_granularities_and_ignored_layers_are_the_recipes() -> None:
    assert group(weights=INT4)["weights"] == {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128
    }  # fmt: skip
    assert group(weights={**INT4, "group_size": 32})["weights"]["group_size"] == 32
    assert group(weights={**INT4, "per": "channel"})["weights"]["strategy"] == "channel"
    assert group(weights={**FP8, "per": "tensor"})["weights"]["strategy"] == "tensor"
    assert last(weights={**INT4, "ignored_layers": ["lm_head", "re:.*down_proj"]})["ignore"] == [
        "lm_head", "re:.*down_proj"
    ]  # fmt: skip
    assert group(weights=AWQ)["weights"]["symmetric"] is False


def test_static_activations_are_calibrated_and_dynamic_ones_not() -> None:
    assert group(weights=FP8, activations=FP8)["input_activations"]["dynamic"] is True
    static = group(weights=FP8, activations={**FP8, "per": "tensor"})["input_activations"]
    assert (static["dynamic"], static["strategy"]) == (False, "tensor")


def test_the_caches_scales_go_with_any_method_per_tensor_or_per_head() -> None:
    for weights in ({}, {"weights": AWQ}, {"weights": {**INT4, "method": "gptq"}}):
        planned = plan(recipe(**weights, kv_cache={**FP8, "per": "head"}))
        assert planned.modifiers[-1].arguments["kv_cache_scheme"]["strategy"] == "attn_head"
        assert planned.calibrated
        assert any("--kv-cache-dtype fp8_e4m3" in note for note in planned.notes)
    assert last(kv_cache={**FP8, "per": "tensor"})["kv_cache_scheme"]["strategy"] == "tensor"
    assert "kv_cache_scheme" not in last(weights=INT4, kv_cache={"format": "int4", "per": "token-head"})


@pytest.mark.parametrize(
    ("axes", "key", "fix"),
    [
        ({}, "weights.format", "set a format"),
        ({"kv_cache": {**FP8, "per": "one"}}, "kv_cache", "--kv-cache-dtype fp8_e4m3"),
        ({"kv_cache": {"format": "int4", "per": "token-head"}}, "kv_cache", "--kv-cache-dtype int4_per_token_head"),
        ({"weights": INT4, "kv_cache": {"format": "int4", "per": "head"}}, "kv_cache", "fp8-e4m3"),
        ({"weights": {**INT4, "method": "omniquant"}}, "weights.method", "awq"),
        ({"weights": {**FP8, "method": "online"}}, "weights.method", "--quantization"),
        ({"weights": {**INT8, "method": "smoothquant"}}, "weights.method", "[activations]"),
        ({"activations": INT8}, "activations.format", "weights.format"),
        ({"weights": {"format": "fp6-e3m2"}}, "weights.format", "fp8-e4m3"),
        ({"weights": {"format": "fp8-e5m2"}}, "weights.format", "fp8-e4m3"),
        ({"weights": INT8, "activations": FP8}, "weights.format", "int8+int8"),
        ({"weights": {**FP8, "per": "group"}}, "weights", "channel"),
        ({"weights": {"format": "q4_k_m"}, "activations": INT8}, "activations.format", "bf16"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_fix(axes: dict[str, Any], key: str, fix: str) -> None:
    with pytest.raises(PlanError) as raised:
        plan(recipe(**axes))
    assert raised.value.problems[0].startswith(key)
    assert any(fix in one for one in raised.value.problems)


def test_what_is_left_out_of_the_papers_is_said() -> None:
    quarot, spinquant = (plan(recipe(weights={**INT4, "method": name})).notes for name in ("quarot", "spinquant"))
    assert "online rotations" in quarot[0]
    assert "without its learning" in spinquant[0]


def test_autoawq_makes_awq_alone() -> None:
    planned = plan(recipe(weights=AWQ), "autoawq")
    assert (planned.tool, planned.calibrated) == ("autoawq", True)
    assert planned.modifiers[0].arguments["q_group_size"] == 128
    for axes in ({"weights": INT4}, {"weights": AWQ, "kv_cache": {**FP8, "per": "head"}}):
        with pytest.raises(PlanError, match="leave out --engine"):
            plan(recipe(**axes), "autoawq")


def test_the_digest_is_of_what_is_done() -> None:
    one = plan(recipe(weights=INT4))
    assert one.digest == plan(recipe(weights=INT4, workload="agent")).digest
    assert one.digest != plan(recipe(weights={**INT4, "group_size": 64})).digest
