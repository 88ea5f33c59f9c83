"""What watching costs the clients: the mirror off, at 10 %, at 100 %, and at 100 % with a reference that stalls.

Each arm is `parity serve` as it is run, before one candidate; all are up at once and take turns. A second arm without
a mirror tells the run's own noise. The relay has a core for itself; its monitor shares the other with the load, at a
lower priority, so that a monitor which took time from the clients would show.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.bench.relay import proxies
from tests.bench.relay.canned import Canned, listening
from tests.bench.relay.peers import LOAD_CORE, PROXY_CORE, pin, started
from tests.bench.relay.proxies import Proxy
from tests.bench.relay.scenarios import Figures, Scenario, measured, spread

STREAMS = Scenario("streams", 32, 32, pace_ms=10)
REQUESTS = Scenario("requests", 32, 300, rate=200.0)
SETTLE_S = 60.0
MORE = """
[mirror]
concurrency = 16
timeout_s = 20.0
late_after_s = 60.0
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """How much is mirrored, and whether the reference answers."""

    name: str
    rate: float
    stalled: bool = False


ARMS = (Arm("off", 0.0), Arm("off_again", 0.0), Arm("10", 0.1), Arm("100", 1.0), Arm("stalled", 1.0, stalled=True))


async def run(rounds: int, seed: int = 11) -> dict[str, Any]:
    """All rounds; ratios to the arm without a mirror, JSON-ready."""
    draw = random.Random(seed)
    pin(LOAD_CORE)
    with tempfile.TemporaryDirectory() as name:
        async with AsyncExitStack() as stack:
            candidate = await listening(stack, Canned())
            reference = await listening(stack, Canned())
            stalled, stalls = await _stalled()
            stack.callback(stalled.close)
            direct, up = Proxy("direct", candidate), {}
            for arm in ARMS:
                up[arm.name] = await started(
                    stack, proxies.relay, candidate, Path(name), None, name=arm.name,
                    command="serve", rate=arm.rate, reference=stalls if arm.stalled else reference, more=MORE,
                )  # fmt: skip
                placed(up[arm.name])
                await proxies.watching(up[arm.name])
            for proxy in up.values():
                await measured(proxy, STREAMS, slow=False, only="relay")
            streams: dict[str, list[Figures]] = {name: [] for name in ("direct", *up)}
            requests: dict[str, list[Figures]] = {name: [] for name in ("direct", *up)}
            for number in range(rounds):
                for proxy in draw.sample([direct, *up.values()], len(up) + 1):
                    streams[proxy.name].append(await measured(proxy, STREAMS, slow=False, only="relay"))
                    requests[proxy.name].append(await measured(proxy, REQUESTS, slow=False, only="relay"))
                    await _caught_up(proxy)
                print(f"mirror, round {number + 1} of {rounds}: " + _line(streams), flush=True)
            scored = {name: await _scored(proxy) for name, proxy in up.items()}
    return _told(streams, requests, scored)


def _told(
    streams: dict[str, list[Figures]], requests: dict[str, list[Figures]], scored: dict[str, dict[str, float]]
) -> dict[str, Any]:
    found = {}
    for arm in ("off_again", "10", "100", "stalled"):
        found[arm] = {
            "cpu_per_chunk_ratio": spread(_cpu(streams, arm)),
            "latency_p99_ratio": spread(_p99(streams, arm)),
            "cpu_per_request_ratio": spread(_cpu(requests, arm)),
            "request_latency_p99_ratio": spread(_p99(requests, arm)),
            "errors": sum(run.errors for run in (*streams[arm], *requests[arm])),
            "monitor": scored[arm.replace("off-again", "off_again")] if arm != "off-again" else {},
        }
    found["off"] = {
        "cpu_per_chunk_us": spread([run.cpu_us for run in streams["off"]]),
        "latency_p99_ms": spread([run.p99_ms for run in streams["off"]]),
        "added_p99_ms": spread(
            [run.p99_ms - base.p99_ms for run, base in zip(streams["off"], streams["direct"], strict=True)]
        ),
        "errors": sum(run.errors for run in (*streams["off"], *requests["off"])),
    }
    return {"mirror_arms": found}


def placed(proxy: Proxy) -> None:
    """The relay alone on its core; its monitor and supervisor with the load."""
    for pid in proxy.pids():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        core = PROXY_CORE if b"relay" in words else LOAD_CORE
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


async def _stalled() -> tuple[asyncio.Server, int]:
    """A reference that takes connections and never answers."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    return server, int(server.sockets[0].getsockname()[1])


async def _caught_up(proxy: Proxy) -> None:
    """Returns once the monitor has no work left, so that it does not disturb the next arm."""
    if not proxy.control_port:
        return
    deadline_s = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline_s:
        before_s = proxy.cpu_s("monitor")
        await asyncio.sleep(0.25)
        if proxy.cpu_s("monitor") - before_s < 0.02:
            return


async def _scored(proxy: Proxy) -> dict[str, float]:
    async with httpx.AsyncClient(timeout=10) as http:
        gate = (await http.get(f"http://127.0.0.1:{proxy.control_port}/gate")).json()
    coverage = gate["coverage"]
    return {name: coverage[name] for name in ("sampled", "scored", "lost") if isinstance(coverage.get(name), int)}


def _cpu(found: dict[str, list[Figures]], arm: str) -> list[float]:
    return [one.cpu_us / off.cpu_us for one, off in zip(found[arm], found["off"], strict=True)]


def _p99(found: dict[str, list[Figures]], arm: str) -> list[float]:
    """Of what a client waits for, candidate included: the added part alone is too near nothing to divide by."""
    return [one.p99_ms / off.p99_ms for one, off in zip(found[arm], found["off"], strict=True)]


def _line(streams: dict[str, list[Figures]]) -> str:
    return ", ".join(f"{arm} {runs[-1].cpu_us:.1f} us, p99 {runs[-1].p99_ms:.2f} ms" for arm, runs in streams.items())
