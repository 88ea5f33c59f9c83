"""The relay beside nginx, SGLang's router and LiteLLM: rounds, in each of which every scenario goes through every arm.

The arms of a scenario follow on one another within seconds, in an order drawn anew each time, and ratios are taken
within a round: what else the machine does hits both sides of a ratio.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proxy.feed import UnixFeedReceiver, max_frame_bytes
from proxy.settings import FeedSettings
from tests.bench.relay import proxies
from tests.bench.relay.canned import Canned, listening
from tests.bench.relay.proxies import Proxy
from tests.bench.relay.scenarios import SCENARIOS, Figures, Scenario, measured, spread

LOAD_CORE, PROXY_CORE = 0, 1
SLOW = frozenset({"litellm"})
Rounds = dict[str, dict[str, list[Figures]]]  # scenario -> arm -> one for each round

MAKERS: dict[str, Callable[..., AbstractContextManager[Proxy]]] = {
    "nginx": proxies.nginx,
    "relay": proxies.relay,
    "sglang-router": proxies.sglang_router,
    "litellm": proxies.litellm,
}


async def run(rounds: int, arms: tuple[str, ...], scenarios: tuple[str, ...], seed: int = 7) -> dict[str, Any]:
    """All rounds; the figures by scenario and arm, JSON-ready."""
    draw = random.Random(seed)
    pin(LOAD_CORE)
    chosen = [one for one in SCENARIOS if not scenarios or one.name in scenarios]
    with tempfile.TemporaryDirectory() as name:
        async with AsyncExitStack() as stack:
            port = await listening(stack, Canned())
            stack.callback(sleepless().set)
            up = [Proxy("direct", port)]
            for arm in arms:
                up.append(await started(stack, MAKERS[arm], port, Path(name), PROXY_CORE))
                if arm == "relay":
                    await drained_feed(stack, Path(name) / "relay")
            for proxy in up:
                await warmed(proxy)
            found: Rounds = {scenario.name: {proxy.name: [] for proxy in up} for scenario in chosen}
            for number in range(rounds):
                for scenario in chosen:
                    for proxy in draw.sample(up, len(up)):
                        slow = proxy.name in SLOW
                        if not slow or scenario.slow_too:
                            found[scenario.name][proxy.name].append(await measured(proxy, scenario, slow=slow))
                print(f"round {number + 1} of {rounds}: {_line(found)}", flush=True)
    return told(found)


def told(found: Rounds) -> dict[str, Any]:
    """The figures by scenario and arm, and the ratios between arms within a round, each with its spread."""
    by_scenario = {
        scenario: {arm: _arm(runs, arms["direct"]) for arm, runs in arms.items() if runs}
        for scenario, arms in found.items()
    }
    ratios: dict[str, Any] = {}
    if _have(found, "nginx"):
        ratios["ratio_to_nginx"] = {
            "cpu_per_request": _ratio(found, "32 connections", "relay", "nginx", _cpu),
            "cpu_per_request_fresh_ids": _ratio(found, "32 connections, fresh ids", "relay", "nginx", _cpu),
            "cpu_per_request_one_connection": _ratio(found, "1 connection", "relay", "nginx", _cpu),
            "cpu_per_chunk": _ratio(found, "32 streams", "relay", "nginx", _cpu),
            "cpu_per_chunk_512_streams": _ratio(found, "512 streams", "relay", "nginx", _cpu),
            "cpu_64_kb_body": _ratio(found, "64 KB bodies", "relay", "nginx", _cpu),
            "cpu_1_mb_body": _ratio(found, "1 MB bodies", "relay", "nginx", _cpu),
            "latency_p50": _ratio(found, "1 connection", "relay", "nginx", _added),
        }
    if _have(found, "litellm"):
        ratios["litellm_over_relay"] = {
            "cpu_per_request": _ratio(found, "32 connections", "litellm", "relay", _cpu),
            "cpu_per_chunk": _ratio(found, "32 streams", "litellm", "relay", _cpu),
            "latency_p50": _ratio(found, "1 connection", "litellm", "relay", _added),
        }
    if _have(found, "sglang-router"):
        ratios["sglang_router_over_relay"] = {
            "cpu_per_request": _ratio(found, "32 connections", "sglang-router", "relay", _cpu),
            "cpu_per_chunk": _ratio(found, "32 streams", "sglang-router", "relay", _cpu),
            "latency_p50": _ratio(found, "1 connection", "sglang-router", "relay", _added),
        }
    return {**ratios, "scenarios": by_scenario}


def pin(core: int) -> None:
    """This process runs on that core alone, where there are several."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def sleepless() -> asyncio.Event:
    """Keeps this loop polling until the event is set: a proxy whose write has to wake the load pays for that wake, and
    the faster one, whose load never gets to sleep, would not."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def again() -> None:
        if not ended.is_set():
            loop.call_soon(again)

    again()
    return ended


async def started(
    stack: AsyncExitStack, make: Callable[..., AbstractContextManager[Proxy]], *arguments: Any, **named: Any
) -> Proxy:
    """The proxy, up until the stack closes. Waited for in a thread: peers ask the candidate, which runs here."""
    context = make(*arguments, **named)
    proxy = await asyncio.to_thread(context.__enter__)

    async def end() -> None:
        await asyncio.to_thread(context.__exit__, None, None, None)

    stack.push_async_callback(end)
    return proxy


async def drained_feed(stack: AsyncExitStack, folder: Path) -> None:
    """Something that takes what the relay's feed brings, and looks at nothing: the tee works as with a monitor."""
    receiver = UnixFeedReceiver(
        folder / "feed.sock",
        on_event=lambda _: None,
        on_stats=lambda *_: None,
        on_connection=lambda *_: None,
        max_frame_bytes=max_frame_bytes(FeedSettings()),
    )
    await receiver.start()
    stack.push_async_callback(receiver.aclose)


