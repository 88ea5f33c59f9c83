"""A recipe against the hardware gate, the known anomalies, what vLLM serves, and what calibration needs.

An error: it cannot be served as written. A warning: it can, and is known to hurt or to be measured wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.recipes.engines import engine_findings
from backends.recipes.finding import Finding, Level
from backends.recipes.formats import SIXTEEN_BIT, family
from backends.recipes.hardware import STORED_LOW
from backends.recipes.methods import CALIBRATION_PROMPTS, METHODS, ONLINE_FORMATS, ROTATIONS, is_llama_3_70b
from backends.recipes.recipe import Recipe
from backends.recipes.roofline import Roofline
from backends.recipes.serving import WEIGHT_ONLY_BELOW

_NAMES = {"smoothquant": "SmoothQuant", "spinquant": "SpinQuant", "omniquant": "OmniQuant"}


def check(recipe: Recipe, roof: Roofline | None, *, allow_emulated: bool = False) -> list[Finding]:
    """All findings, errors first. `allow_emulated` takes what a card only stores low as a warning."""
    found = [
        *_hardware(recipe, allow_emulated),
        *_anomalies(recipe),
        *engine_findings(recipe),
        *_methods(recipe),
        *_capacity(recipe, roof),
        *_calibration(recipe),
    ]
    return sorted(found, key=lambda one: ("error", "warning", "note").index(one.level))


def _hardware(recipe: Recipe, allow_emulated: bool) -> Iterator[Finding]:
    card = recipe.card
    for axis in ("weights", "activations", "kv_cache"):
        name = getattr(recipe, axis).format
        kind = family(name)
        if card.native(kind) or kind in STORED_LOW or (axis == "kv_cache" and kind != "fp8"):
            continue
        level: Level = "error"
        note = ""
        if card.generation == "cpu":
            if kind != "fp8":
                yield Finding(
                    "error", f"{axis}.format", f"vLLM on a CPU has no kernel for {name}",
                    "try int4 or int8 there, or take a Blackwell card", "hardware-gate", "vllm-cpu",
                )  # fmt: skip
                continue
            level, note = "warning", "; fit to try its parity, not its speed"
        elif axis == "kv_cache" and name == "fp8-e5m2":
            level = "warning"  # FlashInfer reads it there by casting up: storage, which is what a cache is for
        elif allow_emulated:
            level = "warning"
        yield Finding(
            level,
            f"{axis}.format",
            f"{card.label} ({card.generation}) has no {kind.upper()} hardware: {_emulated(recipe, axis, name)}{note}",
            _instead(axis, kind, card.generation),
            "hardware-gate",
            "precision, hardware gate",
        )


def _emulated(recipe: Recipe, axis: str, name: str) -> str:
    if axis == "kv_cache":
        return f"the cache is kept as {name} and every read is cast up to 16 bits"
    if axis == "activations":
        return f"vLLM keeps the activations at 16 bits whatever the checkpoint says, so {name} is not what is served"
    if name in WEIGHT_ONLY_BELOW:
        low = recipe.activations.format not in SIXTEEN_BIT
        return f"vLLM's Marlin kernel keeps {name} as storage and computes at 16 bits" + (
            ", so the activation axis of this recipe would silently be another"
            if low
            else ": bytes saved, no rate gained"
        )
    return f"{name} would be cast up and computed at 16 bits, if an engine loads it at all"


def _instead(axis: str, kind: str, generation: str) -> str:
    if axis == "kv_cache":
        return 'keep kv_cache.format = "bf16"; int8 per token-head (TRITON_ATTN) is storage that any card holds'
    if kind == "fp8":
        return (
            "take INT8 (W8A8 by SmoothQuant), which is native there, or INT4 AWQ with 16-bit activations; "
            "FP8 needs Hopper, Ada or Blackwell"
        )
    fp8 = "FP8 for weights and activations, native there, or " if generation in ("hopper", "ada") else ""
    return f"take {fp8}INT4 AWQ with 16-bit activations; {kind.upper()} needs Blackwell"


def _anomalies(recipe: Recipe) -> Iterator[Finding]:
    weights, activations, cache = recipe.weights, recipe.activations, recipe.kv_cache
    w8a8 = weights.format == "int8" and activations.format == "int8" and weights.granularity != "group"
    named = is_llama_3_70b(recipe.model.name or recipe.model.size or str(recipe.model.path))
    if w8a8 and named and weights.made_by not in ROTATIONS:
        yield Finding(
            "warning", "weights.per",
            f"Llama-3-70B and 3.3-70B have unusually severe outliers: W8A8 per {weights.granularity} costs 2 to 4 "
            "points of MMLU, with SmoothQuant too",
            'weights.method = "quarot" or "spinquant", or finer groups (weights.per = "group"), '
            "or stay at W4A16 (INT4 AWQ, 16-bit activations)",
            "llama-3-70b-w8a8", "arXiv 2408.15301",
        )  # fmt: skip
    if cache.format == "int4" and cache.granularity == "tensor":
        yield Finding(
            "warning", "kv_cache.per",
            "an INT4 cache with one scale per tensor loses several points on RULER and needle tasks",
            'kv_cache.per = "token-head" (or per head, per block) recovers most; '
            f"validate at the served context, {recipe.context_tokens:,} tokens",
            "int4-kv-per-tensor", "precision, anomaly 2",
        )  # fmt: skip
    if cache.format.startswith("fp8") and cache.granularity in ("tensor", "one"):
        yield Finding(
            "warning", "kv_cache.per",
            "FP8 KV with one scale per tensor clips heads that specialise in rare tokens (BOS, code)"
            + ("; and the scale is 1.0, uncalibrated" if cache.granularity == "one" else ""),
            'kv_cache.per = "head" (calibrated; FLASH_ATTN) or "token-head" (found at each write; TRITON_ATTN)',
            "fp8-kv-per-tensor", "precision, anomaly 3",
        )  # fmt: skip


def _methods(recipe: Recipe) -> Iterator[Finding]:
    weights = recipe.weights
    method, name = weights.made_by, weights.format
    rule, source = "method-guide", METHODS[method].source or "precision, methods"
    if method == "omniquant":
        yield Finding("error", "weights.method", f"OmniQuant is {METHODS[method].weak_at}",
                      'method = "awq" or "gptq"', rule, source)  # fmt: skip
    if method == "smoothquant" and (name != "int8" or recipe.activations.format != "int8"):
        yield Finding("warning", "weights.method", "SmoothQuant is for W8A8; it is weak below 8 bits",
                      'weights and activations "int8", or method = "gptq"', rule, source)  # fmt: skip
    if method == "online" and name not in ONLINE_FORMATS:
        yield Finding("error", "weights.method", f"vLLM quantizes nothing to {name} at load",
                      f'one of {", ".join(ONLINE_FORMATS)}, or method = "rtn" and a checkpoint',
                      rule, source)  # fmt: skip
    if name == "int4" and method == "rtn" and recipe.engine == "vllm":
        yield Finding("warning", "weights.method", "INT4 rounded to nearest is the weakest INT4",
                      'method = "awq", then "gptq"', rule, source)  # fmt: skip
    if name == "int4" and method == "gptq" and recipe.workload == "agent":
        yield Finding("note", "weights.method", "for an agent, AWQ with tool-use calibration is the first choice",
                      'method = "awq"', rule, source)  # fmt: skip
    if name in ("int3", "int2") or name == "q3_k_m":
        yield Finding("warning", "weights.format", f"{name.upper()} usually loses to a smaller model at 4 bits",
                      "take a smaller model; if it must be, SpinQuant", rule, source)  # fmt: skip
    if method == "quarot":
        yield Finding("note", "weights.method", "QuaRot changes the graph: engines must apply its online rotations",
                      "SpinQuant's R1 and R2 fold into the weights and serve in plain vLLM", rule, source)  # fmt: skip
    four = family(recipe.activations.format) == "fp4" or name == "int4"
    if four and recipe.activations.format not in SIXTEEN_BIT and method not in ROTATIONS:
        yield Finding("note", "weights.method", "activations below 16 bits beside 4-bit weights suffer from outliers",
                      "if prompts spike at random: QuaRot or SpinQuant", rule,
                      "arXiv 2404.00456, 2405.16406")  # fmt: skip


def _capacity(recipe: Recipe, roof: Roofline | None) -> Iterator[Finding]:
    if roof is None:
        return
    if not roof.fits:
        yield Finding(
            "error", "hardware",
            f"it does not fit: {roof.weight_bytes / 1e9:,.1f} GB of weights and {roof.reserved_bytes / 1e9:,.1f} GB "
            f"for the engine leave {roof.kv_room / 1e9:,.1f} GB for the cache, and one sequence of "
            f"{recipe.context_tokens:,} tokens needs {roof.kv_bytes_per_sequence / 1e9:,.2f} GB",
            _make_room(recipe, roof), "capacity",
        )  # fmt: skip
    elif roof.sequences < recipe.concurrency:
        yield Finding(
            "warning", "concurrency",
            f"{roof.sequences:,} sequences of {recipe.context_tokens:,} tokens fit, not {recipe.concurrency:,}: "
            "past that vLLM queues or preempts them",
            "fine if conversations are mostly shorter; else "
            + ("an FP8 cache (a knob of its own), " if recipe.kv_cache.format in SIXTEEN_BIT
               and recipe.card.native("fp8") else "") + "more cards",
            "capacity",
        )  # fmt: skip


def _make_room(recipe: Recipe, roof: Roofline) -> str:
    ways = []
    if recipe.weights.format in SIXTEEN_BIT:
        ways.append("INT4 or FP8 weights")
    if recipe.kv_cache.format in SIXTEEN_BIT and recipe.card.native("fp8"):
        ways.append("an FP8 cache")
    if roof.kv_room > 0:
        longest = int(roof.kv_room // roof.kv_bytes_per_token)
        ways.append(f"context_tokens up to {longest:,}")
    return ", ".join([*ways, f"gpus = {recipe.gpus * 2}"])


def _calibration(recipe: Recipe) -> Iterator[Finding]:
    wanted = []
    if METHODS[recipe.weights.made_by].calibrated:
        wanted.append(_NAMES.get(recipe.weights.made_by, recipe.weights.made_by.upper()))
    if recipe.activations.granularity == "tensor":
        wanted.append("static activation scales")
    if recipe.kv_cache.format.startswith("fp8") and recipe.kv_cache.granularity in ("tensor", "head"):
        wanted.append("KV scales")
    if not wanted:
        return
    like = {
        "agent": "tool-use prompts, with the tools offered: rare-vocabulary projections are what INT4 breaks",
        "code": "code",
        "long_context": f"prompts of the served length, up to {recipe.context_tokens:,} tokens",
    }.get(recipe.workload, "prompts like those served")
    yield Finding(
        "note", "weights.method" if METHODS[recipe.weights.made_by].calibrated else "kv_cache.per",
        f"{' and '.join(wanted)} must be calibrated",
        f"{CALIBRATION_PROMPTS} prompts from the ledger's own traffic, deduplicated and stratified: {like}",
        "calibration", "precision, methods",
    )  # fmt: skip
