"""Many workers on one port: what a request costs with 1, 2, 4 and 8 of them, who gets the connections, what is counted.

The workers share one core and the load has the other, so requests/s can say nothing here. CPU can: each arm, `parity
serve` with so many workers, stands beside as many relays that share no port and no supervisor, only a monitor like the
arm's own, under the same load. Processes that take turns on one core cost each other their caches either way; what a
port, a lock or a counter shared by all would cost shows in the ratio of the two, and would grow with each worker.
"""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.bench.relay import proxies
from tests.bench.relay.canned import Canned, listening
from tests.bench.relay.load import Seen, closed_loop, requests
from tests.bench.relay.mirror import placed
from tests.bench.relay.peers import LOAD_CORE, PROXY_CORE, pin, sleepless, started
from tests.bench.relay.proxies import Proxy, settled
from tests.bench.relay.scenarios import spread

NUMBERS = (1, 2, 4, 8)
CONNECTIONS_EACH = 16
REQUESTS = 12_000  # of a round, all workers together: under a second
SAMPLED = 0.002  # tee and feed are at work, and scoring leaves the load its core
COUNTED_S = 60.0
STEADY_S = 2.5  # a sum that stays so long is whole: the workers send theirs each second
IDLE_S = 3.0
_SERVED = 'parity_relay_requests_total{route="chat_completions",status_class="2xx"}'
_TOSSED = ("parity_relay_sampled_total", "parity_relay_not_sampled_total")
_WORKERS = "parity_relay_workers"
_ESTABLISHED = "01"  # proc(5), /proc/net/tcp


@dataclass(slots=True)
class Arm:
    """So many workers behind one port, and what was found of them and of as many relays apart."""

    proxy: Proxy
    workers: list[int]  # their process ids
    before: Counter[str]  # what the metrics said before the first request
    sent: int = 0
    errors: int = 0
    cpu_us: list[float] = field(default_factory=list)  # a request, by round
    apart_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    connections: list[list[int]] = field(default_factory=list)  # of each worker, by round


