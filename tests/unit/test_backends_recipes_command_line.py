"""vLLM's command lines: the arms differ in what the recipe says, and in nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.recipes.command_line import (
    Arm,
    Command,
    Common,
    Flag,
    Side,
    attention_backend,
    command,
    online_flag,
    parser_for,
    servable,
)
from backends.recipes.finding import Finding
from backends.recipes.placement import Placed
from backends.recipes.reading import load_recipe
from backends.recipes.recipe import Recipe
from tests.unit.recipe_rig import AWQ, FP8, recipe, rules

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "docs" / "recipes").glob("*.toml"))
FP8_KV = {"format": "fp8-e4m3", "per": "head"}
INT8_KV = {"format": "int8", "per": "token-head"}
MORE = {
    "fp8 cache": recipe(kv_cache=FP8_KV),
    "fp8 cache, e5m2, skipped layers": recipe(kv_cache={"format": "fp8-e5m2", "skipped_layers": ["0", "79"]}),
    "int8 cache": recipe(weights=AWQ, kv_cache=INT8_KV),
    "its own backend": recipe(attention_backend="TRITON_ATTN", weights=FP8, activations=FP8),
    "fp16": recipe(weights=AWQ, activations={"format": "fp16"}),
    "online": recipe(weights={**FP8, "method": "online"}, activations=FP8),
    "a cpu": recipe(hardware="cpu", weights=AWQ),
}
# What belongs to an arm and not to the comparison: where it is, what the recipe changes, its share, the floor.
PLACE = {"--port", "--tensor-parallel-size", "--gpu-memory-utilization", "--kv-cache-memory-bytes"}
RECIPE = {"--kv-cache-dtype", "--kv-cache-dtype-skip-layers", "--quantization"}
FLOOR = {"--no-enable-prefix-caching"}


def arms(chosen: Recipe, **common: Any) -> dict[Side, Command]:
    share = Placed((0,), 0.4, None, 1) if chosen.card.rates else Placed(None, None, 2**30, 1)
    shared = Common(
        **{"recipe": chosen, "name": "m", "host": "127.0.0.1", "parser": "hermes", "top_logprobs": 20} | common
    )
    both: dict[Side, Recipe] = {"candidate": chosen, "reference": chosen.reference()}
    return {side: command(Arm(side, own, f"/{side}", 8000, share), shared) for side, own in both.items()}


def flags(one: Command) -> dict[str, tuple[str, ...]]:
    named = [flag.name for flag in one.flags]
    assert len(named) == len(set(named)), "a flag is given twice"
    return {flag.name: flag.values for flag in one.flags}


@pytest.mark.parametrize(
    "chosen", [*(load_recipe(path) for path in EXAMPLES), *MORE.values()], ids=[*(p.stem for p in EXAMPLES), *MORE]
)
def test_the_arms_differ_in_nothing_but_what_the_recipe_says(chosen: Recipe) -> None:
    both = arms(chosen)
    left, right = flags(both["candidate"]), flags(both["reference"])
    differ = {name for name in {*left, *right} if left.get(name) != right.get(name)}
    assert differ - PLACE - FLOOR <= RECIPE
    assert right["--kv-cache-dtype"] == right["--dtype"], "the reference's cache is at 16 bits"
    assert not {"--quantization", "--kv-cache-dtype-skip-layers"} & set(right)
    for name in ("--max-model-len", "--max-num-seqs", "--dtype", "--served-model-name", "--tool-call-parser"):
        assert left[name] == right[name]
    assert left.get("--attention-backend") == right.get("--attention-backend")


def test_a_weight_recipe_changes_no_flag_at_all() -> None:
    both = arms(load_recipe(next(path for path in EXAMPLES if path.stem == "awq")))
    left, right = flags(both["candidate"]), flags(both["reference"])
    assert {name for name in {*left, *right} if left.get(name) != right.get(name)} == FLOOR


@pytest.mark.parametrize(
    ("axes", "backend"),
    [
        ({}, None),
        ({"weights": AWQ}, None),
        ({"kv_cache": FP8_KV}, "FLASH_ATTN"),
        ({"kv_cache": {"format": "fp8-e5m2"}}, "FLASHINFER"),
        ({"kv_cache": INT8_KV}, "TRITON_ATTN"),
        ({"kv_cache": INT8_KV, "attention_backend": "TRITON_ATTN"}, "TRITON_ATTN"),
        ({"attention_backend": "FLASHINFER"}, "FLASHINFER"),
        ({"kv_cache": FP8_KV, "hardware": "cpu"}, None),  # no backend there has scales per head: the check refuses it
        ({"kv_cache": FP8, "hardware": "cpu"}, "CPU_ATTN"),
        ({"kv_cache": FP8, "hardware": "b200"}, "FLASHINFER"),
    ],
)
def test_a_low_cache_pins_the_backend_on_both_arms(axes: dict[str, Any], backend: str | None) -> None:
    chosen = recipe(**axes)
    assert attention_backend(chosen) == backend
    for one in arms(chosen).values():
        assert flags(one).get("--attention-backend") == ((backend,) if backend else None)


def test_the_cache_is_said_and_never_left_to_the_checkpoint() -> None:
    assert flags(arms(recipe())["candidate"])["--kv-cache-dtype"] == ("bfloat16",)
    fp16 = flags(arms(recipe(activations={"format": "fp16"}))["candidate"])
    assert (fp16["--dtype"], fp16["--kv-cache-dtype"]) == (("float16",), ("float16",))
    skipping = flags(arms(MORE["fp8 cache, e5m2, skipped layers"])["candidate"])
    assert skipping["--kv-cache-dtype"] == ("fp8_e5m2",)
    assert skipping["--kv-cache-dtype-skip-layers"] == ("0", "79")
    assert flags(arms(MORE["int8 cache"])["candidate"])["--kv-cache-dtype"] == ("int8_per_token_head",)


@pytest.mark.parametrize(
    ("weights", "activations", "named"),
    [
        (FP8, FP8, "fp8_per_channel"),
        ({**FP8, "per": "tensor"}, FP8, "fp8_per_tensor"),
        ({"format": "mxfp8"}, {"format": "mxfp8"}, "mxfp8"),
    ],
)
def test_online_rounding_by_vllms_own_words(weights: Any, activations: Any, named: str) -> None:
    chosen = recipe(weights={**weights, "method": "online"}, activations=activations)
    flag = online_flag(chosen)
    assert isinstance(flag, Flag)
    assert flag.values == (named,)
    assert flags(arms(chosen)["candidate"])["--quantization"] == (named,)
    assert rules(servable(chosen), "error") == set()


@pytest.mark.parametrize(
    ("weights", "activations", "says"),
    [
        ({"format": "int8"}, {}, "experts of a mixture alone"),  # vLLM would serve 16 bits, and nothing would tell
        ({"format": "nvfp4"}, {}, "experts of a mixture alone"),
        (FP8, {}, "rounds the activations too"),
        (FP8, {**FP8, "per": "tensor"}, "rounds nothing online"),
        ({**FP8, "per": "group"}, FP8, "rounds nothing online"),
    ],
)
def test_what_vllm_would_do_otherwise_online_is_refused(weights: Any, activations: Any, says: str) -> None:
    found = online_flag(recipe(weights={**weights, "method": "online"}, activations=activations))
    assert isinstance(found, Finding)
    assert says in found.found


def test_another_engine_is_refused() -> None:
    found = servable(recipe(engine="llama.cpp", weights={"format": "q4_k_m"}))
    assert any(one.key == "engine" and one.level == "error" for one in found)


def test_both_forms_of_the_program() -> None:
    one = arms(recipe())["candidate"]
    assert one.argv(("vllm", "serve"))[:4] == ["vllm", "serve", "/candidate", "--served-model-name"]
    assert one.argv(("python", "-m", "x"))[:5] == ["python", "-m", "x", "--model", "/candidate"]
    assert one.environment == {"CUDA_VISIBLE_DEVICES": "0"}


def test_without_a_known_parser_there_are_no_tools_and_it_is_said() -> None:
    parser, finding = parser_for("gemma2", "gemma-2-9b")
    assert parser is None
    assert finding is not None
    assert "gemma2" in finding.found
    bare = flags(arms(recipe(), parser=None)["candidate"])
    assert not {"--enable-auto-tool-choice", "--tool-call-parser"} & set(bare)