async def warmed(proxy: Proxy) -> None:
    """Some of everything, so that no arm pays for its first connections or its imports in a round."""
    for scenario in SCENARIOS[:5]:
        with contextlib.suppress(OSError):
            small = Scenario(scenario.name, scenario.connections, 40, scenario.body_bytes)
            await measured(proxy, small, slow=False)


def _cpu(figures: Figures, _direct: Figures) -> float:
    return figures.cpu_us


def _added(figures: Figures, direct: Figures) -> float:
    return figures.p50_ms - direct.p50_ms


def _have(found: Rounds, arm: str) -> bool:
    return any(arms.get(arm) and arms.get("relay") for arms in found.values())


def _ratio(
    found: Rounds, scenario: str, over: str, under: str, of: Callable[[Figures, Figures], float]
) -> dict[str, float]:
    arms = found.get(scenario, {})
    rows = zip(arms.get(over, ()), arms.get(under, ()), arms.get("direct", ()), strict=False)
    values = [of(one, direct) / of(other, direct) for one, other, direct in rows if of(other, direct) > 0]
    return spread(values)


def _arm(runs: list[Figures], direct: list[Figures]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: spread([asdict(run)[name] for run in runs])
        for name in ("cpu_us", "p50_ms", "p99_ms", "first_byte_ms", "per_second", "busy")
    }
    figures["added_p50_ms"] = spread([run.p50_ms - base.p50_ms for run, base in zip(runs, direct, strict=False)])
    figures["added_p99_ms"] = spread([run.p99_ms - base.p99_ms for run, base in zip(runs, direct, strict=False)])
    figures["rss_mb"] = spread([run.rss_mb for run in runs])
    figures["errors"] = sum(run.errors for run in runs)
    return figures


def _line(found: Rounds) -> str:
    parts = []
    for scenario in ("32 connections", "32 streams"):
        arms = found.get(scenario, {})
        parts.append(scenario + " " + ", ".join(f"{arm} {runs[-1].cpu_us:.1f}" for arm, runs in arms.items() if runs))
    return "; ".join(parts) + " us of CPU"
