"""Bodies of 1 MB among ordinary pairs: does the monitor stall for them?

    python -m tests.bench.monitor_large [--rounds 7] [--seconds 6] [--out docs/bench/monitor_cost.json]

`parity monitor` on a core of its own scores 100 pairs a second (`monitor_pairs`: 256 tokens, top 20, a tool call). In
an arm with large ones every 20th is one of 1 MB: its request, the reference's reply (700 tokens with top 20), or the
stream that the client got. Meanwhile a process that does nothing else asks the control port, which shares the monitor's
event loop, some 50 times a second: what it waits beyond the arm without large ones is what they hold up. The arms take
turns in each round. The result is the key `large_bodies` of the monitor's figures, and a table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import uvloop

from proxy.feed import UnixFeedSender
from proxy.metrics import RelayCounters
from proxy.settings import FeedSettings
from tests.bench.monitor_cost import MORE, coverage, offer
from tests.bench.monitor_pairs import PairBytes, pairs
from tests.bench.relay import page, proxies
from tests.bench.relay.canned import Canned, asked_tokens, listening
from tests.bench.relay.peers import LOAD_CORE, PROXY_CORE, pin, started
from tests.bench.relay.proxies import Proxy
from tests.bench.relay.scenarios import quantile, spread

MIB = 1 << 20
RATE = 100.0  # pairs/s
ONE_IN = 20  # is large: 5 MB of them a second
ASK_EACH_S = 0.017  # *choice*: never in step with the pairs
LARGE_TOKENS = 700
ORDINARY = "ordinary pairs alone"
SETTLE_S = 60.0
MAX_ADDED_P99_MS = 10.0  # *choice*: two turns of the interpreter's lock, 5 ms for any thread that computes
MAX_SLOWEST_MS = 100.0  # *choice*: a tenth of the second that a kubelet gives a probe by default


class Numbered(Canned):
    """Answers a shadow call by the number that its `max_tokens` is past FIRST."""

    FIRST = 1_000

    def shadow_reply(self, body: bytes) -> bytes:
        number = asked_tokens(body) - self.FIRST
        return self.replies[number] if 0 <= number < len(self.replies) else super().shadow_reply(body)


@dataclass(slots=True)
class Arm:
    """The pairs that it sends in turn, and when it ran."""

    name: str
    pairs: list[PairBytes]
    windows_s: list[tuple[float, float]] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)  # of a pair, all included
    lost: int = 0


def arms() -> list[Arm]:
    """Every arm; the numbers of their requests, and so of the reference's replies, run on from arm to arm."""
    ordinary = pairs(ONE_IN)
    large = {
        ORDINARY: ordinary[0],
        "1 MB requests": pairs(1, body_bytes=MIB)[0],
        "1 MB replies, top 20": with_long_reply(ordinary[0], LARGE_TOKENS),
        "1 MB streams": with_long_stream(ordinary[0], MIB),
    }
    made = [Arm(name, [one, *ordinary[1:]]) for name, one in large.items()]
    for at, arm in enumerate(made):
        first = Numbered.FIRST + at * ONE_IN
        arm.pairs = [_numbered(pair, first + number) for number, pair in enumerate(arm.pairs)]
    return made


def with_long_reply(pair: PairBytes, tokens: int) -> PairBytes:
    """The pair with a reference that wrote on: its steps again and again, with their logprobs."""
    reply = orjson.loads(pair.reference)
    choice = reply["choices"][0]
    for steps in (choice["logprobs"]["content"], choice["token_ids"]):
        steps.extend(steps[number % len(steps)] for number in range(tokens - len(steps)))
    reply["usage"] |= {"completion_tokens": tokens, "total_tokens": reply["usage"]["prompt_tokens"] + tokens}
    return replace(pair, reference=orjson.dumps(reply))


