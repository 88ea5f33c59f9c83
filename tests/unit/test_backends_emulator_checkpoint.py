"""Model directories: what is read, and what is refused with what was found and what is supported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.emulator.checkpoint import ModelError, Tensors, read_shape
from backends.emulator.network import load
from backends.emulator.recipes import RECIPES
from backends.emulator.server import MODEL
from backends.emulator.vocabulary import Vocabulary
from tests.unit.emulator_rig import CONFIG, LLAMA, tensors, write_model, write_safetensors


def test_the_shipped_model_has_its_card_s_shape() -> None:
    shape = read_shape(MODEL)
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head) == (6, 256, 4, 2, 64)
    assert (shape.vocabulary, shape.context, shape.normalised, shape.tied) == (1024, 5120, True, True)
    assert shape.rope_frequencies[1] == pytest.approx(100_000 ** (-2 / 64))


def test_shards_are_one_model(tmp_path: Path) -> None:
    whole, cut = write_model(tmp_path / "whole"), write_model(tmp_path / "cut", shards=3)
    assert not (cut / "model.safetensors").exists()
    one, other = load(whole, RECIPES["bf16"]), load(cut, RECIPES["bf16"])
    np.testing.assert_array_equal(one.layers[1].gate_up, other.layers[1].gate_up)
    np.testing.assert_array_equal(one.embedding, other.embedding)


def test_llama_s_long_waves_are_stretched(tmp_path: Path) -> None:
    """Waves shorter than a quarter of the original context stay, those longer than it are slowed by the factor."""
    plain = read_shape(write_model(tmp_path / "plain", {**LLAMA, "rope_scaling": None})).rope_frequencies
    scaled = read_shape(write_model(tmp_path / "scaled", LLAMA)).rope_frequencies
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(plain[-1] / 8)
    assert all(low <= high for low, high in zip(scaled, plain, strict=True))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"architectures": ["MistralForCausalLM"]},
            "architecture 'MistralForCausalLM'; supported are Qwen3ForCausalLM and",
        ),
        ({"architectures": None}, "architecture None"),
        ({"attention_bias": True}, "attention_bias is True; only False"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "already quantized (awq)"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "'yarn'; supported are default, linear and llama3"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": "odd"}, "'odd'; an object is wanted"),
        ({"num_key_value_heads": 3}, "do not go with 3 key-value heads"),
        ({"hidden_size": "64"}, "hidden_size = '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    directory = write_model(tmp_path)
    (directory / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(ModelError) as caught:
        read_shape(directory)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    made = tensors(CONFIG)
    lost = "model.layers.1.mlp.up_proj.weight"
    directory = write_model(tmp_path)
    write_safetensors(directory / "model.safetensors", {name: one for name, one in made.items() if name != lost})
    with pytest.raises(ModelError, match=rf"no tensor {lost}.*\[96, 64\]"):
        load(directory, RECIPES["bf16"])
    write_safetensors(directory / "model.safetensors", {**made, lost: made[lost][:, :32]})
    with pytest.raises(ModelError, match=r"up_proj.weight has shape \[96, 32\]; the config asks for \[96, 64\]"):
        load(directory, RECIPES["bf16"])


@pytest.mark.parametrize("keep", [0, 4, 8, 200, -1])
def test_a_cut_file_is_refused_before_a_tensor_is_read(tmp_path: Path, keep: int) -> None:
    directory = write_model(tmp_path)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"truncated: \d+ bytes"):
        Tensors(directory)


def entry(shape: object, offsets: object) -> bytes:
    return json.dumps({"a": {"dtype": "BF16", "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "header",
    [
        b"{nope",
        b"[]",
        b'{"a": 1}',
        entry([2], [0, 2]),
        entry([-1], [0, -2]),
        entry([1], ["0", "2"]),
        entry([[1]], [0, 2]),
        entry([1], [0]),
        entry(1, [0, 2]),
    ],
)
def test_a_header_that_is_none(tmp_path: Path, header: bytes) -> None:
    directory = write_model(tmp_path)
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(ModelError):
        Tensors(directory)


def test_absent_files_are_named(tmp_path: Path) -> None:
    for call in (read_shape, Tensors, lambda path: Vocabulary(path, 1024)):
        with pytest.raises(ModelError, match=str(tmp_path)):
            call(tmp_path)
    directory = write_model(tmp_path, shards=2)
    next(directory.glob("model-00002*")).unlink()
    with pytest.raises(ModelError, match="model-00002"):
        Tensors(directory)


def test_a_dtype_that_is_none_of_ours(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"I16" ', 1))
    with pytest.raises(ModelError, match="I16; supported are BF16, F16, F32"):
        load(directory, RECIPES["bf16"])
