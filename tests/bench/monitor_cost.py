"""What watching costs the monitor: CPU of a scored pair, and how many it scores on one core with the ledger on disk.

    python -m tests.bench.monitor_cost [--out docs/bench/monitor_cost.json] [--seconds 10]

Pairs of 256 tokens with top 20 and a tool call (`monitor_pairs`). First in this process: plan, decoding and scoring,
each kind of pair in turn, the median of the rounds. Then `parity monitor` as a process of its own, pinned to one core:
fed over its socket as a relay feeds it, with a reference that answers at once; what it scores and what it loses at
each rate, and how long its control port took to answer meanwhile. Bodies of 1 MB: `tests.bench.monitor_large`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import uvloop

from backends.base import Reply
from proxy.exchange import Sampled
from proxy.feed import UnixFeedSender
from proxy.metrics import RelayCounters
from proxy.monitor.allocator import keep_freed_memory
from proxy.monitor.evaluate import Evaluator, Heard, Keeping, mismatch_rule
from proxy.monitor.mirror import Answer, Answers
from proxy.monitor.plan import Coins, Plan, plan
from proxy.monitor.redact import redactor
from proxy.settings import FeedSettings, Settings
from proxy.settings_file import load_settings
from scorers.catalogue import SPECS, scorers
from tests.bench.monitor_pairs import PairBytes, exchange, pairs
from tests.bench.relay import proxies
from tests.bench.relay.canned import Canned, listening
from tests.bench.relay.peers import LOAD_CORE, PROXY_CORE, pin, started
from tests.bench.relay.proxies import Proxy
from tests.bench.relay.scenarios import spread

MAX_PAIR_MS = 1.5
WANTED_PER_SECOND = 500
RATES = (100, 250, 500, 750)
KINDS = {
    "both arms' replies with top 20": (True, False),
    "the client's stream and the reference's reply": (False, True),
    "the client's stream and both": (True, True),
}
MORE = """
[mirror]
concurrency = 32
noise_rate = 0.0
replay_rate = 0.0
needle_rate = 0.0
"""


def pair_costs(rounds: int) -> dict[str, Any]:
    """CPU of one pair from its bytes to its scores, by what there is to read. Units: milliseconds."""
    with tempfile.TemporaryDirectory() as name:
        settings = _settings(Path(name))
    keeping = Keeping(mismatch_rule({"tool_call_mismatch": 0.03}), True, settings.ledger.max_body_bytes, redactor(()))
    evaluator = Evaluator(scorers(), keeping)
    many = pairs(20)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind, (replayed, greedy) in KINDS.items():
            began_s = time.process_time()
            for pair in many:
                _evaluated(evaluator, settings, pair, number, replayed=replayed, greedy=greedy)
            found[kind].append((time.process_time() - began_s) / len(many) * 1e3)
    return {kind: spread(values) for kind, values in found.items()}


def _evaluated(
    evaluator: Evaluator, settings: Settings, pair: PairBytes, number: int, *, replayed: bool, greedy: bool
) -> None:
    seen = exchange(pair, number, "w")
    if not greedy:
        object.__setattr__(seen, "request_body", pair.request.replace(b'"temperature":0', b'"temperature":1'))
    planned = plan(seen, Coins(replay=replayed, noise=False, teacher_forced=False, needle=False, keep=False), settings)
    assert isinstance(planned, Plan), planned
    answers = Answers(reference=_answer(pair.reference), replay=_answer(pair.candidate) if replayed else None)
    scored = evaluator.evaluate(planned, Heard(answers))
    assert any(row.name == "logprob_kl" and row.value is not None for row in scored.scores) or not replayed
    assert any(row.name == "tool_call_mismatch" and row.value is not None for row in scored.scores)


def _answer(body: bytes) -> Answer:
    return Answer(reply=Reply(200, "application/json", body, 0.1), status=200)


def _settings(folder: Path) -> Settings:
    config = folder / "parity.toml"
    values = {"candidate": 1, "reference": 2, "port": 0, "control": 0, "workers": 1, "rate": 1.0, "large_rate": 1.0}
    config.write_text(proxies.RELAY.format(**values, folder=folder, more=MORE))
    return load_settings(config, {}, SPECS).settings


async def sustained(seconds: float, rates: Sequence[int]) -> dict[str, Any]:
    """What one monitor on one core makes of each rate."""
    pin(LOAD_CORE)
    many = pairs(50)
    told: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        reference = await listening(stack, Canned([pair.reference for pair in many]))
        candidate = await listening(stack, Canned())
        monitor = await started(
            stack, proxies.relay, candidate, Path(name), PROXY_CORE, name="monitor",
            command="monitor", rate=1.0, reference=reference, more=MORE,
        )  # fmt: skip
        feed = FeedSettings(socket=Path(name) / "monitor" / "feed.sock")
        sender = UnixFeedSender(feed, worker="bench", stats=RelayCounters().snapshot)
        await sender.start()
        stack.push_async_callback(sender.aclose, 2.0)
        sequence = 0
        await proxies.watching(monitor)
        for rate in (rates[0], *rates):  # the first one warms up
            before, cpu_s = await coverage(monitor), monitor.cpu_s()
            began_s = time.monotonic()
            total = int(rate * seconds)
            late_s = asyncio.ensure_future(_answers_late(monitor))
            for number in range(total):
                offer(sender, many[number % len(many)], sequence)
                sequence += 1
                if (ahead_s := began_s + number / rate - time.monotonic()) > 0.001:
                    await asyncio.sleep(ahead_s)
            offered_s = time.monotonic() - began_s
            cpu_s = monitor.cpu_s() - cpu_s
            at_end = await coverage(monitor)
            after = await _settled(monitor, before["sampled"] + total)
            late_s.cancel()
            told[str(rate)] = {
                "offered_per_second": round(total / offered_s, 1),
                "scored_per_second": round((at_end["scored"] - before["scored"]) / offered_s, 1),
                "lost": after["lost"] - before["lost"],
                "core_used": round(cpu_s / offered_s, 3),
                "cpu_ms_per_pair": round(cpu_s / max(1, at_end["scored"] - before["scored"]) * 1e3, 3),
                "rss_mb": round(monitor.rss_bytes() / 1e6),
                "slowest_answer_ms": round(max(_LATE, default=0.0) * 1e3, 1),
            }
            _LATE.clear()
            print(rate, told[str(rate)], flush=True)
        told["ledger_mb"] = round((Path(name) / "monitor" / "ledger.sqlite").stat().st_size / 1e6, 1)
    return told


_LATE: list[float] = []


async def _answers_late(monitor: Proxy) -> None:
    """How long the control port takes to answer, asked ten times a second: what else the monitor could not do."""
    async with httpx.AsyncClient(timeout=30) as http:
        while True:
            began_s = time.monotonic()
            await http.get(f"http://127.0.0.1:{monitor.control_port}/healthz")
            _LATE.append(time.monotonic() - began_s)
            await asyncio.sleep(0.1)


def offer(sender: UnixFeedSender, pair: PairBytes, sequence: int) -> None:
    """The pair goes over the feed as a relay's worker sends it: its mark, then the exchange."""
    seen = exchange(pair, sequence, "bench")
    sender.offer(Sampled(seen.id, seen.worker, seen.sequence, seen.at_unix_s))
    sender.offer(seen)


