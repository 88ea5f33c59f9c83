"""Recipes as text: the named ones, axes apart, and what is refused with what there is."""

from __future__ import annotations

import pytest

from backends.emulator.recipes import RECIPES, KvCache, Recipe, RecipeError, Weights, parsed


def test_the_named_ones_cover_every_format_of_every_axis() -> None:
    stated = {
        "weights": {one.weights.format for one in RECIPES.values()},
        "activations": {(one.activations.format, one.activations.per) for one in RECIPES.values()},
        "kv": {(one.kv_cache.format, one.kv_cache.per) for one in RECIPES.values()},
    }
    assert stated["weights"] == {
        "bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "fp6-e3m2", "fp6-e2m3", "fp4-e2m1", "mxfp4", "nvfp4", "int8", "int4",
    }  # fmt: skip
    assert {("fp8-e4m3", "token"), ("fp8-e4m3", "tensor"), ("int8", "token"), ("fp4-e2m1", "tensor")} <= stated[
        "activations"
    ]
    assert {("int4", per) for per in ("tensor", "head", "token", "token-head", "block")} <= stated["kv"]


def test_axes_apart() -> None:
    recipe = parsed("weights=int4:group64, activations=int8, kv=int4:block")
    assert recipe.weights == Weights("int4", "group", 64)
    assert (recipe.activations.format, recipe.activations.per) == ("int8", "token")
    assert recipe.kv_cache == KvCache("int4", "block", 32)
    assert parsed("kv_cache=fp8-e4m3") == Recipe("kv_cache=fp8-e4m3", kv_cache=KvCache("fp8-e4m3", "tensor", 0))


def test_what_is_written_is_read_back() -> None:
    for recipe in RECIPES.values():
        axes = f"weights={recipe.weights},activations={recipe.activations},kv={recipe.kv_cache}"
        again = parsed(axes)
        assert (again.weights, again.activations, again.kv_cache) == (
            recipe.weights,
            recipe.activations,
            recipe.kv_cache,
        )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("int3", "there are bf16"),
        ("weights=int3", "there are bf16, fp16, fp8-e4m3"),
        ("activations=mxfp4", "there are bf16, fp8-e4m3, fp8-e5m2, int8, fp4-e2m1"),
        ("kv=fp4-e2m1", "there are bf16, fp8-e4m3, fp8-e5m2, int8, int4"),
        ("weights=bf16:channel", "bf16 has no scales"),
        ("weights=mxfp4:group64", "mxfp4 has its own blocks"),
        ("weights=int4:head", "there are tensor, channel, group"),
        ("activations=int8:channel", "there are tensor, token"),
        ("kv=int4:channel", "there are one, tensor, head, token, token-head, block"),
        ("kv=int4:one", "all but zero"),
        ("weights=int4:channel128", "only group and block have one"),
        ("weights=int4:group0", "from 1"),
        ("weights=int4:", "no granularity"),
        ("weights=int4,weights=int8", "said twice"),
        ("speed=fast", "is no axis"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(text: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parsed(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
