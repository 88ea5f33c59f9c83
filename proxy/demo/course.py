"""The demo's course: healthy traffic, a planted fault, the verdict."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from backends.scripted import traffic
from proxy.demo.stage import Stage, stage
from proxy.demo.traffic import Clients
from proxy.demo.view import LiveTable
from proxy.report.view import print_verdict

CONCURRENCY = 8
POLL_S = 0.25
MAX_BEHIND = 64  # choice: requests sent and not yet in the ledger
SETTLE_S = 45.0  # choice: how long the last shadow calls and the ledger may take after the last reply
SEED = 20261123

PLANTED = {
    "tool_calls": {"tool_name": 0.15, "tool_argument": 0.15},
    "logprobs": {"logprobs": 1.0},
    "recall": {"needle": 0.5},
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run of the demo does. `once`: one phase, the fault planted from the first request."""

    requests: int
    fault: str
    once: bool
    quiet: bool
    hold: bool
    ledger: Path | None


def run(plan: Plan, console: Console) -> dict[str, Any]:
    """The demo's result as one JSON-ready object.

    Raises:  SupervisorError when the proxy does not come up.
    """
    return asyncio.run(_run(plan, console))


async def _run(plan: Plan, console: Console) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-demo-")))
        ledger = plan.ledger.resolve() if plan.ledger else folder / "ledger.sqlite"
        on = await stack.enter_async_context(stage(folder, ledger))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False))
        clients = Clients(on.relay_url, on.candidate.url, concurrency=CONCURRENCY)
        stack.push_async_callback(clients.aclose)
        table = stack.enter_context(closing(LiveTable(console, on, quiet=plan.quiet)))
        watching = asyncio.create_task(_watch(on, clients, http, table))
        stack.callback(watching.cancel)
        bodies = traffic.requests(SEED)
        if not plan.once:
            table.phase = "healthy candidate"
            await clients.send(bodies, plan.requests)
            table.healthy = await _settled(on, http, clients.tally.sent)
        if plan.fault != "none":
            table.phase = f"fault planted: {plan.fault}"
            for name, rate in PLANTED[plan.fault].items():
                on.candidate.set_fault(name, rate)
        if plan.once or plan.fault != "none":
            await clients.send(bodies, plan.requests)
        answer = await _settled(on, http, clients.tally.sent)
        watching.cancel()
        table.close()
        if not plan.quiet:
            print_verdict(console, answer)
        if plan.hold:
            console.print(f"the page stays at {on.control_url}/ until you press Ctrl-C")
            await _interrupted()
    return _result(answer, clients)


async def _interrupted() -> None:
    pressed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, pressed.set)
    await pressed.wait()


async def _watch(on: Stage, clients: Clients, http: httpx.AsyncClient, table: LiveTable) -> None:
    """Draws, and paces the clients: on a slow machine the demo takes longer instead of losing pairs."""
    while True:
        answer = await on.gate(http)
        table.show(answer, clients.tally)
        behind = clients.tally.sent - answer["coverage"]["sampled"]
        if behind > MAX_BEHIND:
            clients.may_send.clear()
        else:
            clients.may_send.set()
        await asyncio.sleep(POLL_S)


async def _settled(on: Stage, http: httpx.AsyncClient, sent: int) -> dict[str, Any]:
    """The verdict once every request sent is in the ledger, or after SETTLE_S as it stands."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        answer = await on.gate(http)
        if answer["coverage"]["sampled"] >= sent or time.monotonic() > deadline:
            return answer
        await asyncio.sleep(POLL_S)


def _result(answer: dict[str, Any], clients: Clients) -> dict[str, Any]:
    coverage, tally = answer["coverage"], clients.tally
    return {
        "requests": tally.sent,
        "client_errors": tally.client_errors,
        "byte_mismatches": tally.byte_mismatches,
        "pairs": answer["samples"],
        "noise_pairs": answer["noise_samples"],
        "dropped": sum(coverage["lost"].values()),
        "unscored": coverage["sampled"] - coverage["scored"],
        "verdict": answer["verdict"],
        "reasons": answer["reasons"],
        "budgets": {
            name: {key: budget[key] for key in ("samples", "value", "limit", "noise", "critical")}
            for name, budget in answer["budgets"].items()
        },
        "diagnosis": answer["diagnosis"],
        "coverage": coverage,
        "error_texts": tally.error_texts,
    }
