"""Small requests while bodies of 1 MB pass through the same worker, both ways, and are captured.

Through three arms, each with and without the large exchanges: the candidate itself, a relay that mirrors nothing, and
one that mirrors everything to the feed. One process is all clients and the candidate, so large bodies hold up the small
requests there too: what the worker adds is what lies beyond that, and is told as (relay - direct) with them less
(relay - direct) without. Whatever reads the feed is a process of its own, of the lowest priority.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.bench.relay import proxies
from tests.bench.relay.canned import Canned, asked_tokens, json_reply, listening
from tests.bench.relay.load import Seen, open_loop, requests
from tests.bench.relay.peers import LOAD_CORE, PROXY_CORE, drained_feed, pin, started
from tests.bench.relay.proxies import Proxy, settled
from tests.bench.relay.scenarios import KIB, quantile, spread

SMALL_RATE, SMALL_CONNECTIONS = 200.0, 8
LARGE_RATE, LARGE_CONNECTIONS = 10.0, 2  # exchanges/s of 1 MB each way: 20 MB/s
ROUND_S = 4.0
SHARES = {"p50_ms": 0.5, "p99_ms": 0.99, "slowest_ms": 1.0}
LOADS = ("small alone", "beside 1 MB bodies")
_LARGE_TOKENS = 1  # the ordinary ask for 9
_LARGE_REPLY = json_reply(b'{"choices":[{"message":{"content":"%b"}}]}' % (b"x" * KIB * KIB))
Rounds = dict[str, dict[str, list[Seen]]]  # arm -> load -> one for each round


class Answering(Canned):
    """Answers with 1 MB whoever asks for one token."""

    def reply(self, body: bytes) -> bytes:
        return _LARGE_REPLY if asked_tokens(body) == _LARGE_TOKENS else super().reply(body)


async def run(rounds: int, seed: int = 19, seconds: float = ROUND_S) -> dict[str, Any]:
    """All rounds under the key `large_bodies`, JSON-ready."""
    draw = random.Random(seed)
    pin(LOAD_CORE)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        candidate = await listening(stack, Answering())
        up = [Proxy("direct", candidate)]
        for name, rate in (("relay, nothing mirrored", 0.0), ("relay, all mirrored", 1.0)):
            up.append(
                await started(
                    stack, proxies.relay, candidate, folder, PROXY_CORE, name=name, rate=rate, large_rate=rate
                )
            )
            stack.callback(_end, await asyncio.to_thread(_reading, folder / name))
        found: Rounds = {proxy.name: {load: [] for load in LOADS} for proxy in up}
        large_errors = dict.fromkeys(found, 0)
        for number in range(rounds + 1):  # the first one warms up
            for proxy in draw.sample(up, len(up)):
                for load in draw.sample(LOADS, len(LOADS)):
                    small, large = await _sent(proxy, load, seconds)
                    if number:
                        found[proxy.name][load].append(small)
                        large_errors[proxy.name] += large
            print(f"large bodies, round {number} of {rounds}", flush=True)
    return {"large_bodies": told(found, large_errors)}


def large_requests() -> list[bytes]:
    """Of 1 MB, and answered with 1 MB."""
    asking = b'"max_tokens":%d}' % _LARGE_TOKENS
    return [message.replace(b'"max_tokens":9}', asking) for message in requests(KIB * KIB)]


async def _sent(proxy: Proxy, load: str, seconds: float) -> tuple[Seen, int]:
    """What the small requests' clients saw, and how many of the large exchanges failed."""
    await settled(proxy)
    small = open_loop(proxy.port, requests(KIB), SMALL_CONNECTIONS, int(SMALL_RATE * seconds), SMALL_RATE)
    if load == LOADS[0]:
        return await small, 0
    large = open_loop(proxy.port, large_requests(), LARGE_CONNECTIONS, int(LARGE_RATE * seconds), LARGE_RATE)
    seen, beside = await asyncio.gather(small, large)
    return seen, beside.errors


def told(found: Rounds, large_errors: Mapping[str, int]) -> dict[str, Any]:
    """Latencies of the small requests, and what the mirroring relay adds to them because of the large ones.

    Units:  milliseconds.
    """
    by_round = {
        arm: {
            load: {name: [quantile(one.latencies_s, share) * 1e3 for one in seen] for name, share in SHARES.items()}
            for load, seen in loads.items()
        }
        for arm, loads in found.items()
    }
    direct, mirrored = by_round["direct"], by_round["relay, all mirrored"]
    alone, beside = LOADS
    return {
        "arms": {
            arm: {load: {name: spread(values) for name, values in of.items()} for load, of in loads.items()}
            for arm, loads in by_round.items()
        },
        "added_by_large": {
            name: spread(
                [
                    (with_large - base_with) - (without - base_without)
                    for with_large, base_with, without, base_without in zip(
                        mirrored[beside][name],
                        direct[beside][name],
                        mirrored[alone][name],
                        direct[alone][name],
                        strict=True,
                    )
                ]
            )
            for name in SHARES
        },
        "errors": {
            arm: sum(one.errors for seen in loads.values() for one in seen) + large_errors[arm]
            for arm, loads in found.items()
        },
    }


def _reading(folder: Path) -> subprocess.Popen[bytes]:
    """A process that takes what the feed brings, once it listens."""
    argv = [sys.executable, "-m", "tests.bench.relay.large", str(folder)]
    process = subprocess.Popen(argv, cwd=proxies.ROOT)
    deadline_s = time.monotonic() + proxies.START_S
    while not (folder / "feed.sock").exists():
        assert process.poll() is None, "whatever reads the feed ended"
        assert time.monotonic() < deadline_s, "nobody reads the feed"
        time.sleep(0.05)  # polling a process that starts, bounded by the deadline
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


async def _read(folder: Path) -> None:
    os.nice(19)  # it shares the load's core, and what it takes of that is not the worker's
    os.sched_setaffinity(0, {LOAD_CORE} if (os.cpu_count() or 1) > 1 else {0})
    async with AsyncExitStack() as stack:
        await drained_feed(stack, folder)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_read(Path(sys.argv[1])))
