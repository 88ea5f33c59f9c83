"""A checkpoint against its recipe: what would be served is what the recipe says, or it is said what is not.

An error: a score of this checkpoint says nothing about this recipe. A warning: it may, if served with care.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace

from backends.recipes import folders
from backends.recipes.finding import Finding
from backends.recipes.formats import SIXTEEN_BIT
from backends.recipes.recipe import Recipe
from backends.recipes.shapes import Shape
from backends.recipes.storage import PLAIN, Scheme
from backends.recipes.stored import Stored

_MAKE = "make it anew (parity quantize), or correct the recipe"
OTHER_SIZE = 0.2  # *choice*: models of one bare size differ by less (7B to 8B: 11 %), neighbouring sizes by more


def match(recipe: Recipe, held: Stored, shape: Shape) -> list[Finding]:
    """What of the checkpoint is not the recipe's, errors first. `shape` is the recipe's model."""
    if recipe.weights.made_by == "online":
        axes = _plain(held, 'the recipe rounds the model at load (method = "online")')
    else:
        axes = (one for part in (_weights, _activations, _ignored, _method) for one in part(recipe, held))
    return _sorted(
        [*axes, *_cache(recipe, held), *_shape(recipe, held, shape), *folders.length(recipe, held),
         *folders.weights_there(held.folder)]
    )  # fmt: skip


def match_reference(recipe: Recipe, held: Stored, candidate: Stored | None) -> list[Finding]:
    """What of a reference is not the candidate's model at 16 bits, errors first."""
    found = [
        *_plain(held, "the reference is the model at 16 bits"),
        *folders.length(recipe, held),
        *folders.weights_there(held.folder),
    ]
    if candidate is not None:
        if held.shape and candidate.shape and (told := _apart(candidate.shape, held.shape)):
            fix = "give the checkpoint's own parent as --reference"
            found.append(_error("model", f"the arms are not one model: {told} (candidate, reference)", fix))
        found += folders.beside(held.folder, candidate.folder)
    return _sorted(found)


def _sorted(found: Iterable[Finding]) -> list[Finding]:
    return sorted(found, key=lambda one: ("error", "warning", "note").index(one.level))


def _error(key: str, found: str, fix: str = _MAKE) -> Finding:
    return Finding("error", key, found, fix, folders.RULE)


def _plain(held: Stored, why: str) -> Iterator[Finding]:
    form = held.storage
    if form.method != "none":
        told = f"{held.folder} is quantized ({form.method}, {form.weights}), and {why}"
        yield _error("weights.format", told, "give the folder of the BF16 model")


def _weights(recipe: Recipe, held: Stored) -> Iterator[Finding]:
    weights, has = recipe.weights, held.storage.weights
    if held.storage.mixed:
        fix = "a recipe has one format for all layers that it does not ignore"
        yield _error("weights.format", f"the checkpoint has no one scheme: {held.storage.mixed}", fix)
    if weights.format in SIXTEEN_BIT:
        if has != PLAIN:
            yield _error("weights.format", f"the recipe leaves the weights at 16 bits; the checkpoint has {has}")
        return
    if has == PLAIN:
        yield _error("weights.format", f"the recipe says {weights}; the checkpoint's weights are not quantized")
        return
    yield from _told_apart("weights", Scheme(weights.format, weights.granularity, weights.group), has)
    zero_points = weights.made_by == "awq"  # as `parity quantize` makes it
    if has.format.startswith("int") and has.symmetric is not None and has.symmetric == zero_points:
        words = ("no zero points", "has") if zero_points else ("zero points", "has not")
        told = f"the checkpoint has {words[0]}, which {weights.made_by} usually {words[1]}"
        yield Finding("note", "weights.method", told, "nothing to do: its size differs a little", folders.RULE)


def _activations(recipe: Recipe, held: Stored) -> Iterator[Finding]:
    wanted, has = recipe.activations, held.storage.activations
    if wanted.format in SIXTEEN_BIT:
        if has != PLAIN:
            told = f"the recipe leaves the activations at 16 bits; the checkpoint rounds them to {has}"
            yield _error("activations.format", told)
        return
    if has == PLAIN:
        told = f"the recipe says {wanted}; the checkpoint leaves the activations at 16 bits"
        yield _error("activations.format", told)
        return
    yield from _told_apart("activations", Scheme(wanted.format, wanted.granularity), has)
    static = wanted.granularity == "tensor"
    if has.per is not None and has.dynamic is not None and has.dynamic == static:
        words = ("found at run time", "calibrated")
        told = (
            f"the checkpoint's activation scales are {words[not has.dynamic]}; per = "
            f'"{wanted.granularity}" means that they are {words[static]}'
        )
        yield _error("activations.per", told)


def _told_apart(axis: str, wanted: Scheme, has: Scheme) -> Iterator[Finding]:
    """The first thing that differs, because the rest follows from it."""
    if wanted.format != has.format:
        yield _error(f"{axis}.format", f"the recipe says {wanted.format}; the checkpoint has {has}")
    elif wanted.per != has.per:
        fix = "make it anew: a recipe has no word for blocks of two sides" if has.per == "block" else _MAKE
        yield _error(f"{axis}.per", f"the recipe says {wanted}; the checkpoint has {has}", fix)
    elif wanted.group != has.group:
        told = f"the recipe says groups of {wanted.group}; the checkpoint's have {has.group}"
        yield _error(f"{axis}.group_size", told)


