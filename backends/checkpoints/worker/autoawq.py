"""The work of AutoAWQ, in an environment of its own: archived, and held at transformers 4.51.3.

Two things of a checkpoint that transformers 5 saved are unknown there, so the model is read from a copy that says them
the old way too; what is written keeps the parent's own tokenizer files (work.py).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

OLD_TOKENIZER = "PreTrainedTokenizerFast"  # what transformers 4 calls transformers 5's TokenizersBackend
SHARD_SIZE = "5GB"


def versions() -> dict[str, str]:
    """The versions of what makes the checkpoint."""
    from importlib.metadata import version

    return {name: version(name) for name in ("autoawq", "torch", "transformers")}


def tokenizer(model: Path) -> Any:
    """The model's own."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as name:
        return AutoTokenizer.from_pretrained(readable_by_4(model, Path(name)), local_files_only=True)


def make(
    job: Mapping[str, Any], samples: Sequence[Sequence[int]] | None, out: Path, tell: Callable[[int, int], None]
) -> None:
    """Writes the checkpoint of `job["model"]` to the folder `out`. AutoAWQ tells no progress to be passed on."""
    import torch
    from awq import AutoAWQForCausalLM

    torch.manual_seed(job["seed"])
    read = tokenizer(Path(job["model"]))
    # Texts, because ids are taken only where the tokenizer is not asked. What is longer than the bound would be passed
    # over in silence, and a text may be read back as more tokens than it was.
    texts = [read.decode(ids) for ids in samples or ()]
    longest = max(len(read(text)["input_ids"]) for text in texts)
    with tempfile.TemporaryDirectory(dir=out.parent) as name:
        folder = readable_by_4(Path(job["model"]), Path(name))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoAWQForCausalLM.from_pretrained(str(folder), device_map=device, safetensors=True)
        model.quantize(
            read, quant_config=dict(job["modifiers"][0]["arguments"]), calib_data=texts,
            max_calib_samples=len(texts), max_calib_seq_len=longest + 1,
        )  # fmt: skip
        model.save_quantized(str(out), safetensors=True, shard_size=SHARD_SIZE)
    tell(1, 1)


def readable_by_4(model: Path, folder: Path) -> Path:
    """The same model for transformers 4: links, but for the two files that say something it does not know.

    tokenizer_class "TokenizersBackend" becomes the class that reads any tokenizer.json; `rope_theta`, which 5 keeps
    under `rope_parameters`, is said at the top too, where 4 looks for it (and would take 10,000 without a word).
    """
    for file in model.iterdir():
        if file.is_file() and file.name not in ("config.json", "tokenizer_config.json"):
            os.symlink(file.resolve(), folder / file.name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
    config.setdefault("torch_dtype", config.get("dtype", "bfloat16"))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    told = model / "tokenizer_config.json"
    if told.exists():
        tokenizer = json.loads(told.read_text(encoding="utf-8"))
        if tokenizer.get("tokenizer_class") in (None, "TokenizersBackend"):
            tokenizer["tokenizer_class"] = OLD_TOKENIZER
        template = model / "chat_template.jinja"
        if template.exists():
            tokenizer.setdefault("chat_template", template.read_text(encoding="utf-8"))
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder
