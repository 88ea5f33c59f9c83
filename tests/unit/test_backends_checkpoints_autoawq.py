"""What transformers 5 saved, said the way that transformers 4.51 reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from backends.checkpoints.worker.autoawq import OLD_TOKENIZER, readable_by_4

MODEL = Path(__file__).resolve().parents[2] / "backends" / "emulator" / "model"


def test_the_tokenizers_class_and_the_rope_base(tmp_path: Path) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    del config["rope_theta"], config["torch_dtype"]
    (model / "config.json").write_text(json.dumps(config))
    told = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**told, "tokenizer_class": "TokenizersBackend"}))
    before = {one.name: one.read_bytes() for one in model.iterdir()}
    folder = tmp_path / "copy"
    folder.mkdir()
    assert readable_by_4(model, folder) == folder
    read = json.loads((folder / "config.json").read_text())
    assert (read["rope_theta"], read["torch_dtype"]) == (100_000.0, "bfloat16")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == OLD_TOKENIZER
    assert tokenizer["chat_template"] == (model / "chat_template.jinja").read_text()
    assert (folder / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert {one.name: one.read_bytes() for one in model.iterdir()} == before


def test_what_it_says_already_stays(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    readable_by_4(MODEL, folder)
    assert json.loads((folder / "config.json").read_text()) == json.loads((MODEL / "config.json").read_text())
