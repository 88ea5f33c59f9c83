"""The launch as it runs: what is shown while engines start, what they serve once ready, and how it ended."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import httpx
from rich.console import Console
from rich.status import Status
from rich.text import Text

from proxy.errors import LaunchError
from proxy.launch_command.causes import cause, error_lines
from proxy.launch_command.engine import Engine
from proxy.launch_command.machine import hold_port
from proxy.launch_command.plan import Launch
from proxy.launch_command.printed import url_of
from proxy.launch_command.program import Program
from proxy.launch_command.served import see, warnings
from proxy.launch_command.watch import Progress, Watched, watch

LINES_READ = 400  # *choice*: tracebacks of three processes
MAX_SHOWN = 300  # *choice*, characters of one line


def run(
    launch: Launch, program: Program, logs: Path, ready_timeout_s: float, err: Console, announce: Callable[[], None]
) -> bool:
    """Whether it ended because it was told to, after every engine had been ready. `announce` is called at that moment.

    Raises:  LaunchError when an engine cannot be started, ended by itself, or was not ready in time.
    """
    for one in launch.commands:
        hold_port(one.side, one.host, one.port)
    engines = [
        Engine(one.side, one.argv(program.words), one.environment, url_of(one), logs / f"{one.side}.log")
        for one in launch.commands
    ]

    shown = _Shown(err)

    async def on_ready() -> None:
        shown.done()
        async with httpx.AsyncClient(trust_env=False) as http:
            seen = [
                await see(one, engine.url, engine.log, http)
                for one, engine in zip(launch.commands, engines, strict=True)
            ]
        for told in warnings(launch.commands, seen):
            err.print(Text.assemble(("warning", "bold yellow"), " ", told), soft_wrap=True)
        announce()

    with shown, asyncio.Runner() as runner:
        ended = runner.run(_until_told(engines, launch.one_by_one, ready_timeout_s, on_ready, shown))
    if ended.killed:
        told = f"{' and '.join(ended.killed)} did not end in time: killed"
        err.print(Text.assemble(("warning", "bold yellow"), " ", told), soft_wrap=True)
    if ended.engine is not None:
        raise LaunchError(_epitaph(ended, ended.engine, ready_timeout_s))
    return ended.ready


async def _until_told(
    engines: Sequence[Engine],
    one_by_one: bool,
    ready_timeout_s: float,
    on_ready: Callable[[], Awaitable[None]],
    progress: Progress,
) -> Watched:
    shutdown, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, shutdown.set)
    return await watch(
        engines, shutdown, one_by_one=one_by_one, ready_timeout_s=ready_timeout_s, on_ready=on_ready, progress=progress
    )


def _epitaph(ended: Watched, engine: Engine, ready_timeout_s: float) -> str:
    """Why the launch is over, for a person: the cause, the last lines that tell of it, the log, the fix."""
    lines = engine.tail(LINES_READ)
    known = cause(lines, ended.code)
    if ended.outcome == "late":
        what = f"the {engine.side} was not ready in {ready_timeout_s:g} s"
        known, shown = None, lines[-3:]
    else:
        when = "after it had been ready" if ended.ready else "before it was ready"
        what = f"the {engine.side} ended {when}, {_code(ended.code)}"
        shown = error_lines(lines)
    told = [what + (f": {known.what}" if known else "")]
    told += [f"    {line[:MAX_SHOWN]}" for line in shown]
    told.append(f"  -> {known.fix}" if known else "  -> the cause is not a known one: see the log")
    return "\n".join([*told, f"  log: {engine.log}"])


def _code(code: int | None) -> str:
    number = (code or 0) - 128
    if number in {one.value for one in signal.Signals}:
        return f"killed by {signal.Signals(number).name}"
    return f"exit code {code}"


class _Shown(Progress):
    """One line that changes on a terminal; elsewhere a line at each start and each end."""

    def __init__(self, err: Console) -> None:
        self._err = err
        self._status: Status | None = err.status("starting") if err.is_terminal else None

    def __enter__(self) -> _Shown:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done()

    def done(self) -> None:
        """No line changes any more."""
        if self._status is not None:
            self._status.stop()

    def started(self, engine: Engine) -> None:
        self._say(f"{engine.side}: started, process {engine.pid}, log {engine.log}")
        self._say(f"  {' '.join(_environment(engine))}{shlex.join(engine.argv)}", style="dim")

    def waiting(self, engines: Sequence[Engine]) -> None:
        if self._status is None:
            return
        now = asyncio.get_running_loop().time()
        told = Text("\n").join(
            Text(f"{one.side} {now - one.started_s:.0f} s: {(one.tail(1) or ['(no line yet)'])[0]}")[
                : self._err.width - 4
            ]
            for one in engines
        )
        self._status.update(told)

    def became_ready(self, engine: Engine) -> None:
        took = asyncio.get_running_loop().time() - engine.started_s
        self._say(f"{engine.side}: ready after {took:.0f} s at {engine.url}")

    def _say(self, line: str, style: str = "") -> None:
        self._err.print(Text(line, style=style), soft_wrap=True)


def _environment(engine: Engine) -> list[str]:
    return [f"{name}={shlex.quote(value)} " for name, value in engine.environment.items()]