async def run(rounds: int, seed: int = 13, numbers: Sequence[int] = NUMBERS, total: int = REQUESTS) -> dict[str, Any]:
    """All rounds under the key `workers`, JSON-ready."""
    draw = random.Random(seed)
    pin(LOAD_CORE)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        candidate = await listening(stack, Canned())
        reference = await listening(stack, Canned())
        apart = await _alone(stack, max(numbers), candidate, reference, folder)
        arms = [await _up(stack, number, candidate, reference, folder) for number in numbers]
        idle = [await _idle_ms(arm) for arm in arms]
        stack.callback(sleepless().set)
        for arm in arms:
            held = await _together(arm, max(1, total // 4), measured=False)
            await _apart(apart[: len(held)], held, max(1, total // 4))
        for number in range(rounds):
            for arm in draw.sample(arms, len(arms)):
                # The kernel spreads connections by chance, so the relays apart get as many each as the workers got.
                held, others = await _together(arm, total), apart[: len(arm.workers)]
                arm.apart_us.append(await _apart(others, held, total))
            print(f"workers, round {number + 1} of {rounds}: {_line(arms)}", flush=True)
        counted = [await _counted(arm) for arm in arms]
    return {"workers": told(arms, counted, idle)}


async def _alone(stack: AsyncExitStack, number: int, candidate: int, reference: int, folder: Path) -> list[Proxy]:
    """So many relays apart, whose feeds lead to one monitor."""
    monitor = await started(
        stack, proxies.relay, candidate, folder, LOAD_CORE,
        name="apart", command="monitor", rate=SAMPLED, reference=reference,
    )  # fmt: skip
    names = [f"apart-{n}" for n in range(number)]
    relays = [
        await started(stack, proxies.relay, candidate, folder, PROXY_CORE, name=name, rate=SAMPLED) for name in names
    ]
    for name in names:
        (folder / name / "feed.sock").symlink_to(folder / "apart" / "feed.sock")
    await _connected(monitor, number)
    await proxies.watching(monitor)
    return relays


async def _up(stack: AsyncExitStack, number: int, candidate: int, reference: int, folder: Path) -> Arm:
    proxy = await started(
        stack, proxies.relay, candidate, folder, None,
        name=f"workers-{number}", command="serve", workers=number, rate=SAMPLED, reference=reference,
    )  # fmt: skip
    await proxies.watching(proxy)
    before = await _connected(proxy, number)
    placed(proxy)
    workers = _running(proxy, b"relay")
    assert len(workers) == number, workers
    return Arm(proxy, workers, before)


async def _connected(proxy: Proxy, number: int) -> Counter[str]:
    """What the metrics say once so many workers have found the monitor."""
    deadline_s = time.monotonic() + proxies.START_S
    while (now := await _metrics(proxy))[_WORKERS] < number:
        assert time.monotonic() < deadline_s, f"of {number} workers {now[_WORKERS]} came up"
        await asyncio.sleep(0.1)  # polling processes that start, bounded by the deadline
    return now


def _running(proxy: Proxy, word: bytes) -> list[int]:
    return [pid for pid in proxy.pids() if word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]


async def _together(arm: Arm, total: int, *, measured: bool = True) -> list[int]:
    """The load on one port; how many of its connections each worker got."""
    connections = CONNECTIONS_EACH * len(arm.workers)
    await settled(arm.proxy)
    before_s = arm.proxy.cpu_s("relay")
    sending = asyncio.ensure_future(closed_loop(arm.proxy.port, requests(1024), connections, total))
    held = await _held(arm, connections, sending)
    seen = await sending
    cpu_us = (arm.proxy.cpu_s("relay") - before_s) / total * 1e6
    arm.sent += total
    arm.errors += seen.errors
    if measured:
        arm.cpu_us.append(cpu_us)
        arm.connections.append(held)
        arm.per_second.append(total / seen.took_s)
    return held


async def _apart(relays: Sequence[Proxy], connections: Sequence[int], total: int) -> float:
    """CPU of a request over so many connections to each, all relays added up. Units: microseconds."""
    for relay in relays:
        await settled(relay)
    shares = [total * number // sum(connections) for number in connections]
    before_s = sum(relay.cpu_s() for relay in relays)
    await asyncio.gather(
        *(
            closed_loop(relay.port, requests(1024), number, share)
            for relay, number, share in zip(relays, connections, shares, strict=True)
            if number
        )
    )
    return (sum(relay.cpu_s() for relay in relays) - before_s) / sum(shares) * 1e6


async def _held(arm: Arm, connections: int, sending: asyncio.Future[Seen]) -> list[int]:
    """How many of the connections each worker has, once they have all been accepted."""
    while True:
        held = _held_now(arm)
        if sum(held) >= connections or sending.done():
            return held
        await asyncio.sleep(0.02)  # polling the kernel's table, for as long as the load runs


def _held_now(arm: Arm) -> list[int]:
    """By the system's own tables: connections to the port, and whose descriptors they are."""
    port = f":{arm.proxy.port:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(port) and row[3] == _ESTABLISHED}
    return [len(_sockets(pid) & inodes) for pid in arm.workers]


def _sockets(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except OSError:
            continue  # closed meanwhile
        if name.startswith("socket:["):
            found.add(name[8:-1])
    return found


async def _idle_ms(arm: Arm) -> float:
    """CPU that one worker takes in a second without a request. Units: milliseconds."""
    await settled(arm.proxy)
    before_s, began_s = arm.proxy.cpu_s("relay"), time.monotonic()
    await asyncio.sleep(IDLE_S)
    return (arm.proxy.cpu_s("relay") - before_s) / (time.monotonic() - began_s) / len(arm.workers) * 1e3


async def _counted(arm: Arm) -> dict[str, int]:
    """What the metrics endpoint has counted since the first request, all workers added up, once it stays as it is."""
    deadline_s, since_s, last = time.monotonic() + COUNTED_S, time.monotonic(), Counter[str]()
    while (now_s := time.monotonic()) < deadline_s and now_s - since_s < STEADY_S:
        now = await _metrics(arm.proxy)
        if now != last:
            since_s, last = now_s, now
        await asyncio.sleep(0.25)
    return {
        "requests": last[_SERVED] - arm.before[_SERVED],
        "sampled_or_not": sum(last[name] - arm.before[name] for name in _TOSSED),
    }


async def _metrics(proxy: Proxy) -> Counter[str]:
    async with httpx.AsyncClient(timeout=10) as http:
        text = (await http.get(f"http://127.0.0.1:{proxy.control_port}/metrics")).text
    wanted, found = (_SERVED, *_TOSSED, _WORKERS), re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)
    return Counter({name: int(float(value)) for name, value in found if name in wanted})


def told(arms: Sequence[Arm], counted: Sequence[dict[str, int]], idle_ms: Sequence[float]) -> dict[str, Any]:
    """The figures of each number of workers; ratios are taken within a round, with their spread."""
    alone = arms[0]
    return {
        str(len(arm.workers)): {
            "cpu_per_request_us": spread(arm.cpu_us),
            "apart_cpu_per_request_us": spread(arm.apart_us),
            "over_apart": spread(_over(arm.cpu_us, arm.apart_us)),
            "over_one_worker": spread(_over(arm.cpu_us, alone.cpu_us)),
            "per_second": spread(arm.per_second),
            "connections_each": CONNECTIONS_EACH,
            "connections_least": spread([min(held) for held in arm.connections]),
            "connections_most": spread([max(held) for held in arm.connections]),
            "without_a_connection": sum(held.count(0) for held in arm.connections),
            "idle_ms_per_s": round(idle, 2),
            "sent": arm.sent,
            "counted": found,
            "errors": arm.errors,
        }
        for arm, found, idle in zip(arms, counted, idle_ms, strict=True)
    }


def _over(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    return [value / base for value, base in zip(values, bases, strict=True)]


def _line(arms: Sequence[Arm]) -> str:
    parts = (f"{len(arm.workers)}: {arm.cpu_us[-1]:.1f} ({arm.apart_us[-1]:.1f} apart)" for arm in arms)
    return ", ".join(parts) + " us of CPU a request"
