"""A checkpoint's folder: what its files say of it, whoever made it.

Read: config.json with its `quantization_config` (storage.py), `hf_quant_config.json` (modelopt's own file) and
llm-compressor's `recipe.yaml` for the method. Each is read up to a bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from backends.recipes.shapes import Shape, ShapeError, shape_of
from backends.recipes.storage import Storage, StorageError, understood

MAX_CONFIG_BYTES = 8 << 20  # *choice*: the longest lists of ignored layers are some hundred KB
MAX_RECIPE_BYTES = 1 << 20  # *choice*


class StoredError(ValueError):
    """The folder does not say what it is. str() is one line: what was found, what would help."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint. `made_by`: the algorithm, where a file tells it. `context`: tokens, as the model was made for.

    shape None: config.json tells none that the roofline knows; `why_no_shape` says why.
    """

    folder: Path
    model_type: str
    storage: Storage
    shape: Shape | None
    why_no_shape: str
    context: int | None
    made_by: str | None


def stored(folder: Path) -> Stored:
    """What the folder holds.

    Raises:  StoredError.
    """
    config = read_json(folder / "config.json")
    said = config.get("quantization_config")
    own = folder / "hf_quant_config.json"
    if said is None and own.exists():
        said = {"quant_method": "modelopt", **read_json(own)}
    try:
        storage = understood(said)
    except StorageError as error:
        raise StoredError(f"{folder}/config.json: {error}") from None
    shape, why = None, ""
    try:
        shape = shape_of(folder)
    except ShapeError as error:
        why = str(error)
    text = config.get("text_config")
    return Stored(
        folder=folder,
        model_type=str(config.get("model_type", "")),
        storage=storage,
        shape=shape,
        why_no_shape=why,
        context=_context(text if isinstance(text, dict) else config),
        made_by=storage.made_by or _made_by(folder),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A table from a file, read up to a bound. Raises: StoredError."""
    try:
        if not path.is_file():
            what = "is no file" if path.exists() else "there is no such file"
            raise StoredError(f"{path}: {what}; give the folder of a checkpoint, with its config.json")
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise StoredError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise StoredError(f"{path}: is longer than {MAX_CONFIG_BYTES:,} bytes, which no model's is")
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise StoredError(f"{path}: is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise StoredError(f"{path}: holds {type(found).__name__}, not a table")
    return found


# These have their factor inside max_position_embeddings already. Source: vLLM 0.32.0, `config/model.py`.
_SCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default")


def _context(config: dict[str, Any]) -> int | None:
    """Tokens, as vLLM works them out; None where the file tells none."""
    longest = config.get("max_position_embeddings")
    if type(longest) is not int:
        return None
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type", "default")) not in _SCALED:
        factor = scaling.get("factor")
        return int(longest * factor) if isinstance(factor, (int, float)) and 1 <= factor < 10_000 else longest
    return longest


_MODIFIERS = {
    "AWQModifier": "awq", "SmoothQuantModifier": "smoothquant", "SpinQuantModifier": "spinquant",
    "QuIPModifier": "quip", "GPTQModifier": "gptq", "QuantizationModifier": "rtn",
}  # fmt: skip


def _made_by(folder: Path) -> str | None:
    """The method that llm-compressor's recipe.yaml names: what prepares the weights, before what rounds them."""
    path = folder / "recipe.yaml"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_RECIPE_BYTES).decode(errors="replace")
    except OSError:
        return None
    named = set(re.findall(r"^\s+(\w+Modifier):", text, re.MULTILINE))
    return next((method for modifier, method in _MODIFIERS.items() if modifier in named), None)
