"""Prints what children print, without ever making anybody wait."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable

MAX_HELD_LINES = 4096  # *choice*: past it, lines are dropped and counted
_CLOSE_S = 1.0  # *choice*


class Printer:
    """Prints lines from a thread: a stalled terminal or log collector loses lines, and stalls nobody."""

    def __init__(self, output: Callable[[str], None] | None = None) -> None:
        self._output = output or _to_stderr
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_HELD_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="printer", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Never waits; where lines had to be dropped, their number is printed."""
        try:
            if self._dropped:
                self._lines.put_nowait(f"[supervisor] {self._dropped} lines were dropped here\n")
                self._dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    async def close(self) -> None:
        """What is held is printed, if the output takes it within a second."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        await asyncio.to_thread(self._thread.join, _CLOSE_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._output(line)
            except (OSError, ValueError):
                return  # closed: nobody reads any more, and lines are dropped once the queue is full


def _to_stderr(line: str) -> None:
    # Not sys.stderr: a thread that hangs in it holds its lock, on which the interpreter's exit would abort.
    os.write(2, line.encode(errors="replace"))
