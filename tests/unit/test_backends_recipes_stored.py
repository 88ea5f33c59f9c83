"""What a checkpoint says of itself, in every form that engines read; and files that say nothing that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.emulator.server import MODEL
from backends.recipes.storage import PLAIN, READ, Scheme, Storage, StorageError, understood
from backends.recipes.stored import MAX_CONFIG_BYTES, StoredError, stored
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

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
G128, G64 = "int4 per group of 128", "int4 per group of 64"
FP8_FOUND = "fp8-e4m3 per token, scales found at run time"
MODELOPT = {
    "quant_method": "modelopt",
    "quant_algo": "FP8",
    "kv_cache_quant_algo": "FP8",
    "exclude_modules": ["lm_head"],
}


@pytest.mark.parametrize(
    ("said", "weights", "activations", "cache"),
    [
        (None, "bf16", "bf16", None),
        (compressed(W4A16), G128, "bf16", None),
        (compressed({**W4A16, "strategy": None, "group_size": 64}), G64, "bf16", None),
        (compressed(INT8_CHANNEL, INT8_TOKEN), "int8 per channel", "int8 per token, scales found at run time", None),
        (compressed(FP8_CHANNEL, FP8_TOKEN), "fp8-e4m3 per channel", FP8_FOUND, None),
        (
            compressed({**FP8_CHANNEL, "strategy": "block", "block_structure": [128, 128]}),
            "fp8-e4m3 per block",
            "bf16",
            None,
        ),
        (compressed(NVFP4, {**NVFP4, "dynamic": "local"}), "nvfp4", "nvfp4, scales found at run time", None),
        (compressed(MXFP4), "mxfp4", "bf16", None),
        (compressed({**MXFP4, "num_bits": 8}), "mxfp8", "bf16", None),
        (compressed({**W4A16, "num_bits": 3}), "int3 per group of 128", "bf16", None),
        (compressed(W4A16, kv_cache_scheme=KV_TENSOR), G128, "bf16", "fp8-e4m3 per tensor"),
        (compressed(W4A16, kv_cache_scheme={**KV_TENSOR, "strategy": "attn_head"}), G128, "bf16", "fp8-e4m3 per head"),
        (compressed(None, config_groups={}, kv_cache_scheme=KV_TENSOR), "bf16", "bf16", "fp8-e4m3 per tensor"),
        (AWQ, G128, "bf16", None),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True}, G64, "bf16", None),
        (GPTQ, G64, "bf16", None),
        ({**GPTQ, "bits": 8, "group_size": -1}, "int8 per channel", "bf16", None),
        (FP8, "fp8-e4m3 per tensor", FP8_FOUND, None),
        ({**FP8, "activation_scheme": "static"}, "fp8-e4m3 per tensor", "fp8-e4m3 per tensor", None),
        ({**FP8, "weight_block_size": [128, 128]}, "fp8-e4m3 per block", FP8_FOUND, None),
        (MODELOPT, "fp8-e4m3 per tensor", "fp8-e4m3 per tensor", "fp8-e4m3 per tensor"),
        (
            {**MODELOPT, "quant_algo": "nvfp4", "kv_cache_quant_algo": None},
            "nvfp4",
            "nvfp4, scales found at run time",
            None,
        ),
        (
            {"quant_method": "modelopt", "quantization": {"quant_algo": "W4A16_AWQ", "group_size": 64}},
            G64,
            "bf16",
            None,
        ),
        ({"quant_method": "mxfp4"}, "mxfp4", "bf16", None),
    ],
)
def test_every_form(said: Any, weights: str, activations: str, cache: str | None) -> None:
    found = understood(said)
    assert (str(found.weights), str(found.activations)) == (weights, activations)
    assert (None if found.kv_cache is None else str(found.kv_cache)) == cache
    assert found.method in ("none", *READ)


WRITTEN = orjson.loads(Path(__file__).with_name("data").joinpath("quantization_configs.json").read_bytes())


@pytest.mark.parametrize(
    ("name", "weights", "activations", "cache"),
    [
        ("fp8d", "fp8-e4m3 per channel", FP8_FOUND, None),
        ("fp8s", "fp8-e4m3 per tensor", "fp8-e4m3 per tensor", None),
        ("w8a8", "int8 per channel", "int8 per token, scales found at run time", None),
        ("nvfp4", "nvfp4", "nvfp4, scales found at run time", None),
        ("nvfp4a16", "nvfp4", "bf16", None),
        ("mxfp4a16", "mxfp4", "bf16", None),
        ("mxfp8", "mxfp8", "mxfp8, scales found at run time", None),
        ("w4a16kv", G128, "bf16", "fp8-e4m3 per tensor"),
        ("kvonly", "bf16", "bf16", "fp8-e4m3 per tensor"),
        ("kvhead", "bf16", "bf16", "fp8-e4m3 per head"),
    ],
)
def test_what_llm_compressor_0_14_writes(name: str, weights: str, activations: str, cache: str | None) -> None:
    """Its own files, made of the shipped model: QuantizationModifier with the preset, or with a kv_cache_scheme."""
    found = understood(WRITTEN[name])
    assert (str(found.weights), str(found.activations), found.mixed) == (weights, activations, None)
    assert (None if found.kv_cache is None else str(found.kv_cache)) == cache


def test_layers_that_stay_and_layers_that_differ() -> None:
    assert (
        understood(compressed(W4A16, ignore=["lm_head", "model.layers.0.mlp.down_proj"]))
        .ignored[1]
        .endswith("down_proj")
    )
    assert understood({**AWQ, "modules_to_not_convert": ["model.layers.0"]}).ignored == ("model.layers.0",)
    assert understood({**FP8, "modules_to_not_convert": ["lm_head"]}).ignored == ("lm_head",)
    assert [understood(one).head_kept for one in (AWQ, GPTQ, FP8, compressed(W4A16))] == [True, True, True, False]
    assert not understood({**GPTQ, "lm_head": True}).head_kept
    group = {"targets": ["Linear"], "weights": W4A16}
    two = understood(compressed(None, config_groups={"a": group, "b": {**group, "weights": INT8_CHANNEL}}))
    assert "several schemes" in (two.mixed or "")
    same = understood(compressed(None, config_groups={"a": group, "b": group}))
    assert same.mixed is None
    part = understood(compressed(None, config_groups={"a": {**group, "targets": ["re:.*mlp.*"]}}))
    assert "named layers alone" in (part.mixed or "")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ([], "is list, not a table"),
        ("awq", "is str, not a table"),
        ({}, "quant_method is None"),
        ({"quant_method": "quark"}, "quant_method is 'quark'"),
        ({"quant_method": "compressed-tensors"}, "config_groups is missing"),
        (compressed(None, config_groups={"a": []}), "config_groups.a is no table"),
        (compressed(None, config_groups={"a": {"targets": "Linear"}}), "targets is no list"),
        (compressed({**W4A16, "num_bits": "4"}), "num_bits '4'"),
        (compressed({**W4A16, "type": "ternary"}), "type 'ternary'"),
        (compressed({**W4A16, "strategy": "spiral"}), "strategy 'spiral'"),
        (compressed({**W4A16, "group_size": "128"}), "group_size '128'"),
        (compressed({**W4A16, "dynamic": 7}), "dynamic 7"),
        (compressed([W4A16]), "is list, not a table"),
        (compressed(W4A16, ignore="lm_head"), "ignore is no list of names"),
        (compressed(W4A16, ignore=[1]), "ignore is no list of names"),
        (compressed(W4A16, kv_cache_scheme="fp8"), "kv_cache_scheme is str"),
        ({**AWQ, "bits": None}, "bits is None"),
        ({**GPTQ, "group_size": True}, "group_size is True"),
        ({**FP8, "activation_scheme": "both"}, "activation_scheme is 'both'"),
        ({**MODELOPT, "quant_algo": "FP2"}, "quant_algo 'FP2'"),
        ({**MODELOPT, "kv_cache_quant_algo": "INT3"}, "kv_cache_quant_algo 'INT3'"),
        ({"quant_method": "modelopt", "quantization": 3}, "is int, not a table"),
    ],
)
def test_what_cannot_be_understood_is_an_error_and_never_a_default(said: Any, says: str) -> None:
    with pytest.raises(StorageError) as error:
        understood(said)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_shipped_model() -> None:
    found = stored(MODEL)
    assert found.storage == Storage("none", PLAIN, PLAIN)
    assert found.shape is not None
    assert (found.shape.layers, found.model_type, found.context, found.made_by) == (6, "qwen3", 5120, None)


@pytest.mark.parametrize(
    ("modifiers", "method"),
    [
        (("QuantizationModifier",), "rtn"),
        (("GPTQModifier",), "gptq"),
        (("AWQModifier", "QuantizationModifier"), "awq"),
        (("SmoothQuantModifier", "GPTQModifier"), "smoothquant"),
        (("SpinQuantModifier", "GPTQModifier"), "spinquant"),
        ((), None),
    ],
)
def test_the_method_as_llm_compressor_writes_it(tmp_path: Path, modifiers: tuple[str, ...], method: str | None) -> None:
    text = "default_stage:\n  default_modifiers:\n" + "".join(
        f"    {name}:\n      targets: [Linear]\n" for name in modifiers
    )
    assert stored(folder(tmp_path, compressed(W4A16), recipe_yaml=text)).made_by == method
    assert stored(folder(tmp_path / "awq", AWQ)).made_by == "awq"


def test_modelopts_own_file_is_read_where_config_json_says_nothing(tmp_path: Path) -> None:
    at = folder(tmp_path)
    (at / "hf_quant_config.json").write_text('{"producer": {}, "quantization": {"quant_algo": "FP8"}}')
    assert stored(at).storage.weights == Scheme("fp8-e4m3", "tensor", symmetric=True)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "there is no such file"),
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"[]", "holds list, not a table"),
        (b"[" * 100_000, "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b" " * (MAX_CONFIG_BYTES + 1), "is longer than"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path: Path, data: bytes | None, says: str) -> None:
    if data is not None:
        (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(StoredError, match=says):
        stored(tmp_path)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(StoredError, match="is no file"):
        stored(tmp_path)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 16_384),
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": None,
                "rope_scaling": {"type": "dynamic", "factor": 2},
            },
            8192,
        ),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": "much"}}, 4096),
        ({"max_position_embeddings": "many"}, None),
    ],
)
def test_the_context_as_vllm_works_it_out(tmp_path: Path, config: dict[str, Any], tokens: int | None) -> None:
    assert stored(folder(tmp_path, **config)).context == tokens