async def coverage(monitor: Proxy) -> dict[str, int]:
    """What became of all that was offered so far."""
    async with httpx.AsyncClient(timeout=30) as http:
        gate = (await http.get(f"http://127.0.0.1:{monitor.control_port}/gate")).json()
    told = gate["coverage"]
    return {"sampled": told["sampled"], "scored": told["scored"], "lost": told["sampled"] - told["scored"]}


async def _settled(monitor: Proxy, sampled: int) -> dict[str, int]:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        found = await coverage(monitor)
        if found["sampled"] >= sampled:
            return found
        await asyncio.sleep(0.1)
    return await coverage(monitor)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the promises hold in the median, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/monitor_cost.json"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args(arguments)
    given_back = pair_costs(given.rounds)  # first: what follows cannot be undone in a process
    keep_freed_memory()  # as the monitor does
    costs = pair_costs(given.rounds)
    for kind, figure in costs.items():
        print(f"{kind}: {figure['median']:.2f} ms ({figure['low']:.2f} to {figure['high']:.2f})", flush=True)
    rates = uvloop.run(sustained(given.seconds, RATES))
    pair_ms = costs["both arms' replies with top 20"]["median"]
    wanted = rates[str(WANTED_PER_SECOND)]
    kept = {
        f"a pair in at most {MAX_PAIR_MS} ms": pair_ms <= MAX_PAIR_MS,
        f"{WANTED_PER_SECOND} pairs/s on one core": wanted["lost"] == 0 and wanted["scored_per_second"] > 490,
    }
    told = {
        "command": f"python -m tests.bench.monitor_cost --rounds {given.rounds} --seconds {given.seconds:g}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "pair_ms": costs,
        "pair_ms_if_memory_is_given_back": given_back,
        "monitor_on_one_core": rates,
        "kept": kept,
    }
    if given.out.exists():  # monitor_large has its own key there
        told |= {name: value for name, value in json.loads(given.out.read_text()).items() if name not in told}
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    for name, held in kept.items():
        print(f"{'kept  ' if held else 'BROKEN'} {name}")
    return int(not all(kept.values()))


if __name__ == "__main__":
    sys.exit(main())
