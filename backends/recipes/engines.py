"""A recipe against its engine: schemes, and KV dtypes by attention backend."""

from __future__ import annotations

from collections.abc import Iterator

from backends.recipes.finding import Finding
from backends.recipes.formats import SIXTEEN_BIT, family
from backends.recipes.hardware import STORED_LOW
from backends.recipes.recipe import K_QUANTS, KvCache, Recipe
from backends.recipes.serving import MIN_CAPABILITY, backend_for, kv_dtype, refuses, scheme


def engine_findings(recipe: Recipe) -> Iterator[Finding]:
    """What the recipe's engine cannot serve, or serves otherwise than it is measured."""
    return _vllm(recipe) if recipe.engine == "vllm" else _other_engine(recipe)


def _vllm(recipe: Recipe) -> Iterator[Finding]:
    weights, card = recipe.weights, recipe.card
    if weights.format in K_QUANTS:
        yield Finding(
            "error", "engine", "GGUF left vLLM's core (a plugin since 0.33)",
            'engine = "llama.cpp", or INT4 AWQ for vLLM', "vllm-scheme",
        )  # fmt: skip
    else:
        yield from _scheme(recipe)
    yield from _kv_by_backend(recipe)
    if recipe.gpus > 1 and card.generation == "cpu":
        yield Finding("error", "gpus", "a CPU is one device", "gpus = 1", "vllm-scheme")


def _scheme(recipe: Recipe) -> Iterator[Finding]:
    weights, activations, card = recipe.weights, recipe.activations, recipe.card
    named = scheme(recipe)
    if named is None:
        both = f"{weights.format} weights with {activations.format} activations"
        plain = weights.format in SIXTEEN_BIT
        yield Finding(
            "error", "weights.format" if plain else "activations.format", f"vLLM has no scheme for {both}",
            "quantize the weights too: low activations have low weights beside them" if plain
            else "pairs that it serves: int8+int8, fp8-e4m3+fp8-e4m3, int4+fp8-e4m3, mxfp4+mxfp4, nvfp4+nvfp4, "
            "or any of these weights with 16-bit activations",
            "vllm-scheme", "llm-compressor 0.14, preset schemes",
        )  # fmt: skip
        return
    least = MIN_CAPABILITY.get(named, 0.0)
    native = card.native(family(weights.format)) or family(weights.format) in STORED_LOW
    if card.generation != "cpu" and card.capability < least and native:
        yield Finding(
            "error", "hardware", f"{named} needs compute capability {least:g}; {card.label} has {card.capability:g}",
            "take 16-bit activations, or a newer card", "vllm-scheme", "llm-compressor 0.14, minimum capability",
        )  # fmt: skip
    if named == "W4A8" and card.generation != "cpu":
        yield Finding(
            "warning", "activations.format", "INT4 weights with INT8 activations have few GPU kernels in vLLM",
            "W4AFP8 on Hopper or W4A16 are the trodden paths", "vllm-scheme",
        )  # fmt: skip


def _kv_by_backend(recipe: Recipe) -> Iterator[Finding]:
    cache, card, asked = recipe.kv_cache, recipe.card, recipe.attention_backend
    dtype = kv_dtype(cache)
    source = "vLLM 0.32.0, v1/attention/backends"
    if dtype is None:
        yield Finding(
            "error", "kv_cache.per", f"vLLM has no {cache.format} cache per {cache.granularity}",
            'int4 and int8: per = "token-head"; fp8-e4m3: "tensor", "head" or "token-head"; fp8-e5m2: "tensor" '
            "(the emulator can show what the rest would cost)",
            "vllm-kv", source,
        )  # fmt: skip
        return
    plain = KvCache()
    if asked is not None:
        why = refuses(asked, cache, card) or refuses(asked, plain, card)
        if why:
            other = backend_for(cache, card)
            fix = f'attention_backend = "{other}"' if other else "another KV format"
            yield Finding("error", "attention_backend", why, f"{fix}, on both arms", "vllm-kv", source)
        return
    takes, reference = backend_for(cache, card), backend_for(plain, card)
    if takes is None:
        yield Finding(
            "error", "kv_cache.format", f"no attention backend of vLLM holds {dtype} on {card.label}",
            'kv_cache.format = "bf16"' + (", or per = \"token-head\"" if cache.granularity == "head" else ""),
            "vllm-kv", source,
        )  # fmt: skip
    elif takes != reference:
        yield Finding(
            "warning", "attention_backend",
            f"with {dtype} vLLM takes {takes}, at 16 bits {reference}: the arms would differ in their kernels too",
            f'attention_backend = "{takes}", on both arms (--attention-backend {takes})', "vllm-kv", source,
        )  # fmt: skip
    if cache.format == "fp8-e5m2" and recipe.weights.format.startswith("fp8"):
        yield Finding(
            "error", "kv_cache.format", "vLLM refuses an E5M2 cache with an FP8 checkpoint",
            'kv_cache.format = "fp8-e4m3"', "vllm-kv", "vLLM 0.32.0, layers/attention/attention.py",
        )  # fmt: skip


def _other_engine(recipe: Recipe) -> Iterator[Finding]:
    if recipe.engine == "llama.cpp" and recipe.weights.format not in (*K_QUANTS, *SIXTEEN_BIT):
        yield Finding(
            "error", "weights.format", f"llama.cpp reads GGUF; {recipe.weights.format} is none of its mixes",
            f'weights.format = one of {", ".join(K_QUANTS)}, or engine = "vllm"', "engine",
        )  # fmt: skip
