"""A checkpoint's card: what it was made from, how, with what, and what came out. For machines and for people.

Nothing in it tells of the machine: no path, no host, no user. Equal inputs give an equal card but for times.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.checkpoints.parent import Parent
from backends.checkpoints.planned import Plan
from backends.recipes.recipe import Recipe
from backends.recipes.written import as_toml

CARD = "parity-card.json"
PAGE = "README.md"
CALIBRATION = "parity-calibration.jsonl"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Made:
    """What is known once a checkpoint is there. Units: bytes, seconds."""

    parent_digest: str
    weight_bytes: int
    checkpoint_digest: str
    versions: Mapping[str, str]
    seconds: float
    seed: int
    source: str = ""  # file, ledger or none
    calibration: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)


def portable(recipe: Recipe) -> Recipe:
    """The recipe with names for places: its own folder says nothing on another machine."""
    model = (
        recipe.model.model_copy(update={"path": Path(recipe.model.path.name)}) if recipe.model.path else recipe.model
    )
    parent = None if recipe.parent is None else Path(recipe.parent.name)
    return recipe.model_copy(update={"model": model, "parent": parent})


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of the text that the card holds, in hex."""
    return hashlib.sha256(as_toml(portable(recipe)).encode()).hexdigest()


def card(recipe: Recipe, parent: Parent, plan: Plan, made: Made, version: str) -> dict[str, Any]:
    """The card, JSON-ready. Bits per weight are the weight files' bits over the parent's parameters."""
    return {
        "format": FORMAT,
        "parity": version,
        "recipe": {"name": recipe.name, "sha256": recipe_digest(recipe), "toml": as_toml(portable(recipe))},
        "parent": {
            "name": parent.name,
            "sha256": made.parent_digest,
            "parameters": parent.parameters,
        },
        "checkpoint": {"sha256": made.checkpoint_digest, **made.found},
        "method": plan.as_dict(),
        "tools": dict(made.versions),
        "calibration": {"source": made.source or "none", **made.calibration},
        "size": {
            "weight_bytes_before": parent.weight_bytes,
            "weight_bytes_after": made.weight_bytes,
            "ratio": round(parent.weight_bytes / made.weight_bytes, 4),
            "bits_per_weight_before": round(8 * parent.weight_bytes / parent.parameters, 4),
            "bits_per_weight_after": round(8 * made.weight_bytes / parent.parameters, 4),
        },
        "seconds": made.seconds,
        "seed": made.seed,
    }


def page(told: Mapping[str, Any]) -> str:
    """The card as people read it."""
    size, calibration, method = told["size"], told["calibration"], told["method"]
    lines = [
        f"# {told['parent']['name']}, {told['recipe']['name']}",
        "",
        f"Made by `parity quantize` {told['parity']} in {told['seconds']:,.0f} s, seed {told['seed']}. "
        f"`{CARD}` holds the same for machines.",
        "",
        "| | |",
        "|---|---|",
        f"| parent | {told['parent']['name']}, {told['parent']['parameters']:,} parameters, "
        f"`sha256:{told['parent']['sha256']}` |",
        f"| this checkpoint | `sha256:{told['checkpoint']['sha256']}` |",
        f"| weight files | {size['weight_bytes_before']:,} to {size['weight_bytes_after']:,} bytes "
        f"(x{size['ratio']:.2f}); {size['bits_per_weight_before']:.2f} to {size['bits_per_weight_after']:.2f} bits a "
        "weight |",
        f"| tools | {', '.join(f'{name} {version}' for name, version in told['tools'].items())} |",
        f"| calibration | {_calibration(calibration)} |",
        "",
        "## Recipe",
        "",
        f"`sha256:{told['recipe']['sha256']}`",
        "",
        "```toml",
        told["recipe"]["toml"].rstrip("\n"),
        "```",
        "",
        "## Method",
        "",
        *(f"{number}. `{one['name']}`" for number, one in enumerate(method["modifiers"], 1)),
        "",
        "```json",
        json.dumps(method["modifiers"], indent=1),
        "```",
        "",
        *(f"- {note}" for note in method["notes"]),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _calibration(told: Mapping[str, Any]) -> str:
    if told["source"] == "none":
        return "none: this method needs no prompts"
    strata = ", ".join(f"{name} {count}" for name, count in told["strata"].items())
    return (
        f"{told['samples']} prompts from a {told['source']}, {told['tokens']:,} tokens ({strata}), "
        f"`sha256:{told['sha256']}`"
    )
