"""What a second engine costs the relay: CPU per request without [rollout], with fail-over, and in the middle of a step.

    python -m tests.bench.relay_arms [--out docs/bench/relay_arms.json] [--runs 9] [--base OTHER_CHECKOUT]

The relay's own code between two transports in memory: no kernel, so that a tenth of a microsecond can be seen. Each run
is a process of its own and tells its best 1,000 requests of 60,000; a kind's figure is the median of its runs, and the
noise their spread. `--base` measures another checkout's relay beside this one's: before and after a change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPEATS, REQUESTS = 60, 1000
KINDS = ("plain", "fail-over", "mid-step")
STEPS = {"steps": [{"share": 0.5}, {"share": 1.0}], "sticky": ["x-session-id"]}


def one_run(kind: str) -> float:
    """The least CPU per request. Units: microseconds."""
    from proxy.metrics import RelayCounters
    from proxy.relay.candidate import CandidateConnection, CandidatePool
    from proxy.relay.capture import Tee
    from proxy.relay.client import ClientConnection
    from proxy.relay.worker import Worker
    from tests.integration.relay_rig import Feed, chat, settings_for
    from tests.unit.test_relay_flight import Transport

    relay, tables = ({"failover": "reference"} if kind == "fail-over" else {}), {}
    if kind == "mid-step":
        tables["rollout"] = STEPS
    settings, counters, more = settings_for("http://candidate:1", relay, **tables), RelayCounters(), {}
    pools = [CandidatePool(url, settings.relay) for url in ("http://candidate:1", "http://reference:2")]
    if kind != "plain":
        from proxy.exchange import Order, Phase
        from proxy.relay.arms import Arms

        more["arms"] = Arms(settings, (pools[0], pools[1]), b"salt")
        if kind == "mid-step":
            more["arms"].follow(Order(0.5, Phase.STEPPING, 1))
    tee = Tee(settings, worker="w", feed=Feed(), counters=counters, salt=b"")
    client = ClientConnection(Worker(settings.relay, pool=pools[0], tee=tee, counters=counters, **more))
    client.connection_made(Transport())
    engines = []
    for pool in pools:
        engine = CandidateConnection(pool)
        engine.connection_made(Transport())
        pool.put(engine, 1e12)
        engines.append(engine)
    request = chat(b"x" * 900, b"Authorization: Bearer sk-1", b"X-Session-Id: s7", b"User-Agent: OpenAI/Python")
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    client.data_received(request)
    serving = next(engine for engine in engines if engine._taker is not None)  # the arm of this client
    serving.data_received(reply)
    best_s = 1e9
    for _ in range(REPEATS):
        began_s = time.process_time()
        for _ in range(REQUESTS):
            client.data_received(request)
            serving.data_received(reply)
        best_s = min(best_s, time.process_time() - began_s)
    return best_s / REQUESTS * 1e6


def measured(runs: int, base: Path | None) -> dict[str, list[float]]:
    """Every run's figure, by kind; the kinds take turns. Units: microseconds."""
    here = Path(__file__).resolve().parents[2]
    kinds = {**({"base": ("plain", base.resolve())} if base else {}), **{kind: (kind, here) for kind in KINDS}}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(runs):
        for name, (kind, checkout) in kinds.items():
            argv = [sys.executable, __file__, "--kind", kind]
            env = {**os.environ, "PYTHONPATH": str(checkout)}
            found[name].append(float(subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when what nobody asked for costs nothing beyond the noise, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/relay_arms.json"))
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--base", type=Path, default=None)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.kind:

        async def run() -> None:
            print(one_run(given.kind))

        asyncio.run(run())
        return 0
    found = measured(given.runs, given.base)
    medians = {kind: statistics.median(runs) for kind, runs in found.items()}
    noise_us = max(statistics.quantiles(found["plain"], n=4)) - min(statistics.quantiles(found["plain"], n=4))
    for kind, us in medians.items():
        print(f"{kind:>10}: {us:5.2f} us of CPU per request, {us - medians['plain']:+5.2f}")
    print(f"{'noise':>10}: {noise_us:5.2f} us (between quartiles)")
    told: dict[str, Any] = {
        "command": f"python -m tests.bench.relay_arms --runs {given.runs}" + (" --base BEFORE" if given.base else ""),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "us_per_request": {kind: round(us, 2) for kind, us in medians.items()},
        "noise_us": round(noise_us, 2),
        "runs_us": {kind: [round(us, 2) for us in runs] for kind, runs in found.items()},
    }
    given.out.write_text(json.dumps(told, indent=1) + "\n")
    return int("base" in medians and medians["plain"] - medians["base"] > noise_us)


if __name__ == "__main__":
    sys.exit(main())
