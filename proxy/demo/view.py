"""What a person sees of the demo while it runs: one live table."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from proxy.demo.stage import Stage
from proxy.demo.traffic import Tally
from proxy.report.view import budget_table, verdict_line


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

    async def waits_for_key(self, prompt: str, seconds: float) -> None:
        """Returns when Enter is pressed, or after so many seconds; the table says what is waited for."""
        loop, pressed = asyncio.get_running_loop(), asyncio.Event()
        phase, self.phase = self.phase, f"{prompt} (or wait {seconds:.0f} s)"
        loop.add_reader(sys.stdin, pressed.set)
        try:
            async with asyncio.timeout(seconds):
                await pressed.wait()
            sys.stdin.readline()
        except TimeoutError:
            pass  # nobody is there: the demo goes on by itself
        finally:
            loop.remove_reader(sys.stdin)
            self.phase = phase

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
        parts: list[Any] = [where, clients, budget_table(answer, self._width), verdict_line(answer)]
        if self.healthy is not None:
            parts.append(Text(f"before the damage: {self.healthy['verdict']}", style="dim"))
        self._live.update(Panel(Group(*parts), title=f"parity demo: {self.phase}", title_align="left"))
