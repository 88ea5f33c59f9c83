"""Starts the relay workers and the monitor, restarts what ends, and drains them in order.

running    an ended child starts again after a pause that doubles up to a cap; a long run resets it.
           The monitor (not critical) is restarted for ever and never takes a relay down with it.
           Only when every relay worker has failed right after its start again and again: SupervisorError.
shutdown   SIGTERM to the relays, which drain; then to the monitor; SIGKILL to what stays past its time.
killed     children that called `die_with_parent` end when the supervisor is gone, however it went.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.errors import SupervisorError
from proxy.supervisor.child import SUPERVISED
from proxy.supervisor.printer import Printer

_LAST_LINES = 12  # *choice*: what an error tells of a child's stderr
_MAX_LINE_BYTES = 64 * 1024  # *choice*: a longer line is passed on in pieces
_PIPE_GRACE_S = 1.0  # *choice*: for a dead child's last output, whose pipe a grandchild may still hold


@dataclass(frozen=True, slots=True)
class Child:
    """One process. `critical`: a relay worker, stopped first; without any of them there is no service."""

    name: str
    argv: Sequence[str]
    critical: bool
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """When to restart, when to give up, how long to wait. Every number is a *choice*.

    Units:  seconds. `drain_timeout_s` holds for the relays together; it should exceed their own drain time.
    """

    first_pause_s: float = 0.25
    max_pause_s: float = 10.0
    settled_s: float = 10.0  # a child that ran so long did start well
    give_up_after: int = 5  # starts in a row that did not
    drain_timeout_s: float = 35.0
    monitor_timeout_s: float = 20.0  # with a stalled reference it takes about 10 s to write what was in work


async def supervise(
    children: Sequence[Child],
    shutdown: asyncio.Event,
    log: logging.Logger,
    *,
    on_ready: Callable[[str, dict[str, Any]], None] | None = None,
    policy: Policy = Policy(),
    output: Callable[[str], None] | None = None,
) -> int:
    """0 once `shutdown` was set and every child has ended by itself, 1 when one had to be killed.

    A child says that it is ready by a line of JSON on stdout with `"event": "listening"`: `on_ready(name, line)`
    is called, after every restart again. All else that children print goes to `output`, with their name; without
    one to stderr.

    Raises:  SupervisorError when no relay worker will stay up; all others are ended before.
    """
    printer = Printer(output)
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    keepers = [_Keeper(child, log, policy, printer, on_ready) for child in children]

    def judge() -> None:
        critical = [keeper for keeper in keepers if keeper.child.critical]
        if not failed.done() and critical and all(keeper.failures >= policy.give_up_after for keeper in critical):
            failed.set_result(critical[0].epitaph())

    tasks: list[asyncio.Future[Any]] = [keeper.start(judge) for keeper in keepers]
    stopped: asyncio.Future[Any] = asyncio.ensure_future(shutdown.wait())
    try:
        await asyncio.wait({stopped, failed, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        relays = [keeper for keeper in keepers if keeper.child.critical]
        others = [keeper for keeper in keepers if not keeper.child.critical]
        killed: list[bool] = []
        for group, timeout_s in ((relays, policy.drain_timeout_s), (others, policy.monitor_timeout_s)):
            killed += await asyncio.gather(*(keeper.stop(timeout_s) for keeper in group))
        await printer.close()
    if failed.done():
        raise SupervisorError(failed.result())
    return int(any(killed))


class _Keeper:
    """Keeps one child up until told to stop."""

    def __init__(
        self,
        child: Child,
        log: logging.Logger,
        policy: Policy,
        printer: Printer,
        on_ready: Callable[[str, dict[str, Any]], None] | None,
    ) -> None:
        self.child = child
        self.failures = 0  # starts in a row after which it did not stay up
        self._log = log
        self._policy = policy
        self._printer = printer
        self._on_ready = on_ready
        self._ended = "it was never started"
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, judge: Callable[[], None]) -> asyncio.Task[None]:
        """The task that keeps the child up, and ends after `stop`; `judge` is called after each of the child's ends."""
        self._task = asyncio.get_running_loop().create_task(self._keep(judge), name=f"keep {self.child.name}")
        return self._task

    async def stop(self, timeout_s: float) -> bool:
        """True when it had to be killed. The child is gone."""
        if self._task is None:
            return False
        self._stopping.set()
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self._task}, timeout=timeout_s)
        if not done:
            self._log.warning("%s did not end within %g s: killed", self.child.name, timeout_s)
            self._signal(signal.SIGKILL)
            await asyncio.wait({self._task})
        self._task.result()  # a fault of ours is not to pass in silence
        return not done

    def epitaph(self) -> str:
        """Why it will not stay up, for a person."""
        told = "".join(f"\n    {line}" for line in self._last_lines) or " (it wrote nothing to stderr)"
        return (
            f"{self.child.name} does not stay up: {self._ended}, {self.failures} times in a row within "
            f"{self._policy.settled_s:g} s of its start. Its last lines:{told}"
        )

    async def _keep(self, judge: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            self._ended = await self._run_once()
            if self._stopping.is_set():
                return
            settled = loop.time() - started >= self._policy.settled_s
            self.failures = 0 if settled else self.failures + 1
            pause_s = min(self._policy.first_pause_s * 2 ** max(0, self.failures - 1), self._policy.max_pause_s)
            self._log.warning("%s ended (%s); starting it again in %g s", self.child.name, self._ended, pause_s)
            judge()
            try:
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            except TimeoutError:
                pass

    async def _run_once(self) -> str:
        """How it ended."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.child.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **self.child.env, SUPERVISED: str(os.getpid())},
                start_new_session=True,  # a terminal's Ctrl-C comes to us alone: the order of the drain is ours
            )
        except OSError as error:
            self._last_lines.append(f"{self.child.argv[0]}: {error.strerror or error}")
            return "it cannot be started"
        self._process = process
        if self._stopping.is_set():  # stop() came while it was being started
            self._signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            asyncio.ensure_future(self._read(process.stdout, self._take_stdout)),
            asyncio.ensure_future(self._read(process.stderr, self._take_stderr)),
        ]
        code = await process.wait()
        self._process = None
        _, late = await asyncio.wait(readers, timeout=_PIPE_GRACE_S)
        for reader in late:
            reader.cancel()
        return f"killed: {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            pass  # it ended at this moment; that is all we wanted

    async def _read(self, stream: asyncio.StreamReader, take: Callable[[str], None]) -> None:
        """Each line as it comes, for ever read on, so that no child ever waits for us."""
        held = b""
        while data := await stream.read(_MAX_LINE_BYTES):
            *lines, held = (held + data).split(b"\n")
            if len(held) > _MAX_LINE_BYTES:
                lines, held = [*lines, held], b""
            for line in lines:
                take(line.decode(errors="replace"))
        if held:
            take(held.decode(errors="replace"))

    def _take_stderr(self, line: str) -> None:
        self._last_lines.append(line)
        self._printer.put(f"[{self.child.name}] {line}\n")

    def _take_stdout(self, line: str) -> None:
        info = _listening(line)
        if info is None:
            self._printer.put(f"[{self.child.name}] {line}\n")
        elif self._on_ready is not None:
            try:
                self._on_ready(self.child.name, info)
            except Exception:  # noqa: BLE001 - see below
                # The child's output must be read on, whatever a listener does: else the child would wait for us.
                self._log.exception("%s is ready, and a listener failed on it", self.child.name)


def _listening(line: str) -> dict[str, Any] | None:
    """The announcement in a line, or None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        info = json.loads(line)
    except ValueError:
        return None
    return info if isinstance(info, dict) and info.get("event") == "listening" else None
