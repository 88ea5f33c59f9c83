"""A checkpoint against its recipe: every way in which it can be another one, each with the key that it is about."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.emulator.server import MODEL
from backends.recipes.carded import CARD, carded
from backends.recipes.finding import Finding
from backends.recipes.matching import match, match_reference
from backends.recipes.recipe import Recipe
from backends.recipes.shapes import shape_of
from backends.recipes.stored import stored
from backends.recipes.written import as_toml
from tests.unit.checkpoint_rig import (
    FP8_CHANNEL,
    FP8_TOKEN,
    INT8_CHANNEL,
    INT8_TOKEN,
    KV_TENSOR,
    MXFP4,
    NVFP4,
    W4A16,
    compressed,
    folder,
)
from tests.unit.recipe_rig import recipe

INT4 = {"format": "int4", "method": "gptq"}
LOW8 = {"format": "int8"}
INT8_TENSOR = {**INT8_TOKEN, "strategy": "tensor"}
WITH_KV = compressed(W4A16, kv_cache_scheme=KV_TENSOR)
DOWN = "model.layers.0.mlp.down_proj"
FP8 = {"format": "fp8-e4m3"}
INT8 = {"format": "int8", "method": "smoothquant"}
KV = {"format": "fp8-e4m3", "per": "tensor"}
AWQ_FORM = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
Y = "    {}:\n"


def tiny(**axes: Any) -> Recipe:
    """A recipe of the shipped model."""
    return recipe(hardware="cpu", context_tokens=4096, model={"path": str(MODEL)}, **axes)


def found(chosen: Recipe, at: Path) -> list[Finding]:
    return match(chosen, stored(at), chosen.shape())


def errors(chosen: Recipe, at: Path) -> list[str]:
    return [one.key for one in found(chosen, at) if one.level == "error"]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({}, None),
        ({"weights": INT4}, compressed(W4A16)),
        ({"weights": {**INT4, "group_size": 64}}, compressed({**W4A16, "group_size": 64})),
        ({"weights": {"format": "int4", "method": "awq"}}, AWQ_FORM),
        ({"weights": {"format": "int4", "method": "awq"}}, compressed({**W4A16, "symmetric": False})),
        ({"weights": INT8, "activations": LOW8}, compressed(INT8_CHANNEL, INT8_TOKEN)),
        ({"weights": FP8, "activations": FP8}, compressed(FP8_CHANNEL, FP8_TOKEN)),
        (
            {"weights": {**FP8, "per": "tensor"}, "activations": FP8},
            {"quant_method": "fp8", "activation_scheme": "dynamic"},
        ),
        (
            {"weights": {**FP8, "per": "tensor"}, "activations": {**FP8, "per": "tensor"}, "kv_cache": KV},
            {
                "quant_method": "modelopt",
                "quant_algo": "FP8",
                "kv_cache_quant_algo": "FP8",
                "exclude_modules": ["lm_head"],
            },
        ),
        (
            {"weights": {"format": "nvfp4"}, "activations": {"format": "nvfp4"}},
            compressed(NVFP4, {**NVFP4, "dynamic": "local"}),
        ),
        ({"weights": {"format": "mxfp4"}}, compressed(MXFP4)),
        ({"weights": INT4, "kv_cache": KV}, compressed(W4A16, kv_cache_scheme=KV_TENSOR)),
        (
            {"weights": INT4, "kv_cache": {**KV, "per": "head"}},
            compressed(W4A16, kv_cache_scheme={**KV_TENSOR, "strategy": "attn_head"}),
        ),
        ({"kv_cache": {**KV, "per": "one"}}, None),
        ({"kv_cache": {**KV, "per": "token-head"}}, None),
        ({"kv_cache": KV}, compressed(None, config_groups={}, kv_cache_scheme=KV_TENSOR)),
        ({"weights": {**FP8, "method": "online"}, "activations": FP8}, None),
    ],
)
def test_what_matches_says_nothing(tmp_path: Path, axes: Any, said: Any) -> None:
    assert found(tiny(**axes), folder(tmp_path, said)) == []


@pytest.mark.parametrize(
    ("axes", "said", "key", "says"),
    [
        ({"weights": INT4}, None, "weights.format", "are not quantized"),
        ({}, compressed(W4A16), "weights.format", "leaves the weights at 16 bits"),
        (
            {"weights": INT4},
            compressed(INT8_CHANNEL),
            "weights.format",
            "says int4; the checkpoint has int8 per channel",
        ),
        (
            {"weights": INT4},
            compressed({**W4A16, "group_size": 32}),
            "weights.group_size",
            "groups of 128; the checkpoint's have 32",
        ),
        (
            {"weights": {**INT4, "per": "channel"}},
            compressed(W4A16),
            "weights.per",
            "int4 per channel; the checkpoint has int4 per group",
        ),
        (
            {"weights": FP8, "activations": FP8},
            {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
            "weights.per",
            "per block",
        ),
        ({"weights": {"format": "mxfp4"}}, compressed(NVFP4), "weights.format", "says mxfp4; the checkpoint has nvfp4"),
        ({"weights": INT8, "activations": LOW8}, compressed(INT8_CHANNEL), "activations.format", "at 16 bits"),
        (
            {"weights": INT8},
            compressed(INT8_CHANNEL, INT8_TOKEN),
            "activations.format",
            "rounds them to int8 per token",
        ),
        (
            {"weights": INT8, "activations": LOW8},
            compressed(INT8_CHANNEL, INT8_TENSOR),
            "activations.per",
            "int8 per token; the checkpoint has int8 per tensor",
        ),
        (
            {"weights": INT8, "activations": {"format": "int8", "per": "tensor"}},
            compressed(INT8_CHANNEL, INT8_TENSOR),
            "activations.per",
            "found at run time",
        ),
        (
            {"weights": INT8, "activations": LOW8},
            compressed(INT8_CHANNEL, {**INT8_TOKEN, "dynamic": False}),
            "activations.per",
            "are calibrated",
        ),
        ({"weights": INT4, "kv_cache": KV}, compressed(W4A16), "kv_cache.per", "vLLM would take scale 1.0"),
        ({"weights": INT4, "kv_cache": {**KV, "per": "head"}}, WITH_KV, "kv_cache.per", "are per tensor"),
        ({"weights": INT4, "kv_cache": {**KV, "per": "one"}}, WITH_KV, "kv_cache.per", "would be used"),
        (
            {"weights": INT4, "kv_cache": KV},
            compressed(W4A16, kv_cache_scheme={**KV_TENSOR, "dynamic": True}),
            "kv_cache.format",
            "made for a cache",
        ),
        (
            {"weights": INT4, "kv_cache": {"format": "int8", "per": "token-head"}},
            WITH_KV,
            "kv_cache.format",
            "made for a cache of fp8-e4m3 per tensor",
        ),
        (
            {"weights": {**INT4, "ignored_layers": ["lm_head", "re:.*down_proj"]}},
            compressed(W4A16),
            "weights.ignored_layers",
            'keeps "re:.*down_proj"',
        ),
        (
            {"weights": INT4},
            compressed(W4A16, ignore=["lm_head", DOWN]),
            "weights.ignored_layers",
            "layers.0.mlp.down_proj",
        ),
        (
            {"weights": {**FP8, "method": "online"}, "activations": FP8},
            compressed(FP8_CHANNEL, FP8_TOKEN),
            "weights.format",
            "rounds the model at load",
        ),
        (
            {"weights": {**INT4, "method": "rtn"}},
            AWQ_FORM,
            "weights.method",
            "says rtn; the checkpoint's own files say awq",
        ),
    ],
)
def test_what_does_not_match_is_an_error_with_its_key(
    tmp_path: Path, axes: Any, said: Any, key: str, says: str
) -> None:
    told = [one for one in found(tiny(**axes), folder(tmp_path, said)) if one.level == "error"]
    assert [one.key for one in told] == [key]
    assert says in told[0].found
    assert told[0].fix


def test_an_untied_head_that_is_rounded(tmp_path: Path) -> None:
    untied = folder(tmp_path / "a", compressed(W4A16, ignore=[]), tie_word_embeddings=False)
    shape = shape_of(untied)
    told = match(tiny(weights=INT4), stored(untied), shape)
    assert ("weights.ignored_layers", 'the recipe keeps "lm_head" at 16 bits; the checkpoint does not') in [
        (one.key, one.found) for one in told
    ]
    kept = folder(tmp_path / "b", compressed(W4A16), tie_word_embeddings=False)
    told = match(tiny(weights={**INT4, "ignored_layers": []}), stored(kept), shape)
    assert any("what the recipe rounds: lm_head" in one.found for one in told)


def test_a_checkpoint_may_untie_what_its_parent_ties_and_not_the_other_way_round(tmp_path: Path) -> None:
    tied = folder(tmp_path / "tied", compressed(W4A16))
    untied = folder(tmp_path / "untied", compressed(W4A16), tie_word_embeddings=False)
    assert (shape_of(tied).tied, shape_of(untied).tied) == (True, False)
    assert "model" not in [one.key for one in match(tiny(weights=INT4), stored(untied), shape_of(tied))]
    assert "model" in [one.key for one in match(tiny(weights=INT4), stored(tied), shape_of(untied))]


def test_patterns_mean_the_names_that_they_match(tmp_path: Path) -> None:
    names = ["lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    at = folder(tmp_path, compressed(W4A16, ignore=names))
    for word in ("re:.*down_proj", "*.down_proj", "down_proj"):
        assert errors(tiny(weights={**INT4, "ignored_layers": ["lm_head", word]}), at) == []
    assert errors(tiny(weights={**INT4, "ignored_layers": ["lm_head", "re:("]}), at) != []


def test_the_method_that_made_it(tmp_path: Path) -> None:
    at = folder(tmp_path, compressed(W4A16), recipe_yaml=Y.format("QuantizationModifier"))
    assert errors(tiny(weights=INT4), at) == ["weights.method"]
    assert errors(tiny(weights={**INT4, "method": "rtn"}), at) == []
    spin = folder(tmp_path / "b", compressed(W4A16), recipe_yaml=Y.format("SpinQuantModifier"))
    assert errors(tiny(weights={**INT4, "method": "quarot"}), spin) == []


def test_another_model(tmp_path: Path) -> None:
    at = folder(tmp_path, compressed(W4A16), num_hidden_layers=8)
    (told,) = [one for one in found(tiny(weights=INT4), at) if one.level == "error"]
    assert (told.key, "layers 8 and 6" in told.found) == ("model", True)
    sized = recipe("8B", weights=INT4)
    assert any("0.0B parameters; 8B stands for 8.0B" in one.found for one in match(sized, stored(at), sized.shape()))
    moe = folder(tmp_path / "moe", compressed(W4A16), num_experts=8)
    assert any("cannot be told" in one.found for one in found(tiny(weights=INT4), moe))


def test_a_context_past_the_models(tmp_path: Path) -> None:
    chosen = tiny(weights=INT4).model_copy(update={"context_tokens": 8192})
    assert errors(chosen, folder(tmp_path, compressed(W4A16))) == ["context_tokens"]


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    at = folder(tmp_path, compressed(W4A16))
    (at / "model.safetensors").unlink()
    assert errors(tiny(weights=INT4), at) == ["weights"]
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (at / "model.safetensors.index.json").write_bytes(orjson.dumps(shards))
    (at / "model-1.safetensors").write_bytes(b"")
    (told,) = [one for one in found(tiny(weights=INT4), at) if one.level == "error"]
    assert "lacks 1 of 2 weight files: model-2.safetensors" in told.found
    (at / "model-2.safetensors").write_bytes(b"")
    assert errors(tiny(weights=INT4), at) == []
    for bad in ("{", "{}", '{"weight_map": {"a": "../x"}}'):
        (at / "model.safetensors.index.json").write_text(bad)
        assert errors(tiny(weights=INT4), at) == ["weights"]


def test_scales_that_the_recipe_does_not_want_are_a_warning(tmp_path: Path) -> None:
    at = folder(tmp_path, compressed(W4A16, kv_cache_scheme=KV_TENSOR))
    (told,) = found(tiny(weights=INT4), at)
    assert (told.level, told.key) == ("warning", "kv_cache.format")


def test_zero_points_are_a_note(tmp_path: Path) -> None:
    at = folder(tmp_path, compressed({**W4A16, "symmetric": False}))
    assert [(one.level, one.key) for one in found(tiny(weights=INT4), at)] == [("note", "weights.method")]


def test_the_reference(tmp_path: Path) -> None:
    candidate = stored(folder(tmp_path / "c", compressed(W4A16)))
    assert match_reference(tiny(), stored(MODEL), candidate) == []
    low = stored(folder(tmp_path / "low", compressed(W4A16)))
    assert [one.key for one in match_reference(tiny(), low, candidate)] == ["weights.format"]
    other = stored(folder(tmp_path / "other", hidden_size=512))
    (told,) = match_reference(tiny(), other, candidate)
    assert "the arms are not one model: hidden 256 and 512" in told.found


def test_another_template_or_other_defaults_are_told(tmp_path: Path) -> None:
    at = folder(tmp_path, compressed(W4A16))
    (at / "chat_template.jinja").write_text("{{ messages }}")
    (at / "generation_config.json").write_text('{"temperature": 0.6, "transformers_version": "9"}')
    told = match_reference(tiny(), stored(MODEL), stored(at))
    assert [(one.level, one.key) for one in told] == [("warning", "template"), ("warning", "generation_config")]
    assert "temperature" in told[1].found
    assert "transformers_version" not in told[1].found
    (at / "generation_config.json").write_text("[")
    assert [one.level for one in match_reference(tiny(), stored(MODEL), stored(at))] == ["error"]


def card(at: Path, chosen: Recipe, **changed: Any) -> Path:
    """As `parity quantize` writes it, as far as it is read here."""
    text = as_toml(chosen)
    said = {"name": chosen.name, "sha256": hashlib.sha256(text.encode()).hexdigest(), "toml": text} | changed
    (at / CARD).write_bytes(orjson.dumps({"format": 1, "recipe": said}))
    return at


def test_the_card_of_this_recipe_says_nothing(tmp_path: Path) -> None:
    made_from = tiny(weights=INT4)
    assert carded(made_from, tmp_path) == []
    assert carded(made_from, card(tmp_path, made_from)) == []
    served = made_from.model_copy(update={"context_tokens": 1024, "concurrency": 2, "hardware": "h100"})
    assert carded(served, tmp_path) == []
    moved = recipe(hardware="cpu", model={"path": f"/elsewhere/{MODEL.name}"}, weights=INT4)
    assert carded(moved, tmp_path) == []


def test_the_card_of_another_recipe_names_the_difference(tmp_path: Path) -> None:
    card(tmp_path, tiny(weights=INT4, name="gptq-g128"))
    (told,) = carded(tiny(weights={**INT4, "method": "rtn"}), tmp_path)
    assert (told.level, told.key) == ("error", "weights")
    assert "gptq-g128 was made from int4:group128 by gptq, and this recipe says int4:group128 by rtn" in told.found
    keys = [one.key for one in carded(recipe("8B", weights=INT4, kv_cache=KV), tmp_path)]
    assert keys == ["kv_cache", "model"]
    at_run_time = tiny(weights=INT4, kv_cache={**KV, "per": "one"})
    assert carded(at_run_time, tmp_path) == [], "scale 1.0 is the engine's: the same checkpoint serves it"


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b'{"recipe": 1}', b'{"recipe": {"toml": "x = 1", "sha256": ""}}'])
def test_a_card_that_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / CARD).write_bytes(data)
    (told,) = carded(tiny(), tmp_path)
    assert (told.level, told.key) == ("error", "card")


def test_an_edited_card(tmp_path: Path) -> None:
    card(tmp_path, tiny(weights=INT4), toml=as_toml(tiny(weights={**INT4, "group_size": 64})))
    assert "somebody has edited it" in carded(tiny(weights=INT4), tmp_path)[0].found
    text = "[weights]\nformat = 3\n"
    card(tmp_path, tiny(), toml=text, sha256=hashlib.sha256(text.encode()).hexdigest())
    assert "its recipe cannot be read" in carded(tiny(), tmp_path)[0].found
