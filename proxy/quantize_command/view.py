"""What people see of `parity quantize`: the plan, a bar, the card."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from backends.checkpoints.planned import Plan
from backends.recipes.recipe import Recipe


class Progress:
    """Phases and how far each is: bars on a terminal, else one line a phase. Any thread may call `advance`."""

    def __init__(self, err: Console) -> None:
        self._err = err
        self._lock = threading.Lock()
        self._task: TaskID | None = None
        columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=err) if err.is_terminal else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._end()
            self._bar.stop()

    def phase(self, name: str, total: int | None) -> None:
        """What is done next; without a total the bar swings until `at` gives one."""
        if self._bar is None:
            self._err.print(Text(name), soft_wrap=True)
            return
        with self._lock:
            self._end()
            self._task = self._bar.add_task(name, total=total)

    def advance(self, count: int) -> None:
        """That much more is done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, count)

    def at(self, done: int, total: int) -> None:
        """So much is done of so much."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """A sentence that should be known."""
        self._err.print(Text.assemble(("note: ", "bold yellow"), text), soft_wrap=True)

    def _end(self) -> None:
        """A phase that gave no count ends as done."""
        if self._bar is not None and self._task is not None:
            task = self._bar.tasks[self._task]
            total = task.total if task.total is not None else 1
            self._bar.update(self._task, completed=total, total=total)


def show_plan(out: Console, recipe: Recipe, plan: Plan) -> None:
    """What would be done, as the tool takes it."""
    out.print(Text.assemble((recipe.name, "bold"), f"  by {plan.tool}"), soft_wrap=True)
    for axis, told in recipe.axes().items():
        out.print(Text(f"  {axis:12} {told}"), soft_wrap=True)
    for number, one in enumerate(plan.modifiers, 1):
        out.print(Text(f"\n{number}. {one.name}", style="bold"))
        out.print(Text(json.dumps(dict(one.arguments), indent=2)), soft_wrap=True)
    out.print(Text(f"\ncalibration: {'needed' if plan.calibrated else 'none'}"))
    for note in plan.notes:
        out.print(Text.assemble(("note: ", "bold cyan"), note), soft_wrap=True)


def show_card(out: Console, told: Mapping[str, Any], place: object) -> None:
    """What came out, in five lines."""
    size, calibration = told["size"], told["calibration"]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_row("checkpoint", Text(str(place), overflow="fold"))
    table.add_row(
        "weight files",
        f"{size['weight_bytes_before']:,} to {size['weight_bytes_after']:,} bytes (x{size['ratio']:.2f}), "
        f"{size['bits_per_weight_after']:.2f} bits a weight",
    )
    if calibration["source"] != "none":
        strata = ", ".join(f"{name} {count}" for name, count in calibration["strata"].items())
        table.add_row(
            "calibration", f"{calibration['samples']} prompts, {calibration['tokens']:,} tokens from a "
            f"{calibration['source']} ({strata})",
        )  # fmt: skip
    table.add_row("made by", ", ".join(f"{name} {version}" for name, version in told["tools"].items()))
    table.add_row("seconds", f"{told['seconds']:,.1f}")
    out.print(table)