def _cache(recipe: Recipe, held: Stored) -> Iterator[Finding]:
    cache, has = recipe.kv_cache, held.storage.kv_cache
    calibrated = cache.format == "fp8-e4m3" and cache.granularity in ("tensor", "head")
    if has is None:
        if calibrated:
            told = f"the recipe says {cache}; the checkpoint carries no KV scales, so vLLM would take scale 1.0"
            yield _error("kv_cache.per", told, 'kv_cache.per = "one" says that; or calibrate them (parity quantize)')
    elif cache.format in SIXTEEN_BIT:
        yield Finding(
            "warning", "kv_cache.format",
            f"the checkpoint carries KV scales ({has}), and vLLM by itself takes them: only --kv-cache-dtype keeps the "
            "16 bits that the recipe says",
            "serve it by this command and no other, or make it without a kv_cache_scheme", folders.RULE,
        )  # fmt: skip
    elif has.format != cache.format or has.dynamic:
        yield _error("kv_cache.format", f"the recipe says {cache}; the checkpoint is made for a cache of {has}")
    elif calibrated and has.per != cache.granularity:
        yield _error("kv_cache.per", f"the recipe says {cache}; the checkpoint's KV scales are per {has.per}")
    elif cache.granularity == "one":
        told = f"the recipe says scale 1.0; the checkpoint's own scales ({has}) would be used"
        yield _error("kv_cache.per", told, f'kv_cache.per = "{has.per}", or make it without a kv_cache_scheme')


def _ignored(recipe: Recipe, held: Stored) -> Iterator[Finding]:
    form = held.storage
    if recipe.weights.format in SIXTEEN_BIT or form.weights == PLAIN:
        return
    wanted = recipe.weights.ignored_layers
    tied = held.shape is not None and held.shape.tied  # then the head is the embedding, which no form rounds
    for name in wanted:
        if name == "lm_head" and (form.head_kept or tied):
            continue
        if not any(_means(name, one) or _means(one, name) for one in form.ignored):
            yield _error("weights.ignored_layers", f'the recipe keeps "{name}" at 16 bits; the checkpoint does not')
    more = [one for one in form.ignored if one != "lm_head" and not any(_means(name, one) for name in wanted)]
    if "lm_head" not in wanted and not tied and (form.head_kept or "lm_head" in form.ignored):
        more.append("lm_head")
    if more:
        shown = ", ".join(more[:4]) + (f" and {len(more) - 4} more" if len(more) > 4 else "")
        told = f"the checkpoint keeps at 16 bits what the recipe rounds: {shown}"
        yield _error("weights.ignored_layers", told)


def _means(pattern: str, name: str) -> bool:
    """Whether a name, the end of a module's path, a `re:` expression or a wildcard means this name."""
    if pattern == name or name.endswith(f".{pattern}"):
        return True
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    return any(letter in pattern for letter in "*?") and fnmatch.fnmatchcase(name, pattern)


def _method(recipe: Recipe, held: Stored) -> Iterator[Finding]:
    wanted, told = recipe.weights.made_by, held.made_by
    if told is None or recipe.weights.format in SIXTEEN_BIT or held.storage.weights == PLAIN:
        return
    if told != {"quarot": "spinquant"}.get(wanted, wanted):  # llm-compressor makes both by one modifier
        yield _error("weights.method", f"the recipe says {wanted}; the checkpoint's own files say {told}")


def _shape(recipe: Recipe, held: Stored, shape: Shape) -> Iterator[Finding]:
    if held.shape is None:
        fix = "a dense decoder; what else vLLM serves has no roofline here"
        yield _error("model", f"the checkpoint's shape cannot be told: {held.why_no_shape}", fix)
        return
    told = _apart(held.shape, shape)
    if told and recipe.model.path is not None:
        fix = "give this recipe's own checkpoint, or correct model.path"
        yield _error("model", f"the checkpoint is of another model: {told} (checkpoint, recipe)", fix)
    elif told:
        size, stands_for = held.shape.parameters / 1e9, shape.parameters / 1e9
        if abs(size / stands_for - 1) > OTHER_SIZE:
            told = f"the checkpoint has {size:,.1f}B parameters; {recipe.model.size} stands for {stands_for:,.1f}B"
            yield _error("model", told, "correct model.size, or give model.path")
        else:
            told = f"{recipe.model.size} stands for {shape.name}; the checkpoint differs: {told}"
            fix = "model.path instead of model.size says it exactly"
            yield Finding("note", "model", told, fix, folders.RULE)


def _apart(first: Shape, second: Shape) -> str:
    """What differs, name by name; "" for one shape. A rotation unties the embeddings: `first` may have done so."""
    if second.tied and not first.tied:
        second = replace(second, tied=False)
    names = [field.name for field in fields(Shape) if field.name != "name"]
    pairs = ((name, getattr(first, name), getattr(second, name)) for name in names)
    return ", ".join(f"{name} {one} and {other}" for name, one, other in pairs if one != other)
