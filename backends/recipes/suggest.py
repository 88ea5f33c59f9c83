"""From model, workload, hardware and context to a recipe: the reasons for each axis, and what it does not buy.

Source:  precision: the table by workload, "Pick" of the method guide, the hardware gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.recipes.formats import SIXTEEN_BIT, KvPer
from backends.recipes.methods import is_llama_3_70b
from backends.recipes.recipe import Activations, KvCache, Model, Recipe, Weights
from backends.recipes.roofline import Roofline, overtakes, roofline
from backends.recipes.serving import backend_for
from backends.recipes.shapes import Shape

CARDS_TRIED = (1, 2, 4, 8)  # one host
SMALL = 5e9  # *choice*: below it INT4 is outside the guide's "dense 7B to 70B"

_AWQ = Weights(format="int4", method="awq", group_size=128)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A recipe, why each axis is so, what it does not buy, and what else was weighed.

    roof and plain are the recipe's roofline and that of the same at BF16; None for a card without one.
    """

    recipe: Recipe
    shape: Shape
    reasons: tuple[tuple[str, str], ...]
    not_bought: tuple[str, ...]
    weighed: tuple[str, ...]
    proof: tuple[str, ...]
    roof: Roofline | None
    plain: Roofline | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "axes": self.recipe.axes(),
            "shape": self.shape.as_dict(),
            "reasons": [{"about": about, "why": why} for about, why in self.reasons],
            "does_not_buy": list(self.not_bought),
            "weighed": list(self.weighed),
            "order_of_proof": list(self.proof),
            "roofline": self.roof.as_dict() if self.roof else None,
            "roofline_bf16": self.plain.as_dict() if self.plain else None,
        }


