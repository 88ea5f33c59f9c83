"""What both engines can do, asked now, and which budgets no pair can score: `parity check-config --probe`.

Asks what a running monitor asks at its start (backends/capabilities), so it says beforehand what the monitor would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from backends.base import Backend
from backends.capabilities import Capabilities, Capability, Finding, find
from proxy.monitor.lacks import SIDES, Lack, Lacks, lacking, told

_STYLE = {Finding.HAS: "green", Finding.UNKNOWN: "yellow"}
_UNASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Probed:
    """Both arms as found. `impossible` says of a budget why no pair can give it a number."""

    arms: Mapping[str, Capabilities]
    lacks: tuple[Lack, ...]
    impossible: Mapping[str, str]

    @property
    def silent(self) -> Mapping[str, str]:
        """The arms that answered nothing, and why."""
        return {
            side: next(iter(of.why.values()), "no answer")
            for side, of in self.arms.items()
            if set(of.findings.values()) <= {Finding.UNKNOWN}
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "arms": {side: of.as_dict() for side, of in self.arms.items()},
            "lacks": [lack.as_dict() for lack in self.lacks],
            "impossible": dict(self.impossible),
            "silent": dict(self.silent),
        }


async def probe(
    backends: Mapping[str, Backend], models: Mapping[str, str | None], budgets: Iterable[str], top_logprobs: int
) -> Probed:
    """What the engines answer now. The backends stay the caller's to close."""
    found = await asyncio.gather(
        *(
            find(backends[side], models[side], top_logprobs=top_logprobs, teacher_forcing=side == "reference")
            for side in SIDES
        )
    )
    arms = dict(zip(SIDES, found, strict=True))
    lacks = Lacks({side: lacking(of) for side, of in arms.items()})
    said = tuple(lack for side, of in arms.items() for lack in told(side, of))
    return Probed(arms, said, lacks.unscorable(budgets))


def print_probed(console: Console, probed: Probed) -> None:
    """A table of both arms, a sentence for each lack, and the budgets that can never be scored."""
    table = Table(title="what the engines can do", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for side, of in probed.arms.items():
        table.add_column(f"{side} ({of.engine})" if of.engine else side, no_wrap=True)
    for capability in Capability:
        table.add_row(str(capability), *(_cell(of, capability) for of in probed.arms.values()))
    console.print(table)
    for side, why in probed.silent.items():
        console.print(Text.assemble(("note: ", "bold yellow"), f"the {side} did not answer: {why}"), soft_wrap=True)
    for lack in probed.lacks:
        console.print(Text.assemble(("note: ", "bold yellow"), lack.sentence), soft_wrap=True)
    for name, why in probed.impossible.items():
        console.print(Text.assemble(("✗ ", "bold red"), f"budgets.{name}: {why}"), soft_wrap=True)


def _cell(of: Capabilities, capability: Capability) -> Text:
    if capability not in of.findings:
        return Text(_UNASKED, style="dim")
    finding = of.of(capability)
    number = {Capability.TOP_LOGPROBS: of.top_logprobs, Capability.MAX_MODEL_LEN: of.max_model_len}.get(capability)
    return Text(f"{finding} {number}" if number is not None else str(finding), style=_STYLE.get(finding, "red"))
