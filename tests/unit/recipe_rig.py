"""Recipes for tests: a sound one, with what a test changes."""

from __future__ import annotations

from typing import Any

from backends.recipes.check import check
from backends.recipes.finding import Finding
from backends.recipes.reading import parse_recipe
from backends.recipes.recipe import Recipe
from backends.recipes.roofline import roofline

AWQ = {"format": "int4", "method": "awq"}
FP8 = {"format": "fp8-e4m3"}


def recipe(size: str = "70B", **changed: Any) -> Recipe:
    """A chat on one H200 at BF16, but for what is changed."""
    document = {
        "name": "x", "workload": "chat", "hardware": "h200", "context_tokens": 4096, "concurrency": 8,
        "model": {"size": size},
    }  # fmt: skip
    return parse_recipe({**document, **changed})


def found(chosen: Recipe, *, allow_emulated: bool = False, with_roof: bool = False) -> list[Finding]:
    """What the check says, without capacity unless it is asked for."""
    roof = roofline(chosen, chosen.shape()) if with_roof else None
    return check(chosen, roof, allow_emulated=allow_emulated)


def rules(findings: list[Finding], level: str) -> set[str]:
    """The rules that spoke at a level."""
    return {one.rule for one in findings if one.level == level}