def suggest(
    model: Model,
    workload: Any,
    hardware: str,
    context: int,
    concurrency: int,
    gpus: int | None = None,
    beside: Path = Path(),
) -> Suggestion:
    """The recipe to try first. Without `gpus`, the fewest cards of one host that hold half of the sequences whole.

    Raises:  ShapeError, or pydantic's ValidationError for what no recipe file may say.
    """  # fmt: skip
    plain = Recipe(
        name="bf16", workload=workload, hardware=hardware, gpus=gpus or 1, context_tokens=context,
        concurrency=concurrency, model=model,
    )  # fmt: skip
    shape, card = plain.shape(beside), plain.card
    weights, activations, why = _weights(plain, shape)
    edge = weights.format == "q4_k_m"
    recipe = plain.model_copy(
        update={"weights": weights, "activations": activations, "engine": "llama.cpp" if edge else "vllm"}
    )
    tried = (gpus,) if gpus or edge or not card.rates else CARDS_TRIED
    for cards in tried:
        recipe = recipe.model_copy(update={"gpus": cards or 1})
        cache, why_kv = _cache(recipe, shape)
        chosen = recipe.model_copy(update={"kv_cache": cache})
        if not card.rates or roofline(chosen, shape).sequences >= max(1, (concurrency + 1) // 2):
            break
    reasons = [*why, ("kv_cache", why_kv)]
    if chosen.gpus > 1 and gpus is None:
        reasons.append(("gpus", f"{chosen.gpus} cards are the fewest that hold half of {concurrency} whole sequences"))
    takes = backend_for(cache, card)
    if chosen.engine == "vllm" and takes and takes != backend_for(KvCache(), card):
        chosen = chosen.model_copy(update={"attention_backend": takes})
        reasons.append(("attention_backend", f"this cache needs {takes}, so the reference takes it too: one kernel"))
    chosen = chosen.model_copy(update={"name": _name(chosen)})
    roof = roofline(chosen, shape) if card.rates else None
    base = roofline(chosen.reference(), shape) if card.rates else None
    return Suggestion(
        chosen, shape, tuple(reasons), _not_bought(chosen, roof, base), _weighed(chosen, shape, roof, base),
        _proof(chosen), roof, base,
    )  # fmt: skip


def _weights(asked: Recipe, shape: Shape) -> tuple[Weights, Activations, list[tuple[str, str]]]:
    """Weights and activations with their reasons."""
    card, workload = asked.card, asked.workload
    sixteen = Activations()
    kept = ("activations", "16 bits, the reference's own BF16 (FP16 is as large and as fast): the axis does not change")
    if workload == "edge":
        told = "Q4_K_M in llama.cpp: ~4.5 bits, the edge default; INT4 AWQ in vLLM is the other choice"
        return Weights(format="q4_k_m", method="gguf"), sixteen, [("weights", told), kept]
    if workload == "agent":
        told = "INT4 AWQ, calibrated on tool use: tool calls are the bar, and BFCL the gate"
        return _AWQ, sixteen, [("weights", told), kept]
    if workload == "code":
        told = "INT4 AWQ, weights alone: code is what low activations break first"
        return _AWQ, sixteen, [("weights", told), kept]
    if card.generation == "blackwell":
        told = "MXFP4, native on Blackwell, a scale for each block of 32"
        low = "MXFP4 too: FP4 products run at 2x the FP8 rate, and a scheme needs both sides"
        return Weights(format="mxfp4", method="rtn"), Activations(format="mxfp4"), [
            ("weights", told), ("activations", low)]  # fmt: skip
    if workload in ("batch", "embedding"):
        return _throughput(asked, shape, kept)
    why = (
        "safe default"
        if shape.parameters >= SMALL
        else "note: below 7B INT4 is outside the guide, FP8 or INT8 is safer"
    )
    told = f"INT4 AWQ, group 128: decode reads weights, and these are a quarter of BF16's; {why}"
    reasons = [("weights", told), kept]
    if not card.native("fp8"):
        reasons.append(("hardware", f"{card.label} has no FP8: it would be emulated; INT8 is native, INT4 storage"))
    return _AWQ, sixteen, reasons


def _throughput(
    asked: Recipe, shape: Shape, kept: tuple[str, str]
) -> tuple[Weights, Activations, list[tuple[str, str]]]:
    card = asked.card
    if card.native("fp8"):
        return Weights(format="fp8-e4m3", method="rtn"), Activations(format="fp8-e4m3", per="token"), [
            ("weights", "FP8, native: large batches are bound by arithmetic, where INT4 storage gains nothing"),
            ("activations", "FP8 with dynamic scales per token: 2x the 16-bit rate, no calibration"),
        ]  # fmt: skip
    if is_llama_3_70b(shape.name) or card.generation == "cpu":
        told = "INT4 AWQ: W8A8 costs a Llama-3-70B 2 to 4 points of MMLU (arXiv 2408.15301)"
        return _AWQ, Activations(), [("weights", told), kept]
    return Weights(format="int8", method="smoothquant"), Activations(format="int8", per="token"), [
        ("weights", f"INT8 by SmoothQuant: {card.label} has no FP8, and INT8 is its native 8-bit arithmetic"),
        ("activations", "INT8 per token: 2x the 16-bit rate"),
    ]  # fmt: skip


def _cache(recipe: Recipe, shape: Shape) -> tuple[KvCache, str]:
    """The cache's format and why."""
    card = recipe.card
    if not card.rates:
        return KvCache(), "16 bits: the axis does not change"
    roof = roofline(recipe.model_copy(update={"kv_cache": KvCache()}), shape)
    longer = roof.kv_bytes_per_sequence > roof.weight_bytes_read
    crowded = roof.sequences < (recipe.concurrency + 1) // 2
    one = f"{roof.kv_bytes_per_sequence / 1e9:,.1f} GB a sequence of {recipe.context_tokens:,} tokens"
    if recipe.workload == "agent":
        return KvCache(), f"16 bits ({one}); FP8 is the next knob, once tool calls hold parity"
    if not (longer or crowded or recipe.workload == "batch") or recipe.workload in ("edge", "embedding"):
        if roof.sequences < recipe.concurrency:
            return KvCache(), (
                f"16 bits: {one}, {roof.sequences:,} of {recipe.concurrency:,} fit whole, and conversations are seldom "
                "all at their longest; FP8 is the next knob"
            )
        return KvCache(), f"16 bits: {one}, {roof.sequences:,} fit; no pressure that would pay for another knob"
    if not card.native("fp8"):
        return KvCache(), f"16 bits: {one} is pressure, but {card.label} has no FP8; more cards, or a shorter context"
    per: KvPer = "head" if int(card.capability) in (9, 10) else "token-head"
    how = "calibrated scales per head" if per == "head" else "scales found at each write, per token and head"
    why = (
        f"one sequence's cache ({one}) is larger than all the weights" if longer
        else f"at 16 bits {roof.sequences:,} of {recipe.concurrency:,} sequences fit ({one})" if crowded
        else "throughput: half the bytes of each step's cache reads"
    )  # fmt: skip
    return KvCache(format="fp8-e4m3", per=per), f"FP8 E4M3, {how}: {why}"


def _not_bought(recipe: Recipe, roof: Roofline | None, base: Roofline | None) -> tuple[str, ...]:
    said = []
    low = recipe.activations.format not in SIXTEEN_BIT
    if not low:
        same = f" (prefill ceiling x{roof.prefill_tokens_s / base.prefill_tokens_s:.2f})" if roof and base else ""
        said.append(f"no arithmetic: {recipe.weights.format} is cast up, products run at the 16-bit rate{same}")
    if recipe.kv_cache.format in SIXTEEN_BIT:
        said.append("no cheaper context: each cached token takes as many bytes as at BF16")
    elif base and base.kv_bytes_per_sequence * base.batch < base.weight_bytes_read:
        said.append("little from the cache at this batch: its reads are below the weights'")
    if base and base.sequences >= recipe.concurrency:
        said.append(f"no room that was missing: BF16 fits too, with {base.sequences:,} whole sequences")
    said.append("no quality: a roofline says what could be gained, the gate whether parity holds; short-context parity "
                "says nothing about long context")  # fmt: skip
    return tuple(said)


def _weighed(recipe: Recipe, shape: Shape, roof: Roofline | None, base: Roofline | None) -> tuple[str, ...]:
    """The recipe against BF16 and, where the card has it, INT4 against FP8 weights and activations."""
    if roof is None or base is None:
        return ()
    fits = "" if base.fits else ", which does not fit"
    said = [
        f"against BF16{fits}: decode ceiling x{roof.decode_tokens_s / base.decode_tokens_s:.2f} at batch {roof.batch}, "
        f"prefill x{roof.prefill_tokens_s / base.prefill_tokens_s:.2f}, "
        f"sequences {base.sequences:,} -> {roof.sequences:,}"
    ]
    if recipe.weights.format == "int4" and recipe.card.native("fp8"):
        other = recipe.model_copy(
            update={"weights": Weights(format="fp8-e4m3"), "activations": Activations(format="fp8-e4m3", per="token")}
        )
        theirs, when = roofline(other, shape), overtakes(recipe, other, shape)
        first = f"it overtakes at batch {when}" if when else "no batch lets it overtake at this context"
        said.append(
            "against FP8 weights and activations: "
            f"INT4 decodes x{roof.decode_tokens_s / theirs.decode_tokens_s:.2f} at batch {roof.batch} "
            f"({roof.bound}-bound: {roof.intensity:.0f} of {roof.ridge:.0f} FLOP/byte), "
            f"FP8 prefills x{theirs.prefill_tokens_s / roof.prefill_tokens_s:.2f}; {first}"
        )
    return tuple(said)


def _proof(recipe: Recipe) -> tuple[str, ...]:
    """One knob at a time: the recipes to pass on the way."""
    changed = [axis for axis in ("weights", "activations", "kv_cache")
               if getattr(recipe, axis).format not in SIXTEEN_BIT]  # fmt: skip
    texts, done = recipe.axes(), []
    steps = []
    for axis in changed:
        done.append(axis)
        steps.append(f"{axis} -> {texts[axis]}" + (f" (on top of {', '.join(done[:-1])})" if done[:-1] else ""))
    return tuple(steps)


def _name(recipe: Recipe) -> str:
    size = (recipe.model.size or "model").lower()
    parts = [size, recipe.weights.format]
    parts += [recipe.weights.made_by] if recipe.weights.made_by not in ("rtn", "none", "gguf") else []
    parts += [f"a-{recipe.activations.format}"] if recipe.activations.format not in SIXTEEN_BIT else []
    parts += [f"kv-{recipe.kv_cache.format}"] if recipe.kv_cache.format not in SIXTEEN_BIT else []
    return "-".join(parts)
