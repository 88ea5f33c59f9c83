"""What a person sees of the demo and of a verdict: one live table, one closing page."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from proxy.demo.stage import Stage
from proxy.demo.traffic import Tally

STYLE = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
SHOWN_REASONS = 6
WIDE_COLUMNS = 110


class LiveTable:
    """The budgets as they move. Quiet: nothing is drawn."""

    def __init__(self, console: Console, on: Stage, *, quiet: bool) -> None:
        self.phase = ""
        self.healthy: dict[str, Any] | None = None
        self._on = on
        self._width = console.width
        self._live = None if quiet else Live(console=console, refresh_per_second=4, transient=True)
        if self._live is not None:
            self._live.start()

    def close(self) -> None:
        """Takes the table away: what it last showed is printed below, once."""
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()
            self._live = None

    def show(self, answer: dict[str, Any], tally: Tally) -> None:
        """Draws one moment."""
        if self._live is None:
            return
        clients = Text.assemble(
            (f"{tally.sent}", "bold"),
            " requests   ",
            (f"{tally.client_errors}", "bold"),
            " client errors   ",
            (f"{tally.byte_mismatches}", "bold"),
            f" of {tally.compared} replies differ from the candidate's own bytes",
        )
        where = Text(
            f"clients  {self._on.relay_url}/v1\npage     {self._on.control_url}/\n"
            f"verdict  {self._on.control_url}/gate\nmetrics  {self._on.control_url}/metrics",
            style="dim",
        )
        parts: list[Any] = [where, clients, budget_table(answer, self._width), _verdict_line(answer)]
        if self.healthy is not None:
            parts.append(Text(f"before the fault: {self.healthy['verdict']}", style="dim"))
        self._live.update(Panel(Group(*parts), title=f"parity demo: {self.phase}", title_align="left"))


def print_verdict(console: Console, answer: dict[str, Any]) -> None:
    """Prints a verdict in the shape of `/gate` for a person."""
    console.print(budget_table(answer, console.width))
    console.print(_verdict_line(answer))
    further = answer["reasons"][1:]
    for reason in further[:SHOWN_REASONS]:
        console.print(Text(f"  · {reason}"))
    hidden = len(further) - SHOWN_REASONS
    if hidden > 0:
        console.print(Text(f"  and {hidden} more: --json shows all", style="dim"))
    diagnosis = answer["diagnosis"]
    if answer["verdict"] == "fail" and diagnosis["axis"] != "undetermined":
        console.print(Text(f"suspect: {diagnosis['axis']}; try {diagnosis['fix']}"))


def budget_table(answer: dict[str, Any], width: int) -> Table:
    """The budgets of a verdict, critical ones first; the e-values where `width` columns hold them."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("budget", "verdict"):
        table.add_column(column, no_wrap=True)
    wide = width >= WIDE_COLUMNS
    for column in ("pairs", "mean", "bound", "limit", "floor", *(("log10 e pass", "log10 e fail") if wide else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for name, budget in sorted(answer["budgets"].items(), key=lambda item: not item[1]["critical"]):
        cells = [str(budget["samples"]), *(_number(budget[key]) for key in ("value", "bound", "limit", "noise"))]
        if wide:
            cells += [_number(budget[key], "+.1f") for key in ("log10_e_promote", "log10_e_rollback")]
        label = Text(name, style="bold" if budget["critical"] else "")
        table.add_row(label, Text(budget["verdict"], style=STYLE[budget["verdict"]]), *cells)
    return table


def _verdict_line(answer: dict[str, Any]) -> Text:
    state = answer["verdict"]
    return Text.assemble(("verdict: ", "bold"), (state, STYLE[state]), f"   {answer['reason']}")


def _number(value: float | None, how: str = ".3g") -> str:
    return "-" if value is None else format(value, how)
