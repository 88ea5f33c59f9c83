"""Where the arms run, and how much memory each may take: apart where there are cards for both, else on the same.

On the same cards both hold equally many whole sequences; what is left goes to the candidate, which serves clients.
vLLM's --gpu-memory-utilization is a share of the card for one instance, whatever else runs there. It measures free
memory while it starts and assumes that nobody else's changes (vLLM 0.32.0, `v1/worker/gpu_worker.py`), so two on one
card must start one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backends.recipes.finding import Finding
from backends.recipes.hardware import GIB
from backends.recipes.recipe import Recipe
from backends.recipes.roofline import UTILIZATION, Roofline, kv_bytes_per_token, roofline, weight_bytes
from backends.recipes.shapes import Shape

CPU_BLOCK = 128  # tokens; vLLM 0.32.0's block on a CPU, `platforms/cpu.py`
CPU_KV_LEAST = 256 * 2**20  # *choice*, bytes: a small model's cache costs nothing, and prefixes want room
CPU_RUNTIME_BYTES = 2.5 * 2**30  # *choice*, per arm: 2.2 GB resident in vLLM's three processes for a 4M-parameter model
_STEP = 1000  # utilizations are told to three decimals


@dataclass(frozen=True, slots=True)
class Placed:
    """One arm's share.

    Units:  cards by their number on the machine (None: as the environment has them); utilization a share of each card;
            kv_bytes on a CPU alone; whole sequences of the context.
    """

    cards: tuple[int, ...] | None
    utilization: float | None
    kv_bytes: int | None
    sequences: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Every arm's share, and whether two stand on one card."""

    arms: dict[str, Placed]
    shared: bool

    def findings(self, concurrency: int) -> list[Finding]:
        """Sequences that will wait, because sharing or the card itself leaves no room for them."""
        least = min(placed.sequences for placed in self.arms.values())
        if least >= concurrency:
            return []
        where = "beside the other an arm" if self.shared else "an arm"
        return [
            Finding(
                "warning", "concurrency",
                f"{where} holds {least:,} whole sequences, not {concurrency:,}: past that vLLM queues",
                "more cards (--cards, gpus), or fine if conversations are mostly shorter", "capacity",
            )
        ]  # fmt: skip


class DoesNotFit(ValueError):
    """The arms do not fit. `finding` says by how much and what to take; str() is the same in one line."""

    def __init__(self, key: str, found: str, fix: str) -> None:
        super().__init__(f"{found}; {fix}")
        self.finding = Finding("error", key, found, fix, "capacity")


def place(arms: dict[str, tuple[Recipe, Shape]], cards: Sequence[int] | None, memory_bytes: float | None) -> Placement:
    """Each arm's share. `cards` are the machine's; `memory_bytes` is what a CPU machine has free, None if not known.

    Without `cards` the machine is taken to have as many as the larger arm needs, numbered by the environment.
    Raises:  DoesNotFit.
    """
    recipes = [recipe for recipe, _ in arms.values()]
    if recipes[0].card.generation == "cpu":
        if cards is not None:
            raise DoesNotFit("hardware", "--cards names cards, and the recipe's hardware is a CPU", "leave it out")
        return _on_cpu(arms, memory_bytes)
    roofs = {side: roofline(recipe, shape) for side, (recipe, shape) in arms.items()}
    for side, (recipe, _) in arms.items():
        _alone(side, recipe, roofs[side], cards)
    wanted = [recipe.gpus for recipe in recipes]
    if len(arms) == 1 or (cards is not None and len(cards) >= sum(wanted)):
        placed, first = {}, 0
        for side, (recipe, _) in arms.items():
            own = None if cards is None else tuple(cards[first : first + recipe.gpus])
            placed[side] = Placed(own, UTILIZATION, None, roofs[side].sequences)
            first += recipe.gpus
        return Placement(placed, shared=False)
    return _beside(arms, roofs, cards)


