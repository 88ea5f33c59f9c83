"""200,000 requests through `parity serve` with the mirror at work: what grows, and what does not.

    python -m tests.bench.long_run [--requests 200000] [--out docs/bench/long_run.json]

An open loop of 1,500 requests a second, every tenth of which is mirrored and scored. After each block: resident memory
and open files of relay and monitor, the clients' latency, the ledger's size. What must stay flat is compared between
the second quarter of the run and the last; the ledger holds a row for each mirrored request, until its bounds prune it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import uvloop

from tests.bench.relay import proxies
from tests.bench.relay.canned import Canned, listening
from tests.bench.relay.load import open_loop, requests
from tests.bench.relay.peers import LOAD_CORE, pin, started
from tests.bench.relay.proxies import Proxy
from tests.bench.relay.scenarios import quantile

BLOCK = 5_000
CONNECTIONS = 32
RATE = 1_500.0
MAX_GROWTH = {"relay_mb": 0.05, "monitor_mb": 0.10, "relay_files": 0.05, "monitor_files": 0.10}
MAX_ROW_BYTES = 2_000  # *choice*: with the bodies of the kept hundredth


@dataclass(frozen=True, slots=True)
class Sample:
    """After so many requests. Units: MB of 10**6 bytes, milliseconds."""

    requests: int
    relay_mb: float
    monitor_mb: float
    relay_files: int
    monitor_files: int
    p50_ms: float
    p99_ms: float
    ledger_mb: float
    errors: int


async def run(total: int) -> dict[str, Any]:
    """All samples, and what became of the mirrored requests."""
    pin(LOAD_CORE)
    samples = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        candidate = await listening(stack, Canned())
        reference = await listening(stack, Canned())
        more = "[mirror]\nconcurrency = 16\n"
        serving = await started(
            stack, proxies.relay, candidate, folder, None,
            name="serve", command="serve", rate=0.1, reference=reference, more=more,
        )  # fmt: skip
        await proxies.watching(serving)
        messages = requests(1024)
        for number in range(0, total, BLOCK):
            seen = await open_loop(serving.port, messages, CONNECTIONS, BLOCK, RATE)
            samples.append(
                _sample(serving, folder / "serve" / "ledger.sqlite", number + BLOCK, seen.latencies_s, seen.errors)
            )
            print(samples[-1], flush=True)
        coverage = await _coverage(serving)
    return {"samples": [asdict(sample) for sample in samples], "coverage": coverage}


def _sample(serving: Proxy, ledger: Path, sent: int, latencies_s: Sequence[float], errors: int) -> Sample:
    relay, monitor = _pid(serving, b"relay"), _pid(serving, b"monitor")
    size = sum(path.stat().st_size for path in ledger.parent.glob(ledger.name + "*"))
    return Sample(
        requests=sent,
        relay_mb=_rss_mb(relay),
        monitor_mb=_rss_mb(monitor),
        relay_files=len(list(Path(f"/proc/{relay}/fd").iterdir())),
        monitor_files=len(list(Path(f"/proc/{monitor}/fd").iterdir())),
        p50_ms=round(quantile(latencies_s, 0.5) * 1e3, 3),
        p99_ms=round(quantile(latencies_s, 0.99) * 1e3, 3),
        ledger_mb=round(size / 1e6, 2),
        errors=errors,
    )


def _pid(serving: Proxy, word: bytes) -> int:
    return next(pid for pid in serving.pids() if word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


async def _coverage(serving: Proxy) -> dict[str, Any]:
    deadline_s, before = time.monotonic() + 60, -1
    async with httpx.AsyncClient(timeout=30) as http:
        while True:
            coverage = (await http.get(f"http://127.0.0.1:{serving.control_port}/gate")).json()["coverage"]
            if coverage["sampled"] == before or time.monotonic() > deadline_s:
                return {name: coverage[name] for name in ("sampled", "scored", "lost", "ineligible")}
            before = coverage["sampled"]
            await asyncio.sleep(1.0)


def growth(samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How much each figure grew from the second quarter to the last, as a share."""
    quarter = len(samples) // 4
    found = {}
    for name in (*MAX_GROWTH, "p50_ms", "p99_ms"):
        early = statistics.median(sample[name] for sample in samples[quarter : 2 * quarter])
        late = statistics.median(sample[name] for sample in samples[-quarter:])
        found[name] = round(late / early - 1, 3)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all that must be flat was, and no request failed, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/long_run.json"))
    given = parser.parse_args(arguments)
    found = uvloop.run(run(given.requests))
    grown = growth(found["samples"])
    errors = sum(sample["errors"] for sample in found["samples"])
    row_bytes = found["samples"][-1]["ledger_mb"] * 1e6 / max(1, found["coverage"]["sampled"])
    kept = not errors and row_bytes < MAX_ROW_BYTES and all(grown[name] <= most for name, most in MAX_GROWTH.items())
    told = {
        "command": f"python -m tests.bench.long_run --requests {given.requests}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "kept": kept,
        "growth_second_to_last_quarter": grown,
        "ledger_bytes_per_mirrored_request": round(row_bytes),
        "errors": errors,
        **found,
    }
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"{'kept' if kept else 'BROKEN'}: {grown}, {errors} errors, {found['coverage']}; written to {given.out}")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
