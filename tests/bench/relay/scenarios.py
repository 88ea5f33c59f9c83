"""What is sent through each proxy: how much, over how many connections, at which pace, and what came of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.relay.load import Seen, closed_loop, open_loop, requests
from tests.bench.relay.proxies import Proxy, settled

KIB = 1024
SLOW = 60  # a peer of some milliseconds a request gets so many times fewer of them
SLOW_RATE = 20.0  # requests/s in its open loop, which it can keep up with
EVENTS = 200  # of each stream


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. `rate` makes it an open loop; `pace_ms` makes its replies streams."""

    name: str
    connections: int
    total: int
    body_bytes: int = KIB
    rate: float = 0.0
    pace_ms: int = 0
    slow_too: bool = True
    fresh_ids: bool = False

    @property
    def streams(self) -> bool:
        return self.pace_ms > 0


SCENARIOS = (
    Scenario("1 connection", 1, 1_500),
    Scenario("32 connections", 32, 6_000),
    Scenario("32 connections, fresh ids", 32, 6_000, fresh_ids=True),
    Scenario("64 KB bodies", 8, 1_000, body_bytes=64 * KIB),
    Scenario("1 MB bodies", 4, 120, body_bytes=KIB * KIB),
    Scenario("open loop", 64, 1_500, rate=1_000.0),
    Scenario("32 streams", 32, 32, pace_ms=5),
    Scenario("512 streams", 512, 512, pace_ms=25, slow_too=False),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of one scenario through one proxy.

    Units:  cpu in microseconds per request or per event of a stream, latencies in milliseconds. For streams, `p50_ms`
            and `p99_ms` are an event's time on the way; else the reply's.
    """

    cpu_us: float
    p50_ms: float
    p99_ms: float
    first_byte_ms: float
    per_second: float
    busy: float  # the share of its core that the proxy used
    rss_mb: float
    errors: int


async def measured(proxy: Proxy, scenario: Scenario, *, slow: bool, only: str = "") -> Figures:
    """Sends the scenario through the proxy. `only` counts the CPU of the processes with that word in their command."""
    await settled(proxy)
    total, rate = scenario.total, scenario.rate
    if slow and not scenario.streams:
        total, rate = max(20, total // SLOW), min(rate, SLOW_RATE)
    before_s = proxy.cpu_s(only)
    seen = await sent(proxy.port, scenario, total, rate)
    cpu_s = proxy.cpu_s(only) - before_s
    expected = total * EVENTS if scenario.streams else total
    missing = max(0, expected - seen.events) if scenario.streams else 0
    times_s = seen.on_the_way_s if scenario.streams else seen.latencies_s
    return Figures(
        cpu_us=cpu_s / expected * 1e6,
        p50_ms=quantile(times_s, 0.5) * 1e3,
        p99_ms=quantile(times_s, 0.99) * 1e3,
        first_byte_ms=quantile(seen.first_bytes_s, 0.5) * 1e3,
        per_second=len(seen.latencies_s) / seen.took_s,
        busy=cpu_s / seen.took_s,
        rss_mb=proxy.rss_bytes() / 1e6,
        errors=seen.errors + missing,
    )


async def sent(port: int, scenario: Scenario, total: int, rate: float) -> Seen:
    """What the clients of one run saw."""
    events = EVENTS if scenario.streams else 0
    messages = requests(scenario.body_bytes, events=events, pace_ms=scenario.pace_ms, fresh_ids=scenario.fresh_ids)
    if rate:
        return await open_loop(port, messages, scenario.connections, total, rate)
    return await closed_loop(port, messages, scenario.connections, total)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; 0 without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, JSON-ready: the middle of the rounds, and how far they lie apart."""
    if not values:
        return {}
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": _short(statistics.median(values)), "low": _short(min(low, middle)), "high": _short(high)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
