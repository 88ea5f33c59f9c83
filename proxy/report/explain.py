"""The long account of a verdict: every budget's figures and gates, and which exchange brought each of them down."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.monitor.ledger_survey import exchanges_at
from proxy.report.view import STYLE, contract_line, number, verdict_line
from scorers.change import RUN_LENGTH

_E_VALUES = ("log10_e_promote", "log10_e_noise", "log10_e_rollback")
_TESTS = {
    "limit": ("log10_threshold_promote", "the mean lies below the limit"),
    "tail": ("log10_threshold_promote", "few lie above ten limits"),
    "noise": ("log10_threshold_promote", "the mean lies below the noise limit"),
    "rollback": ("log10_threshold_rollback", "the mean lies above the limit"),
}


def explain(console: Console, ledger: Path, answer: Mapping[str, Any]) -> None:
    """Prints all that a verdict rests on. `answer` has the shape of `/gate` and came from this ledger.

    Raises:  LedgerError.
    """
    lanes = [lane for budget in answer["budgets"].values() for lane in (budget, *budget["strata"].values())]
    promoted = answer["promoted_position"]
    positions = [at for lane in lanes for at in lane["crossed"].values()]
    where = exchanges_at(ledger, positions if promoted is None else [*positions, promoted])
    console.print(verdict_line(answer), soft_wrap=True)
    console.print(Text(f"recipe {answer['recipe']}, epoch {answer['epoch']}, stage {answer['stage']}"))
    console.print(contract_line(answer), soft_wrap=True)
    if answer["contract"]:
        console.print(Text(f"the epoch was opened for: {answer['contract']['reason']}"), soft_wrap=True)
    if promoted is not None:
        console.print(Text(f"every required budget was certified at {_place(promoted, where)}"))
    for reason in answer["reasons"][1:]:
        console.print(Text(f"  · {reason}"), soft_wrap=True)
    for name, budget in answer["budgets"].items():
        _budget(console, name, budget, where)
    _coverage(console, answer["coverage"])
    diagnosis = answer["diagnosis"]
    console.print(Text(f"\nsuspect axis: {diagnosis['axis']}", style="bold"))
    for sentence in diagnosis["evidence"]:
        console.print(Text(f"  · {sentence}"), soft_wrap=True)
    if diagnosis["fix"]:
        console.print(Text(f"  try: {diagnosis['fix']}"), soft_wrap=True)


def _budget(console: Console, name: str, budget: Mapping[str, Any], where: Mapping[int, tuple[str, float]]) -> None:
    state, label = budget["verdict"], "critical" if budget["critical"] else "not critical"
    limits = f"  limit {budget['limit']:g} {budget['unit']}, noise limit {number(budget['noise_limit'])}, {label}"
    console.print()
    console.print(Text.assemble((name, "bold"), "  ", (state, STYLE[state]), limits), soft_wrap=True)
    console.print(_figures(budget))
    for stratum, lane in (budget["strata"] or {"all": budget}).items():
        for test, at in lane["crossed"].items():
            if test in _TESTS:
                threshold, asks = _TESTS[test]
                said = f"{test}: {asks}: e-value past 10^{budget[threshold]:.2f} at {_place(at, where)}"
                console.print(Text(f"  {stratum}, {said}"), soft_wrap=True)
        if lane["change_level"] is not None:
            at = lane["crossed"].get("change")
            heard = "no alarm" if at is None else f"alarm at {_place(at, where)}"
            said = f"change detector at {lane['change_level']:.3g} of {RUN_LENGTH:g} pairs: {heard}"
            console.print(Text(f"  {stratum}, {said}"), soft_wrap=True)
    for reason in budget["reasons"]:
        console.print(Text(f"  · {reason}"), soft_wrap=True)


def _figures(budget: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2))
    table.add_column("stratum", no_wrap=True)
    columns = ("pairs", "lost", "mean", "bound", "floor", "noise pairs")
    for column in (*columns, *(f"log10 e {key.removeprefix('log10_e_')}" for key in _E_VALUES)):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for stratum, lane in (("all", budget), *budget["strata"].items()):
        counts = [f"{lane[key]:,}" for key in ("samples", "lost")]
        means = [number(lane[key], ".4g") for key in ("value", "bound", "noise")]
        levels = [number(lane[key], "+.2f") for key in _E_VALUES]
        over = " (over)" if stratum in budget["strata_over"] else ""
        state = Text(lane["verdict"] + over, style=STYLE[lane["verdict"]])
        table.add_row(stratum, *counts, *means, f"{lane['noise_samples']:,}", *levels, state)
    return table


def _coverage(console: Console, coverage: Mapping[str, Any]) -> None:
    console.print(Text("\ncoverage", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 2))
    table.add_column("stratum", no_wrap=True)
    kinds = ("sampled", "eligible", "scored", "dropped", "reference_error", "unpaired")
    for column in (*kinds, "scored of eligible"):
        table.add_column(column.replace("_", " "), justify="right", no_wrap=True)
    for name, cell in (("all", coverage), *coverage["strata"].items()):
        ratio = "-" if cell["ratio"] is None else f"{cell['ratio']:.1%}"
        table.add_row(name, *(f"{cell[kind]:,}" for kind in kinds), ratio)
    console.print(table)
    for kind in ("ineligible", "lost"):
        told = ", ".join(f"{reason} {count:,}" for reason, count in coverage[kind].items())
        console.print(Text(f"  {kind}: {told or 'none'}"), soft_wrap=True)


def _place(position: int, where: Mapping[int, tuple[str, float]]) -> str:
    """A position with the exchange that stands there, which `/pairs/ID` shows where its bodies were kept."""
    if position not in where:
        return f"position {position}"
    id, at_unix_s = where[position]
    at = datetime.fromtimestamp(at_unix_s, UTC).isoformat(sep=" ", timespec="seconds")
    return f"position {position} ({at}, exchange {id})"
