"""A recipe as the file that `load_recipe` reads back, with comments."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson

from backends.recipes.recipe import Recipe


def as_toml(recipe: Recipe, comments: Iterable[str] = ()) -> str:
    """The file's text: only what differs from the defaults, so that parent and child differ by what was changed."""
    said = recipe.model_dump(exclude_none=True, exclude_defaults=True)
    lines = [f"# {line}" for text in comments for line in text.splitlines()]
    lines += [f"{key} = {_value(value)}" for key, value in said.items() if not isinstance(value, dict)]
    for key, table in said.items():
        if isinstance(table, dict) and table:
            lines += ["", f"[{key}]", *(f"{name} = {_value(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """JSON's strings, numbers and lists are TOML's, but for the one control character that JSON leaves bare."""
    if isinstance(value, Path):
        value = str(value)
    return orjson.dumps(value).decode().replace("\x7f", "\\u007f")