def with_long_stream(pair: PairBytes, size: int) -> PairBytes:
    """The pair with a client that got so many bytes: the stream's words again and again, then its end."""
    first, *events = pair.served.split(b"\n\n")
    words = [event for event in events if b'"content":" w' in event]
    again = words * ((size - len(pair.served)) // sum(len(word) + 2 for word in words))
    return replace(pair, served=b"\n\n".join([first, *again, *events]))


def _numbered(pair: PairBytes, number: int) -> PairBytes:
    return replace(pair, request=pair.request.replace(b'"max_tokens":512', b'"max_tokens":%d' % number))


async def run(rounds: int, seconds: float, seed: int = 17, rate: float = RATE) -> dict[str, Any]:
    """All rounds, JSON-ready."""
    draw = random.Random(seed)
    pin(LOAD_CORE)
    all_arms = arms()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        reference = await listening(stack, Numbered([pair.reference for arm in all_arms for pair in arm.pairs]))
        candidate = await listening(stack, Canned())
        monitor = await started(
            stack, proxies.relay, candidate, folder, PROXY_CORE, name="monitor",
            command="monitor", rate=1.0, reference=reference, more=MORE,
        )  # fmt: skip
        feed = FeedSettings(socket=folder / "monitor" / "feed.sock")
        sender = UnixFeedSender(feed, worker="bench", stats=RelayCounters().snapshot)
        await sender.start()
        stack.push_async_callback(sender.aclose, 2.0)
        await proxies.watching(monitor)
        asking = _asking(monitor.control_port, folder / "answers")
        try:
            sent = 0
            for number in range(rounds + 1):  # the first one warms up
                for arm in draw.sample(all_arms, len(all_arms)):
                    sent += await _window(arm, monitor, sender, sent, int(rate * seconds), rate, kept=number > 0)
                print(f"large bodies, round {number} of {rounds}", flush=True)
        finally:
            asking.terminate()
            asking.wait()
        answers = [tuple(map(float, line.split())) for line in (folder / "answers").read_text().splitlines()]
    return told(all_arms, [(one[0], one[1]) for one in answers if len(one) == 2])


async def _window(
    arm: Arm, monitor: Proxy, sender: UnixFeedSender, sent: int, total: int, rate: float, *, kept: bool
) -> int:
    """How many pairs were offered; by its end the monitor is done with all of them."""
    before, cpu_s, began_s = await coverage(monitor), monitor.cpu_s(), time.monotonic()
    for number in range(total):
        offer(sender, arm.pairs[number % len(arm.pairs)], sent + number)
        if (ahead_s := began_s + (number + 1) / rate - time.monotonic()) > 0.001:
            await asyncio.sleep(ahead_s)
    ended_s = time.monotonic()
    while (after := await coverage(monitor))["sampled"] < before["sampled"] + total:
        assert time.monotonic() < ended_s + SETTLE_S, (before, after, total)
        await asyncio.sleep(0.1)  # polling the monitor's own count, bounded by the deadline
    if kept:
        arm.windows_s.append((began_s, ended_s))
        arm.cpu_ms.append((monitor.cpu_s() - cpu_s) / total * 1e3)
        arm.lost += after["lost"] - before["lost"]
    return total


def told(all_arms: Sequence[Arm], answers: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Each arm's answers of the control port by round, and what they took beyond the ordinary arm's of the same round.

    `answers`: when each was due, and how long it took. Units: milliseconds, of the answers seconds.
    """
    shares = {"p50_ms": 0.5, "p99_ms": 0.99, "slowest_ms": 1.0}
    found = {}
    for arm in all_arms:
        rounds = [[took for at, took in answers if began <= at < ended] for began, ended in arm.windows_s]
        assert all(rounds), f"{arm.name}: the control port was not asked in every round"
        found[arm.name] = {name: [quantile(one, share) * 1e3 for one in rounds] for name, share in shares.items()}
    return {
        arm.name: {
            **{name: spread(values) for name, values in found[arm.name].items()},
            **{
                f"added_{name}": spread([a - b for a, b in zip(values, found[ORDINARY][name], strict=True)])
                for name, values in found[arm.name].items()
            },
            "cpu_ms_per_pair": spread(arm.cpu_ms),
            "lost": arm.lost,
        }
        for arm in all_arms
    }


def promises(found: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Each promise: its figure in words, and whether it was kept."""
    held = {}
    for name, arm in found.items():
        added, slowest = arm["added_p99_ms"], arm["slowest_ms"]
        if name != ORDINARY:
            held[f"{name}: p99 of the control port at most {MAX_ADDED_P99_MS:g} ms later"] = (
                page.words(added, " ms"),
                added["median"] <= MAX_ADDED_P99_MS,
            )
        held[f"{name}: no answer of the control port after {MAX_SLOWEST_MS:g} ms"] = (
            page.words(slowest, " ms"),
            slowest["median"] <= MAX_SLOWEST_MS,
        )
        held[f"{name}: no pair lost"] = (str(arm["lost"]), arm["lost"] == 0)
    return held


def tables(told: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table; none before it was measured."""
    large = told.get("large_bodies")
    if not large:
        return
    yield f"`{large['command']}`, {large['machine']}. The control port's answers, ms: median of the rounds, quartiles."
    yield ""
    yield f"| {RATE:g} pairs/s, every {ONE_IN}th large | p50 | p99 | slowest | p99 added | CPU ms a pair, all | lost |"
    yield "|---|---|---|---|---|---|---|"
    for name, arm in large["arms"].items():
        cells = (page.cell(arm[key]) for key in ("p50_ms", "p99_ms", "slowest_ms", "added_p99_ms", "cpu_ms_per_pair"))
        yield f"| {name} | {' | '.join(cells)} | {arm['lost']} |"


def _asking(port: int, to: Path) -> subprocess.Popen[bytes]:
    """A process of its own asks: what this one is busy with would look like the monitor's delay."""
    argv = [sys.executable, "-m", "tests.bench.monitor_large", "--ask", str(port)]
    with to.open("wb") as sink:
        return subprocess.Popen(argv, stdout=sink, cwd=proxies.ROOT)


def ask(port: int) -> None:
    """Asks until it is ended; a line for each answer: when it was due to be asked for, and how long it took since.

    A question that waits behind a late answer counts from when it was due: one stall delays all that fall into it.
    Units:  seconds.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    due_s = time.monotonic()
    while True:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        now_s = time.monotonic()
        print(due_s, now_s - due_s, flush=True)
        due_s += ASK_EACH_S
        time.sleep(max(0.0, due_s - now_s))  # the pace of the questions


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the promises hold in the median, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/monitor_cost.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--ask", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.ask:
        ask(given.ask)
    found: Mapping[str, Any] = uvloop.run(run(given.rounds, given.seconds))
    command = f"python -m tests.bench.monitor_large --rounds {given.rounds} --seconds {given.seconds:g}"
    told: dict[str, Any] = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    held = promises(found)
    kept = {name: kept for name, (_, kept) in held.items()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    told["large_bodies"] = {"command": command, "machine": machine, "arms": found, "kept": kept}
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    document = given.page.read_text(encoding="utf-8")
    given.page.write_text(page.filled(document, "monitor, large bodies", tables(told)), encoding="utf-8")
    return page.said(held)


if __name__ == "__main__":
    sys.exit(main())
