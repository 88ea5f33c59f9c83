"""Cards: what each computes natively, its memory, bandwidth and rates.

Source:  bandwidth and dense tensor rates are the vendor's datasheets and architecture papers (for consumer cards with
FP32 accumulation, which is what vLLM's kernels use). Memory is what the driver leaves to programs, below the label:
23.58 GiB of an RTX 3090's 24 GB (vLLM's own log, issue vllm-project/vllm 10517), the others by the same token.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from backends.recipes.formats import Family

Generation = Literal["ampere", "hopper", "ada", "blackwell", "cpu"]
GIB = 1024**3
TERA = 1e12

# The hardware gate. INT4 and the K-quants are software patterns: stored low, computed higher, everywhere.
NATIVE: Mapping[Generation, frozenset[Family]] = {
    "ampere": frozenset({"16-bit", "int8"}),
    "hopper": frozenset({"16-bit", "fp8", "int8"}),
    "ada": frozenset({"16-bit", "fp8", "int8"}),
    "blackwell": frozenset({"16-bit", "fp8", "fp6", "fp4", "int8"}),
    "cpu": frozenset({"16-bit", "int8"}),
}
STORED_LOW: frozenset[Family] = frozenset({"int4", "k-quant"})


@dataclass(frozen=True, slots=True)
class Card:
    """One accelerator.

    Units:  memory in bytes; bandwidth in bytes/s; rates in FLOP/s (OP/s for INT8), dense, by family. Empty rates: the
            card has no roofline here.
    """

    name: str
    label: str
    generation: Generation
    capability: float
    memory: float = 0.0
    bandwidth: float = 0.0
    rates: Mapping[Family, float] = field(default_factory=dict)

    def native(self, family: Family) -> bool:
        """Whether the card computes in it; False for what is only stored low."""
        return family in NATIVE[self.generation]

    def rate(self, family: Family) -> float:
        """FLOP/s of matrix products in this family; what is not native is computed at 16 bits."""
        return self.rates.get(family, self.rates["16-bit"])


def _card(
    name: str, label: str, generation: Generation, capability: float, gib: float, tb_s: float, rates: str
) -> Card:
    """`rates`: "16-bit 312, int8 624", in TFLOP/s."""
    each = (one.split() for one in rates.split(", "))
    return Card(
        name, label, generation, capability, gib * GIB, tb_s * TERA,
        {family: float(rate) * TERA for family, rate in each},  # type: ignore[misc]  # the words of the table below
    )  # fmt: skip


CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        _card("a100", "A100 80 GB", "ampere", 8.0, 79.1, 2.04, "16-bit 312, int8 624"),
        _card("a10", "A10 24 GB", "ampere", 8.6, 22.0, 0.6, "16-bit 125, int8 250"),
        _card("rtx-3090", "RTX 3090", "ampere", 8.6, 23.58, 0.936, "16-bit 71, int8 284"),
        _card("jetson-orin-nano", "Jetson Orin Nano 8 GB", "ampere", 8.7, 7.4, 0.068, "16-bit 10, int8 20"),
        _card("h100", "H100 SXM 80 GB", "hopper", 9.0, 79.1, 3.35, "16-bit 990, fp8 1979, int8 1979"),
        _card("h200", "H200 SXM 141 GB", "hopper", 9.0, 139.8, 4.8, "16-bit 990, fp8 1979, int8 1979"),
        _card("l40s", "L40S 48 GB", "ada", 8.9, 44.4, 0.864, "16-bit 362, fp8 733, int8 733"),
        _card("rtx-4090", "RTX 4090", "ada", 8.9, 23.5, 1.008, "16-bit 165, fp8 330, int8 661"),
        _card(
            "b200", "B200 192 GB", "blackwell", 10.0, 178.3, 8.0,
            "16-bit 2250, fp8 4500, fp6 4500, fp4 9000, int8 4500",
        ),
        _card(
            "rtx-5090", "RTX 5090", "blackwell", 12.0, 31.3, 1.792,
            "16-bit 210, fp8 419, fp6 419, fp4 1676, int8 838",
        ),
        Card("cpu", "a CPU", "cpu", 0.0),
    )
}  # fmt: skip

_ALIASES = {"a100-80": "a100", "a100-80gb": "a100", "rtx3090": "rtx-3090", "rtx4090": "rtx-4090", "rtx5090": "rtx-5090",
            "orin-nano": "jetson-orin-nano", "jetson": "jetson-orin-nano", "rtx-3000": "rtx-3090",
            "rtx-4000": "rtx-4090", "rtx-5000": "rtx-5090"}  # fmt: skip


def card_named(name: str) -> Card:
    """The card that a name means, whatever its case and spaces.

    Raises:  ValueError that says what there is.
    """
    key = re.sub(r"[\s_]+", "-", name.strip().lower())
    key = _ALIASES.get(key, key)
    if key in CARDS:
        return CARDS[key]
    close = difflib.get_close_matches(key, CARDS, n=1)
    hint = f'did you mean "{close[0]}"? ' if close else ""
    raise ValueError(f'there is no card "{name[:40]}" here; {hint}known: {", ".join(CARDS)}')
