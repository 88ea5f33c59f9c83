"""What engines read in a checkpoint's folder beside its formats: weights that are there, length, template, defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.pinned.files import FilesError, template_of
from backends.recipes.finding import Finding
from backends.recipes.recipe import Recipe
from backends.recipes.stored import Stored, StoredError, read_json

RULE = "checkpoint"
_SAID_BY_TOOLS = ("transformers_version", "_from_model_config")


def length(recipe: Recipe, held: Stored) -> Iterator[Finding]:
    """A context that the model was not made for: vLLM refuses it at start."""
    if held.context is not None and recipe.context_tokens > held.context:
        yield Finding(
            "error", "context_tokens",
            f"{held.folder} goes up to {held.context:,} tokens (max_position_embeddings); the recipe asks for "
            f"{recipe.context_tokens:,}, and vLLM refuses to start so",
            f"context_tokens = {held.context} at most", RULE,
        )  # fmt: skip


def weights_there(folder: Path) -> Iterator[Finding]:
    """Weight files that are missing: a download that was cut off, a folder that was copied in part."""
    index = folder / "model.safetensors.index.json"
    again = "download or make it again"
    if not index.exists():
        if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
            fix = "give the folder with the *.safetensors files"
            yield Finding("error", "weights", f"{folder} holds no weights", fix, RULE)
        return
    try:
        mapped = read_json(index).get("weight_map")
    except StoredError as error:
        yield Finding("error", "weights", str(error), again, RULE)
        return
    shards = sorted({str(one) for one in mapped.values()}) if isinstance(mapped, dict) else []
    missing = [one for one in shards if "/" in one or not (folder / one).is_file()]
    if missing or not shards:
        told = f"{folder} lacks {len(missing)} of {len(shards)} weight files" if shards else f"{index} names no file"
        yield Finding("error", "weights", told + (f": {missing[0]}" if missing else ""), again, RULE)


def beside(reference: Path, candidate: Path) -> Iterator[Finding]:
    """What the arms read differently: another template or other sampling defaults look like a damaged model."""
    try:
        same = template_of(reference) == template_of(candidate)
        defaults = [_defaults(folder) for folder in (reference, candidate)]
    except (FilesError, StoredError) as error:
        yield Finding("error", "template", str(error), "make the file readable, or make the checkpoint again", RULE)
        return
    if not same:
        yield Finding(
            "warning", "template", "the arms' chat templates differ in their bytes",
            "copy the reference's beside the checkpoint: while prompts differ, nothing can pass", RULE,
        )  # fmt: skip
    if defaults[0] != defaults[1]:
        keys = sorted(key for key in {*defaults[0], *defaults[1]} if defaults[0].get(key) != defaults[1].get(key))
        yield Finding(
            "warning", "generation_config", f"the arms' sampling defaults differ: {', '.join(keys)}",
            "copy the reference's generation_config.json beside the checkpoint", RULE,
        )  # fmt: skip


def _defaults(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    read = read_json(path) if path.exists() else {}
    return {key: value for key, value in read.items() if key not in _SAID_BY_TOOLS}
