"""The card: equal inputs give an equal card, places are names, sizes are what they say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from backends.checkpoints.card import Made, card, page, portable, recipe_digest
from backends.checkpoints.parent import Parent
from backends.checkpoints.planned import plan
from backends.recipes.reading import parse_recipe
from backends.recipes.recipe import Recipe

CALIBRATION = {"sha256": "c" * 64, "samples": 2, "tokens": 30, "strata": {"0-512/plain": 1, "1k-4k/tools": 1}}


def recipe(path: str = "/home/somebody/models/tiny", parent: str | None = "../others/bf16.toml") -> Recipe:
    return parse_recipe(
        {
            "name": "gptq", "workload": "chat", "hardware": "h200", "context_tokens": 4096, "concurrency": 8,
            "model": {"path": path}, "weights": {"format": "int4", "method": "gptq"},
            **({"parent": parent} if parent else {}),
        }
    )  # fmt: skip


def told(chosen: Recipe, source: str = "ledger") -> dict[str, object]:
    parent = Parent(Path("/home/somebody/models/tiny"), parameters=1_000, weight_bytes=2_000, config={})
    made = Made("p" * 64, 625, "m" * 64, {"llmcompressor": "0.14"}, 12.5, 7, source, CALIBRATION if source else {}, {})
    return card(chosen, parent, plan(chosen), made, "0.1")


def test_places_are_names_and_the_hash_is_of_the_text_that_is_there() -> None:
    found = told(recipe())
    assert "somebody" not in json.dumps(found)
    text = found["recipe"]["toml"]  # type: ignore[index]
    assert 'path = "tiny"' in text
    assert 'parent = "bf16.toml"' in text
    assert found["recipe"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()  # type: ignore[index]


def test_the_same_recipe_elsewhere_has_the_same_digest_and_another_one_not() -> None:
    assert recipe_digest(recipe()) == recipe_digest(recipe("D:/other/place/tiny"))
    assert recipe_digest(recipe()) != recipe_digest(recipe("/home/somebody/models/other"))
    assert portable(portable(recipe())) == portable(recipe())
    assert told(recipe()) == told(recipe("/mnt/tiny"))


def test_sizes() -> None:
    size = told(recipe())["size"]
    assert size == {
        "weight_bytes_before": 2_000, "weight_bytes_after": 625, "ratio": 3.2, "bits_per_weight_before": 16.0,
        "bits_per_weight_after": 5.0,
    }  # fmt: skip


def test_the_page_says_it_for_people() -> None:
    text = page(told(recipe()))
    assert text.startswith("# tiny, gptq\n")
    assert "2 prompts from a ledger, 30 tokens (0-512/plain 1, 1k-4k/tools 1)" in text
    assert "16.00 to 5.00 bits a weight" in text
    assert "1. `GPTQModifier`" in text
    assert "none: this method needs no prompts" in page(told(recipe(), ""))