def _alone(side: str, recipe: Recipe, roof: Roofline, cards: Sequence[int] | None) -> None:
    """Raises what stops an arm whatever stands beside it."""
    if cards is not None and len(cards) < recipe.gpus:
        raise DoesNotFit(
            "gpus",
            f"the {side} takes {recipe.gpus} cards, and --cards names {len(cards)}",
            "name more cards, or lower gpus where the model still fits",
        )
    if not roof.fits:
        raise DoesNotFit(
            "hardware",
            f"the {side} does not fit on {_cards(recipe.gpus, recipe)}: {_gb(roof.weight_bytes)} of weights and "
            f"{_gb(roof.reserved_bytes)} for the engine leave {_gb(roof.kv_room)} for the cache, and one sequence of "
            f"{recipe.context_tokens:,} tokens needs {_gb(roof.kv_bytes_per_sequence)}",
            "a smaller context_tokens, or more cards: "
            + ("gpus in the recipe" if side == "candidate" else "gpus in its parent recipe, or --reference-gpus"),
        )


def _beside(
    arms: dict[str, tuple[Recipe, Shape]], roofs: dict[str, Roofline], cards: Sequence[int] | None
) -> Placement:
    """Both on the same cards: a share of each."""
    recipes = {side: recipe for side, (recipe, _) in arms.items()}
    card = recipes["candidate"].card

    def share(side: str, sequences: float) -> float:
        """Of each card that the arm stands on."""
        roof, many = roofs[side], recipes[side].gpus
        need = roof.weight_bytes + roof.reserved_bytes + sequences * roof.kv_bytes_per_sequence
        return need / (many * card.memory)

    fixed = share("candidate", 0) + share("reference", 0)
    each = share("candidate", 1) + share("reference", 1) - fixed
    fit = int((UTILIZATION - 1 / _STEP - fixed) / each)  # one step is lost to the rounding below
    if fit < 1:
        where = _cards(max(one.gpus for one in recipes.values()), recipes["candidate"])
        both = recipes["candidate"].gpus + recipes["reference"].gpus
        raise DoesNotFit(
            "hardware",
            f"both arms do not fit beside each other on {where}: "
            + " and ".join(
                f"the {side} needs {share(side, 1):.2f} of a card ({_gb(roofs[side].weight_bytes)} of weights, "
                f"{_gb(roofs[side].kv_bytes_per_sequence)} for one sequence)"
                for side in recipes
            )
            + f", and vLLM may take {UTILIZATION:g}",
            f"cards of their own: --cards {','.join(map(str, range(both)))}; or a smaller context_tokens, more gpus "
            "(tensor parallel), or one arm here and the other elsewhere (--arm)",
        )
    sequences = min(fit, recipes["candidate"].concurrency)
    reference = math.ceil(share("reference", sequences) * _STEP) / _STEP
    candidate = math.floor((UTILIZATION - reference) * _STEP + 1e-9) / _STEP
    given = {"candidate": candidate, "reference": reference}
    placed = {}
    for side, recipe in recipes.items():
        held = int((given[side] - share(side, 0)) / (share(side, 1) - share(side, 0)) + 1e-9)
        own = None if cards is None else tuple(cards[: recipe.gpus])
        placed[side] = Placed(own, given[side], None, held)
    return Placement(placed, shared=True)


def _on_cpu(arms: dict[str, tuple[Recipe, Shape]], memory_bytes: float | None) -> Placement:
    """The cache in bytes, because vLLM's default on a CPU is nearly all memory, for each arm."""
    placed, need = {}, {}
    for side, (recipe, shape) in arms.items():
        blocks = math.ceil(recipe.context_tokens / CPU_BLOCK) + 1  # and the one that vLLM keeps empty
        sequence = blocks * CPU_BLOCK * kv_bytes_per_token(recipe, shape)
        placed[side] = Placed(
            None, None, max(CPU_KV_LEAST, math.ceil(sequence * recipe.concurrency)), recipe.concurrency
        )
        # As loaded: vLLM on a CPU may hold a packed weight beside its repacked form for a while.
        need[side] = weight_bytes(recipe, shape)[0] + CPU_RUNTIME_BYTES + (placed[side].kv_bytes or 0)
    if memory_bytes is not None and sum(need.values()) > memory_bytes:
        raise DoesNotFit(
            "hardware",
            f"{' and '.join(f'the {side} needs {size / GIB:,.1f} GiB' for side, size in need.items())}, and this "
            f"machine has {memory_bytes / GIB:,.1f} GiB free",
            "a smaller context_tokens or concurrency, or one arm here and the other elsewhere (--arm)",
        )
    return Placement(placed, shared=False)


def _cards(count: int, recipe: Recipe) -> str:
    return f"{count} x {recipe.card.label}" if count > 1 else recipe.card.label


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
