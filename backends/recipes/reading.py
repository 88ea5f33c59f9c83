"""Reads a recipe file: TOML, strict. Every problem at once, each with the key, what is wrong and the fix.

Errors:  RecipeFileError, a ValueError with one line per problem.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import orjson
from pydantic import BaseModel, ValidationError

from backends.recipes.recipe import Activations, KvCache, Model, Recipe, Weights, Workload
from backends.recipes.shapes import ShapeError


class RecipeFileError(ValueError):
    """The file does not say what must be known. `problems` has one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_recipe(path: Path) -> Recipe:
    """The recipe of one TOML file.

    Raises:  RecipeFileError with one line per problem: the key, what is wrong, the fix.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeFileError(
            [f"{path}: there is no such file; `parity recipe suggest ... --out {path}` writes one"]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeFileError([f"{path}: cannot be read: {error}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeFileError([f"{path}: not TOML: {error}"]) from None
    recipe = parse_recipe(document)
    if recipe.model.path is not None:
        try:
            recipe.shape(path.parent)
        except ShapeError as error:
            raise RecipeFileError([f"model.path: {error}"]) from None
    return recipe


def parent_of(recipe: Recipe, path: Path) -> Recipe:
    """The recipe that this one changes: its parent file, beside its own; without one, the same at BF16.

    Raises:  RecipeFileError.
    """
    if recipe.parent is None:
        return recipe.reference()
    place = path.parent / recipe.parent
    if place.resolve() == path.resolve():
        raise RecipeFileError([f"parent: {recipe.parent} is this very file; name the recipe that it changes"])
    try:
        return load_recipe(place)
    except RecipeFileError as error:
        raise RecipeFileError([f"parent: {problem}" for problem in error.problems]) from None


def parse_recipe(document: Mapping[str, Any]) -> Recipe:
    """The recipe that a parsed document stands for. Raises: RecipeFileError."""
    try:
        # Through JSON, because strict mode then takes lists for tuples and strings for paths and nothing else.
        return Recipe.model_validate_json(orjson.dumps(document, default=str))
    except ValidationError as error:
        raise RecipeFileError([_problem(detail) for detail in error.errors(include_url=False)]) from None


_WANTED = {
    "name": 'give it a name, e.g. name = "awq-int4"',
    "workload": f"one of {', '.join(get_args(Workload))}",
    "hardware": 'e.g. hardware = "h200"',
    "context_tokens": "the longest conversation served, e.g. context_tokens = 16384",
    "concurrency": "sequences served at once, e.g. concurrency = 32",
    "model": 'add [model] with size = "70B" or path = "..."',
}


def _problem(detail: Mapping[str, Any]) -> str:
    """One line of pydantic's report in our words: the key, what is wrong, the fix."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location) or "recipe"
    kind, message, found = str(detail["type"]), str(detail["msg"]), detail.get("input")
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_nearest(location)}; remove it or correct its name"
    if kind == "missing":
        return f"{key}: missing; {_WANTED.get(key, 'add it')}"
    if kind == "literal_error":
        allowed = [part.strip("'\" ") for part in str(detail["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        close = difflib.get_close_matches(str(found).lower(), allowed, n=1, cutoff=0.5)
        hint = f'did you mean "{close[0]}"? ' if close else ""
        return f'{key}: there is no "{found}"; {hint}there are {", ".join(allowed)}'
    if kind == "value_error":
        return f"{key}: {message.removeprefix('Value error, ')}"
    return f"{key}: {message[0].lower()}{message[1:]} (it says {found!r})"


def _nearest(location: list[str]) -> str:
    """A suggestion for a misspelt key, from the fields of the table it stands in, or from another table's."""
    tables: dict[str, type[BaseModel]] = {
        "": Recipe, "model": Model, "weights": Weights, "activations": Activations, "kv_cache": KvCache
    }  # fmt: skip
    own = tables.get(location[0] if len(location) > 1 else "", Recipe)
    close = difflib.get_close_matches(location[-1], list(own.model_fields), n=1)
    if close:
        return f' (did you mean "{close[0]}"?)'
    elsewhere = next((name for name, table in tables.items() if name and location[-1] in table.model_fields), None)
    return f" (it belongs in [{elsewhere}])" if elsewhere else ""
