"""The card that `parity quantize` leaves in a checkpoint's folder, against the recipe that it is to be served under.

The card holds the recipe's own text and its SHA-256. A checkpoint made from another recipe is named by what differs.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from backends.recipes.differ import difference
from backends.recipes.finding import Finding
from backends.recipes.reading import RecipeFileError, parse_recipe
from backends.recipes.recipe import KvCache, Recipe
from backends.recipes.stored import StoredError, read_json

CARD = "parity-card.json"
_AGAIN = "make the checkpoint again with this recipe (parity quantize), or launch the recipe that it was made from"


def carded(recipe: Recipe, folder: Path) -> list[Finding]:
    """What the card says against this recipe; nothing where there is no card.

    Context, concurrency, hardware and the like may differ: they make no other weights.
    """
    path = folder / CARD
    if not path.exists():
        return []
    try:
        made_from = _recipe(path, read_json(path))
    except (StoredError, _NoCard) as error:
        return [Finding("error", "card", str(error), "make the checkpoint again, or remove its card", "card")]
    told = difference(_portable(made_from), _portable(recipe))
    found = []
    for change in told.axes:
        if change.axis == "kv_cache" and not (_in_checkpoint(made_from.kv_cache) or _in_checkpoint(recipe.kv_cache)):
            continue  # the engine makes such a cache at run time, out of any checkpoint
        what = f"made from {change.before}, and this recipe says {change.after}"
        found.append(Finding("error", change.axis, f"{path.name}: {made_from.name} was {what}", _AGAIN, "card"))
    if told.model:
        names = [one.model.name or one.model.size or str(one.model.path) for one in (made_from, recipe)]
        what = f"it was made from {names[0]}, and this recipe's model is {names[1]}"
        found.append(Finding("error", "model", f"{path.name}: {what}", _AGAIN, "card"))
    return found


class _NoCard(ValueError):
    """It is no card that can be read; str() is one line."""


def _recipe(path: Path, card: dict[str, Any]) -> Recipe:
    said = card.get("recipe")
    text = said.get("toml") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(text, str):
        raise _NoCard(f"{path}: it holds no recipe")
    if hashlib.sha256(text.encode()).hexdigest() != said.get("sha256"):
        raise _NoCard(f"{path}: its recipe is not the one whose SHA-256 it holds: somebody has edited it")
    try:
        return parse_recipe(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecipeFileError) as error:
        raise _NoCard(f"{path}: its recipe cannot be read: {str(error).splitlines()[0]}") from None


def _portable(recipe: Recipe) -> Recipe:
    """With the folder's name for its place: the card knows no more."""
    path = recipe.model.path
    model = recipe.model if path is None else recipe.model.model_copy(update={"path": Path(path.name)})
    return recipe.model_copy(update={"model": model})


def _in_checkpoint(cache: KvCache) -> bool:
    """Whether its scales are calibrated, and so part of the checkpoint."""
    return cache.format == "fp8-e4m3" and cache.granularity in ("tensor", "head")
