"""A verdict in the shape of `/gate`, for a person: one short page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.report.plan import Plan, duration

STYLE = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
SHOWN_REASONS = 6
WIDE_COLUMNS = 110


def print_verdict(console: Console, answer: Mapping[str, Any]) -> None:
    """Prints a verdict in the shape of `/gate` for a person."""
    console.print(budget_table(answer, console.width))
    console.print(verdict_line(answer))
    further = answer["reasons"][1:]
    for reason in further[:SHOWN_REASONS]:
        console.print(Text(f"  · {reason}"))
    hidden = len(further) - SHOWN_REASONS
    if hidden > 0:
        console.print(Text(f"  and {hidden} more: --json shows all", style="dim"))
    console.print(contract_line(answer), soft_wrap=True)
    diagnosis = answer["diagnosis"]
    if answer["verdict"] == "fail" and diagnosis["axis"] != "undetermined":
        console.print(Text(f"suspect: {diagnosis['axis']}; try {diagnosis['fix']}"))


def budget_table(answer: Mapping[str, Any], width: int) -> Table:
    """The budgets of a verdict, critical ones first; the e-values where `width` columns hold them."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("budget", "verdict"):
        table.add_column(column, no_wrap=True)
    wide = width >= WIDE_COLUMNS
    for column in ("pairs", "mean", "bound", "limit", "floor", *(("log10 e pass", "log10 e fail") if wide else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for name, budget in sorted(answer["budgets"].items(), key=lambda item: not item[1]["critical"]):
        cells = [str(budget["samples"]), *(number(budget[key]) for key in ("value", "bound", "limit", "noise"))]
        if wide:
            cells += [number(budget[key], "+.1f") for key in ("log10_e_promote", "log10_e_rollback")]
        label = Text(name, style="bold" if budget["critical"] else "")
        table.add_row(label, Text(budget["verdict"], style=STYLE[budget["verdict"]]), *cells)
    return table


def plan_table(plan: Plan) -> Table:
    """What each budget needs before it can pass."""
    least = "" if plan.measured else "at least "
    title = "budgets, and what each needs to pass when its mean is half its limit and the noise floor as high"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("score", "limit", "noise limit", "", "apart by", "pairs", "noise pairs", "requests", "time"):
        table.add_column(column, no_wrap=True)
    for need in plan.needs:
        budget = need.budget
        noise = f"{budget.noise_multiple:g} x floor + {budget.slack:g}" if budget.bounded else "none"
        requests = "never" if need.requests is None else f"{least}{need.requests:,.0f}"
        table.add_row(
            budget.name,
            f"{budget.limit:g}",
            noise,
            "critical" if budget.critical else "",
            ", ".join(budget.strata),
            "never" if need.pairs is None else f"{need.pairs:,}",
            "none asked" if not budget.bounded else "never" if need.noise_pairs is None else f"{need.noise_pairs:,}",
            requests + (" per stratum" if budget.strata and need.requests is not None else ""),
            "-" if need.seconds is None else least + duration(need.seconds),
        )
    return table


def verdict_line(answer: Mapping[str, Any]) -> Text:
    """The state and its first reason."""
    state = answer["verdict"]
    return Text.assemble(("verdict: ", "bold"), (state, STYLE[state]), f"   {answer['reason']}")


def contract_line(answer: Mapping[str, Any]) -> Text:
    """Which two engines the verdict is about, and since when; empty before the ledger was read."""
    contract = answer["contract"]
    if not contract:
        return Text()
    arms = [f"{side} {_arm(contract[side])}" for side in ("candidate", "reference")]
    since = datetime.fromtimestamp(contract["opened_unix_s"], UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    epoch = f"epoch {answer['epoch']} since {since} UTC"
    pin = contract.get("pin")
    pinned = f"; pinned by {pin['file']}, seal {pin['seal']}" if pin else ""
    return Text(f"about: {', '.join(arms)}; prompt tokens {contract['prompt_tokens']}{pinned}; {epoch}", style="dim")


def _arm(arm: Mapping[str, Any]) -> str:
    known = [arm["model"] or "of an unknown model"]
    known += [f"{word} {arm[key]}" for word, key in (("on", "engine_version"), ("weights", "weights")) if arm[key]]
    return " ".join(known)


def number(value: float | None, how: str = ".3g") -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, how)
