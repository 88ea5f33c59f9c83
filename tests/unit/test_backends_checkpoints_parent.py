"""The model that is quantized: what it must have, its digest, what goes along byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from backends.checkpoints.memory import available, need
from backends.checkpoints.parent import ParentError, companions, digest_of, parent_at, tensors
from backends.recipes.shapes import shape_of_size

MODEL = Path(__file__).resolve().parents[2] / "backends" / "emulator" / "model"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def test_the_shipped_model() -> None:
    parent = parent_at(MODEL)
    assert (parent.name, parent.parameters) == ("model", 3_805_184)
    assert parent.weight_bytes == (MODEL / "model.safetensors").stat().st_size
    assert parent.bytes_at_16_bits == 2 * 3_805_184
    assert {one.name for one in companions(MODEL)} == {
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"
    }  # fmt: skip


def test_what_is_no_model_is_refused_with_what_it_lacks(model: Path) -> None:
    with pytest.raises(ParentError, match=r"no config\.json that can be read"):
        parent_at(model.parent)
    (model / "tokenizer.json").unlink()
    with pytest.raises(ParentError, match="holds no tokenizer"):
        parent_at(model)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ParentError, match="no safetensors"):
        parent_at(model)
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(ParentError, match="no safetensors"):
        parent_at(model)


def test_a_model_that_is_quantized_already_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ParentError, match=r"quantized already \(by awq\)"):
        parent_at(model)


def test_a_cut_off_weight_file_is_refused(model: Path) -> None:
    file = model / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1)
    with pytest.raises(ParentError, match="cut-off copy"):
        parent_at(model)
    file.write_bytes(b"\xff" * 64)
    with pytest.raises(ParentError, match="impossible size"):
        tensors(file)


def test_one_changed_byte_is_another_digest_and_a_card_is_none_of_it(model: Path) -> None:
    before, files = digest_of(model)
    assert set(files) >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
    (model / "parity-card.json").write_text("{}")
    assert digest_of(model)[0] == before
    raw = bytearray((model / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (model / "model.safetensors").write_bytes(raw)
    assert digest_of(model)[0] != before


def test_memory_is_the_model_and_the_activations(tmp_path: Path) -> None:
    shape = shape_of_size("8B")
    plain, calibrated = need(16 << 30, shape, 0, 2_048), need(16 << 30, shape, 256, 2_048)
    assert plain.activations == 0
    assert calibrated.activations == 256 * 2_048 * 4_096 * 2 * 2
    assert calibrated.total - plain.total == calibrated.activations
    assert "16.0 GiB for the model" in str(plain)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:   1024 kB\n")
    assert available(meminfo) == 1 << 20
    meminfo.write_text("MemTotal: 9 kB\n")
    assert available(meminfo) is None
    assert available(tmp_path / "none") is None
