"""One knob at a time."""

from __future__ import annotations

import pytest

from backends.recipes.differ import difference
from tests.unit.recipe_rig import AWQ, FP8, recipe


@pytest.mark.parametrize(
    ("before", "after", "axes"),
    [
        ({}, {}, []),
        ({}, {"weights": AWQ}, ["weights"]),
        ({"weights": AWQ}, {"weights": AWQ, "kv_cache": FP8}, ["kv_cache"]),
        ({}, {"weights": FP8, "activations": FP8}, ["weights", "activations"]),
        ({}, {"weights": FP8, "activations": FP8, "kv_cache": FP8}, ["weights", "activations", "kv_cache"]),
        ({"weights": AWQ}, {"weights": AWQ | {"group_size": 32}}, ["weights"]),
        ({"weights": AWQ}, {"weights": AWQ | {"method": "gptq"}}, ["weights"]),
        ({"weights": AWQ}, {"weights": AWQ | {"ignored_layers": []}}, ["weights"]),
        ({"kv_cache": FP8}, {"kv_cache": FP8 | {"skipped_layers": ["0"]}}, ["kv_cache"]),
        # What is said and what the default says are one thing.
        ({"weights": AWQ}, {"weights": AWQ | {"group_size": 128, "per": "group"}}, []),
        ({"kv_cache": FP8}, {"kv_cache": FP8 | {"per": "tensor"}}, []),
        ({}, {"activations": {"format": "fp16"}}, []),
    ],
)
def test_the_axes_that_differ(before: dict[str, object], after: dict[str, object], axes: list[str]) -> None:
    found = difference(recipe(**before), recipe(**after))
    assert [change.axis for change in found.axes] == axes
    assert found.one_knob == (len(axes) <= 1)


def test_a_second_axis_says_what_it_would_need() -> None:
    said = "\n".join(difference(recipe(), recipe(weights=AWQ, kv_cache=FP8)).advice())
    assert "2 knobs at once: weights, kv_cache" in said
    assert "evidence for weights: a recipe that changes only bf16 -> int4:group128 by awq" in said
    assert "recall at the served context length" in said


def test_another_16_bit_format_is_told_and_is_no_axis() -> None:
    found = difference(recipe(), recipe(kv_cache={"format": "fp16"}))
    assert [change.axis for change in found.around] == ["kv_cache (16 bits)"]


def test_another_model_cannot_be_compared() -> None:
    found = difference(recipe(), recipe("72B"))
    assert found.model
    assert not found.one_knob
    assert "different models" in found.advice()[0]


def test_another_card_is_another_floor() -> None:
    found = difference(recipe(), recipe(hardware="h100", weights=AWQ))
    assert found.one_knob
    assert any("another noise floor" in line or "another kernel" in line for line in found.advice())
