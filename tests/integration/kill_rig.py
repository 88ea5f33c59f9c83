"""Monitors by the dozen, to be killed: real `parity monitor` processes, forked from one that has imported everything.

A start from nothing is a second of imports, which no kill can harm; fifty of them would be most of a test. The nursery
forks before anything of a monitor exists, so each child runs the command from its first line on.

async with nursery(config) as nursed:
    monitor = await nursed.start()
    await monitor.listening()
    assert await nursed.kill() == -signal.SIGKILL
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.rows import LedgerRow
from proxy.monitor.standing import Standing
from proxy.monitor.watch import read_gate
from scorers.judge import EvidenceState
from tests.integration.system_rig import DEADLINE_S

_NURSERY = """
import json, os, sys
from proxy import cli
pid = 0
for line in sys.stdin:
    if line == "start\\n":
        pid = os.fork()
        if pid == 0:
            sys.argv = ["parity", "monitor", "--config", sys.argv[1], "--log-level", "warning"]
            cli.main()
        print(json.dumps({"event": "started", "pid": pid}), flush=True)
    else:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"event": "ended", "code": code}), flush=True)
"""


@dataclass
class Nursed:
    """One monitor. It is reaped by `Nursery.kill` alone, so its pid is its own until then."""

    pid: int
    port: asyncio.Future[int]

    async def listening(self) -> int:
        """Its control port, once it listens there."""
        return await asyncio.wait_for(asyncio.shield(self.port), DEADLINE_S)

    def tell(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@dataclass
class Nursery:
    """The process that forks: one monitor at a time. `errors` is what all of them wrote to stderr."""

    process: asyncio.subprocess.Process
    errors: list[str] = field(default_factory=list)
    _monitor: Nursed | None = None
    _port: asyncio.Future[int] | None = None
    _told: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    async def start(self) -> Nursed:
        """A new monitor, at its very beginning."""
        assert self._monitor is None, "one at a time"
        self._port = asyncio.get_running_loop().create_future()
        self._monitor = Nursed((await self._ask("start"))["pid"], self._port)
        return self._monitor

    async def kill(self) -> int:
        """Kills the monitor. The exit code it ended with: minus the signal's number, or its own when it was quicker."""
        assert self._monitor is not None
        self._monitor.tell(signal.SIGKILL)
        code: int = (await self._ask("wait"))["code"]
        self._monitor = None
        return code

    async def listen(self) -> None:
        """Takes what the nursery and its monitors say, until they are gone."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            told = orjson.loads(line)
            if told["event"] != "listening":
                self._told.put_nowait(told)
            elif self._port is not None and not self._port.done():
                self._port.set_result(told["port"])

    async def collect(self) -> None:
        """Keeps what they write to stderr."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.errors.append(line.decode(errors="replace"))

    async def _ask(self, word: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(word.encode() + b"\n")
        return await asyncio.wait_for(self._told.get(), DEADLINE_S)


@contextlib.asynccontextmanager
async def nursery(config: Path) -> AsyncIterator[Nursery]:
    """A nursery for monitors of that settings file; it and its last monitor are gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _NURSERY, str(config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    nursed = Nursery(process)
    reading = [asyncio.ensure_future(nursed.listen()), asyncio.ensure_future(nursed.collect())]
    try:
        yield nursed
    finally:
        if nursed._monitor is not None:
            nursed._monitor.tell(signal.SIGKILL)
        process.kill()
        await process.wait()
        await asyncio.gather(*reading)


class Survivor:
    """The ledger after each kill: what it held before it still holds, and evidence is a fold over its beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._standing: Standing | None = None
        self._folded = 0
        self.rows: list[LedgerRow] = []

    def read(self) -> None:
        """Reads what was added. Fails when positions do not rise."""
        reader = open_read_only(self._path)
        last = self.rows[-1].position if self.rows else -1
        for row in reader.rows(1, after=last):
            assert row.position > last, f"position {row.position} after {last}"
            self.rows.append(row)
            last = row.position

    def contradicts(self, gate: dict[str, Any]) -> dict[str, Any]:
        """What in this answer of `/gate` is not, to the last bit, what the first rows give. Ask in rising order."""
        standing = self._fresh() if self._standing is None else self._standing
        self._standing, nearest = standing, {}
        while (found := _plain(standing)) != gate:
            if found["coverage"]["sampled"] == gate["coverage"]["sampled"]:
                nearest = {key: (gate[key], found.get(key)) for key in gate if gate[key] != found.get(key)}
            if self._folded == len(self.rows):
                return nearest or gate
            standing.fold(self.rows[self._folded : self._folded + 1])
            self._folded += 1
        return {}

    def again(self) -> list[LedgerRow]:
        """All rows, read anew from the first."""
        return list(open_read_only(self._path).rows(1))

    def _fresh(self) -> Standing:
        reader = open_read_only(self._path)
        (opening,), latest = reader.epoch_openings(), reader.latest_epoch()
        assert latest is not None
        budgets, rules = read_gate(latest[1])
        standing = Standing(str(latest[1]["recipe"]), lambda: EvidenceState(budgets, rules))
        standing.begin(opening, latest[1])
        return standing


def _plain(standing: Standing) -> Any:
    return orjson.loads(orjson.dumps(standing.verdict(()).as_dict()))
