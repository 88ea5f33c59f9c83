"""`kill -9` of the monitor, fifty times under load: clients do not notice, and the ledger stays the truth.

What is acknowledged, exactly: the relay numbers what it samples; the feed acknowledges an event when the monitor has
taken it into memory; the ledger has a row when `append` returned. So a kill may take acknowledged exchanges with it.
None may vanish: each number that a relay gave out ends in exactly one row, and what a kill took is a lost row, which
counts against a promotion.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.scripted import Script, ScriptedServer
from tests.integration.inertness_corpus import corpus
from tests.integration.kill_rig import Nursed, Nursery, Survivor, nursery
from tests.integration.system_rig import DEADLINE_S, Caller, Program, program, until, write_settings
from tests.integration.traffic_rig import Traffic, answers, ask, traffic

KILLS = 50
CALM_REQUESTS = 40
SEED = 20261124
# What a kill swallowed holds the order until it is late: with the default of 10 s, monitors that live for a second
# would never write at all.
HASTE, CALM = "timeout_s = 0.5\nlate_after_s = 0.6\n", "timeout_s = 10.0\nlate_after_s = 20.0\n"
MIRROR = f"""
[mirror]
{HASTE}
concurrency = 4
breaker_failures = 1000
noise_rate = 0.3
replay_rate = 0.5
needle_rate = 0.3
"""


@dataclass
class Deaths:
    """The moments of the kills, and what was seen before each."""

    nursed: Nursery
    wal: Path
    chance: random.Random
    shown: dict[str, Any] | None = None
    counted: asyncio.Event = field(default_factory=asyncio.Event)
    codes: Counter[int] = field(default_factory=Counter)

    async def one(self, kind: str) -> None:
        """One monitor from its start to its end."""
        monitor = await self.nursed.start()
        moment: Callable[[Nursed], Awaitable[None]] = getattr(self, kind)
        await moment(monitor)
        self.codes[await self.nursed.kill()] += 1

    async def starting(self, monitor: Nursed) -> None:
        """Anywhere between its first line and its first rows."""
        await asyncio.sleep(self.chance.uniform(0.0, 0.4))

    async def working(self, monitor: Nursed) -> None:
        """At any time of its work."""
        await self._watched(monitor, asyncio.sleep(self.chance.uniform(0.2, 1.5)))

    async def writing(self, monitor: Nursed) -> None:
        """As it writes: at some growth of the write-ahead log."""
        await self._watched(monitor, self._growths(self.chance.randint(1, 4)))

    async def counting(self, monitor: Nursed) -> None:
        """As it takes in what it wrote: as soon as `/gate` tells of more."""
        await self._watched(monitor, self._counts(self.chance.randint(1, 3)))

    async def leaving(self, monitor: Nursed) -> None:
        """In its drain, or just after."""
        await self._watched(monitor, asyncio.sleep(self.chance.uniform(0.4, 1.2)))
        monitor.tell(signal.SIGTERM)
        await asyncio.sleep(self.chance.uniform(0.0, 0.3))

    async def _watched(self, monitor: Nursed, moment: Awaitable[None]) -> None:
        watching = asyncio.ensure_future(self._watch(await monitor.listening()))
        try:
            await moment
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, port: int) -> None:
        """Keeps the latest answer of `/gate`."""
        caller = Caller(port)
        with contextlib.suppress(ConnectionError):
            while True:
                gate = await ask(caller, "/gate")
                if gate["coverage"]["sampled"] > (self.shown["coverage"]["sampled"] if self.shown else 0):
                    self.shown = gate
                    self.counted.set()
                await asyncio.sleep(0.003)

    async def _growths(self, number: int) -> None:
        for _ in range(number):
            before = self._wal_state()
            await until(lambda before=before: self._wal_state() != before)  # type: ignore[misc]

    async def _counts(self, number: int) -> None:
        for _ in range(number):
            self.counted.clear()
            await asyncio.wait_for(self.counted.wait(), DEADLINE_S)

    def _wal_state(self) -> tuple[int, int]:
        try:
            found = self.wal.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_size, found.st_mtime_ns


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_fifty_kills_under_load_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    asyncio.run(_run(tmp_path))


async def _run(folder: Path) -> None:
    script = Script(fresh_sampling=False, faults={"tool_argument": 0.02})
    async with ScriptedServer(script) as candidate, ScriptedServer(Script(fresh_sampling=False)) as reference:
        config = write_settings(folder, candidate.url, reference.url, rate=1.0, more=MIRROR)
        survivor = Survivor(folder / "ledger.sqlite")
        async with program("relay", config) as relay, traffic(relay.port, candidate) as sent:
            async with nursery(config) as nursed:
                await _kill(nursed, folder, survivor, sent)
            await sent.stop()
            config.write_text(config.read_text().replace(HASTE, CALM))
            async with program("monitor", config) as monitor:
                await _settle(monitor, relay, sent)
                await _check(folder, monitor, relay, sent, survivor)


async def _kill(nursed: Nursery, folder: Path, survivor: Survivor, sent: Traffic) -> None:
    chance = random.Random(SEED)
    deaths = Deaths(nursed, folder / "ledger.sqlite-wal", chance)
    await deaths.one("working")  # so that there is a ledger to survive
    kinds = ["starting"] * 10 + ["working"] * 9 + ["writing"] * 10 + ["counting"] * 10 + ["leaving"] * 10
    for kind in chance.sample(kinds, KILLS - 1):
        before = len(survivor.rows)
        await deaths.one(kind)
        await asyncio.to_thread(survivor.read)
        if deaths.shown is not None:
            assert await asyncio.to_thread(survivor.contradicts, deaths.shown) == {}, kind
        sent.check()
        print(f"{kind:>8}: {len(survivor.rows) - before} rows")
    print(deaths.codes, len(survivor.rows))
    assert deaths.codes[-signal.SIGKILL] >= KILLS - 5, deaths.codes  # a drain may have been over before its kill
    assert set(deaths.codes) <= {-signal.SIGKILL, 0}, (deaths.codes, nursed.errors)
    assert not any("Traceback" in line for line in nursed.errors), nursed.errors


async def _settle(monitor: Program, relay: Program, sent: Traffic) -> None:
    """The last monitor has a row of everything, and of some more that nothing has hindered."""
    control, client = Caller(monitor.port), Caller(relay.port)
    await answers(control, "/readyz", lambda told: all(told["conditions"].values()))
    before, number = sent.sampled, 0
    while sent.sampled < before + CALM_REQUESTS:
        await sent.one(client, number)
        number += 1
    await answers(control, "/gate", lambda told: told["coverage"]["sampled"] >= sent.sampled, 40.0)
    await answers(control, "/state", lambda told: not (told["order"]["unreleased"] + told["ledger"]["waiting_rows"]))


async def _check(folder: Path, monitor: Program, relay: Program, sent: Traffic, survivor: Survivor) -> None:
    caller = Caller(monitor.port)
    gate = await ask(caller, "/gate")
    words = (sys.executable, "-m", "proxy.cli", "verdict", str(folder / "ledger.sqlite"), "--json")
    alone = await asyncio.to_thread(subprocess.run, words, capture_output=True, check=True)
    assert orjson.loads(alone.stdout) == gate

    survivor.read()
    assert survivor.again() == survivor.rows  # nothing that had been read was changed later
    assert survivor.contradicts(gate) == {}
    live = [row for row in survivor.rows if row.kind == "live"]
    assert {row.worker.rpartition("-")[0] for row in live} == {f"0-{relay.pid}"}
    assert sorted(row.sequence for row in live) == list(range(sent.sampled))
    ids = Counter(row.id for row in live if row.id)
    assert [id for id, number in ids.items() if number > 1] == []
    positions = [row.position for row in survivor.rows]
    assert positions == sorted(set(positions))

    unseen = [row for row in live if not row.id]
    assert {(row.disposition, row.reason) for row in unseen} == {("lost", "late")}  # what the kills took
    assert sum(row.disposition == "scored" for row in live) > sent.sampled / 4
    calm = sorted(live, key=lambda row: row.sequence)[-CALM_REQUESTS:]
    assert not any(row.disposition == "lost" for row in calm)
    print(f"{len(survivor.rows)} rows, {sent.sampled} sampled of {sent.served} served, {len(unseen)} taken by kills")
    print(Counter((row.disposition, row.reason) for row in live))


@pytest.mark.asyncio
async def test_what_a_kill_took_is_counted_though_no_request_follows(tmp_path: Path) -> None:
    async with ScriptedServer() as candidate, ScriptedServer() as reference:
        config = write_settings(tmp_path, candidate.url, reference.url, rate=1.0, more=MIRROR.replace(HASTE, CALM))
        async with program("relay", config) as relay:
            async with program("monitor", config) as monitor:
                control, client = Caller(monitor.port), Caller(relay.port)
                await answers(control, "/readyz", lambda told: all(told["conditions"].values()))
                reference.set_fault("stall", 1.0)
                for raw in corpus()[3:6]:
                    await client.send(raw)
                await answers(control, "/state", lambda told: told["feed"]["events"] == 6)  # marks and exchanges
                monitor.kill()
                await monitor.process.wait()
            reference.set_fault("stall", 0.0)
            config.write_text(config.read_text().replace(CALM, HASTE))
            async with program("monitor", config) as monitor:
                gate = await answers(Caller(monitor.port), "/gate", lambda told: told["coverage"]["sampled"] >= 3)
                assert gate["coverage"]["lost"] == {"late": 3}
