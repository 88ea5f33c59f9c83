"""How much memory relay and monitor hold while the reference is stalled, over many requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from backends.scripted.traffic import sent
from tests.integration.quick_candidate import quick_candidate
from tests.integration.system_rig import Caller, program, stalled, write_settings

CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """What was held after so many requests. Units: bytes."""

    requests: int
    relay_bytes: int
    monitor_bytes: int


def requests_of_all_kinds(count: int) -> list[bytes]:
    """Raw requests as production sends them: 1 to 30 KB each, all of them mirrored."""
    made = []
    for one in islice(sent(7), count):
        body = orjson.dumps(one.body)
        head = f"POST {one.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        made.append(head.encode() + b"\r\n\r\n" + body)
    return made


async def measure(folder: Path, *, requests: int, samples: int, more: str = "") -> list[Sample]:
    """Samples evenly spread over the run, all requests mirrored to a reference that never answers."""
    async with quick_candidate() as candidate, stalled() as reference:
        config = write_settings(folder, candidate, reference, rate=1.0, more=more)
        async with program("monitor", config) as monitor, program("relay", config) as relay:
            await _resumed(monitor.port)  # it waits ten seconds for the reference to tell its version
            corpus = requests_of_all_kinds(200)
            step = requests // samples
            taken = []
            for number in range(1, samples + 1):
                await _send(relay.port, corpus, step)
                taken.append(Sample(number * step, relay.rss_bytes(), monitor.rss_bytes()))
            monitor.kill()  # to leave in order would take ten seconds
            return taken


def growth(samples: list[Sample], *, after: float) -> tuple[int, int]:
    """How much more relay and monitor held at their highest than at their highest before. Units: bytes.

    Before: the second half of what the share `after` covers. Peak against peak, because what one sample happens to see
    in flight, on a busy machine most of all, is no growth.
    """
    middle = int(len(samples) * after)
    before, rest = samples[middle // 2 : middle], samples[middle:]
    relay = max(sample.relay_bytes for sample in rest) - max(sample.relay_bytes for sample in before)
    monitor = max(sample.monitor_bytes for sample in rest) - max(sample.monitor_bytes for sample in before)
    return relay, monitor


async def _resumed(port: int) -> None:
    caller = Caller(port)
    async with asyncio.timeout(60):
        while True:
            answer = await caller.send(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            if b'"resumed":true' in answer.body.replace(b" ", b""):
                break
            await asyncio.sleep(0.1)
    await caller.aclose()


async def _send(port: int, corpus: list[bytes], count: int) -> None:
    waiting = iter(range(count))

    async def client() -> None:
        caller = Caller(port)
        for number in waiting:
            answer = await caller.send(corpus[number % len(corpus)])
            assert answer.status == 200
        await caller.aclose()

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
