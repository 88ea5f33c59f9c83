"""The demo's course: a healthy candidate, then one that is damaged while it serves, and the verdict on each."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from proxy.demo.stage import Stage, stage
from proxy.demo.traffic import Clients
from proxy.demo.view import LiveTable
from proxy.report.view import print_verdict

CONCURRENCY = 8
POLL_S = 0.25
MAX_BEHIND = 64  # choice: requests sent and not yet in the ledger
SETTLE_S = 45.0  # choice: how long the last shadow calls and the ledger may take after the last reply
TO_DIAGNOSE = (80, 240)  # choice: requests after a fail, at least and at most, for the diagnosis: it compares prompt
# lengths, and what it says of the first twenty pairs may not last
READ_S = 10.0  # choice: how long a person may read the first verdict before the candidate is switched

HEALTHY_RECIPE = "int4-weights"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run of the demo does.

    With a `fault`, scripted engines and just so many requests; otherwise the shipped model, `recipe` as the damage,
    and at most so many requests in each phase, fewer once the verdict has come. `once`: one phase, damaged from the
    first request.
    """

    requests: int
    recipe: str
    fault: str | None
    once: bool
    quiet: bool
    hold: bool
    ledger: Path | None

    @property
    def damage(self) -> str:
        """What is done to the candidate."""
        return self.recipe if self.fault is None else self.fault


def run(plan: Plan, console: Console) -> dict[str, Any]:
    """The demo's result as one JSON-ready object.

    Raises:  SupervisorError when an engine or the proxy does not come up.
    """
    try:
        return asyncio.run(_run(plan, console))
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None


async def _run(plan: Plan, console: Console) -> dict[str, Any]:
    itself = asyncio.current_task()
    assert itself is not None
    # The engines and the proxy are children: a demo that is told to end must not leave them behind.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, itself.cancel)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-demo-")))
        ledger = plan.ledger.resolve() if plan.ledger else folder / "ledger.sqlite"
        recipe = None if plan.fault is not None else plan.recipe if plan.once else HEALTHY_RECIPE
        on = await stack.enter_async_context(stage(folder, ledger, recipe))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False))
        compared = on.engines.candidate_url if on.engines.repeatable else None
        clients = Clients(on.relay_url, compared, concurrency=CONCURRENCY)
        stack.push_async_callback(clients.aclose)
        table = stack.enter_context(closing(LiveTable(console, on, quiet=plan.quiet)))
        run = _Run(plan, on, clients, http, table)
        watching = asyncio.create_task(run.watch())
        stack.callback(watching.cancel)
        answer = await run.phases()
        watching.cancel()
        table.close()
        if not plan.quiet:
            print_verdict(console, answer)
        if plan.hold:
            console.print(f"the page stays at {on.control_url}/ until you press Ctrl-C")
            await _interrupted()
    return _result(answer, clients, run.healthy)


class _Run:
    """One run: the phases, and the watch beside them that draws and paces."""

    def __init__(self, plan: Plan, on: Stage, clients: Clients, http: httpx.AsyncClient, table: LiveTable) -> None:
        self._plan = plan
        self._on = on
        self._clients = clients
        self._http = http
        self._table = table
        self._bodies = on.engines.bodies()
        self._enough = asyncio.Event()
        self._told: dict[str, Any] | None = None  # the answer at which the phase had its verdict
        self._decided_at: int | None = None  # requests sent when the phase's verdict came
        self._epoch = 1  # the one that the present phase is judged in
        self._lost_before = 0  # of the epochs before it: sent, and in no coverage any more
        self.healthy: dict[str, Any] | None = None

    async def phases(self) -> dict[str, Any]:
        """The last phase's verdict."""
        plan = self._plan
        if not plan.once:
            self._table.phase = "healthy candidate"
            self.healthy = self._table.healthy = await self._phase()
            if plan.fault != "none":
                await self._damage()
        elif plan.fault not in (None, "none"):
            await self._damage()
        if plan.once or plan.fault != "none":
            self._table.phase = f"candidate: {plan.damage}"
            return await self._phase()
        assert self.healthy is not None
        return self.healthy

    async def watch(self) -> None:
        """Draws, and paces the clients: on a slow machine the demo takes longer instead of losing pairs."""
        while True:
            answer = await self._on.gate(self._http)
            self._table.show(answer, self._clients.tally)
            if self._plan.fault is None and not self._enough.is_set() and self._is_told(answer):
                self._told = answer
                self._enough.set()
            if self._behind(answer) > MAX_BEHIND:
                self._clients.may_send.clear()
            else:
                self._clients.may_send.set()
            await asyncio.sleep(POLL_S)

    def _is_told(self, answer: dict[str, Any]) -> bool:
        """Whether this phase has its verdict, and a fail its cause or a fair try at one."""
        if answer["verdict"] == "inconclusive" or answer["epoch"] < self._epoch:
            return False
        sent = self._clients.tally.sent
        if self._decided_at is None:
            self._decided_at = sent
        if answer["verdict"] != "fail":
            return True
        least, most = TO_DIAGNOSE
        more = sent - self._decided_at
        return more >= most or (more >= least and answer["diagnosis"]["axis"] != "undetermined")

    async def _phase(self) -> dict[str, Any]:
        """Traffic until the verdict or the number of requests, and then the verdict as it stands."""
        self._enough.clear()
        self._told = self._decided_at = None
        await self._clients.send(self._bodies, self._plan.requests, self._enough)
        return await self._settled()

    async def _damage(self) -> None:
        """The damage, planted while the candidate serves. Another recipe is another contract: a new epoch."""
        plan = self._plan
        if plan.fault is not None:
            await self._on.engines.damage(plan.fault)
            return
        if not plan.quiet and sys.stdin.isatty():
            await self._table.waits_for_key(f"press Enter to switch the candidate to {plan.recipe}", READ_S)
        self._epoch += 1
        await self._on.engines.damage(plan.recipe)
        deadline = time.monotonic() + SETTLE_S
        while True:
            answer = await self._on.gate(self._http)
            if answer["epoch"] >= self._epoch or time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_S)
        self._lost_before = self._clients.tally.sent

    async def _settled(self) -> dict[str, Any]:
        """The verdict once it is decided or every request sent is in the ledger, or after SETTLE_S as it stands."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            if self._told is not None:
                return self._told
            answer = await self._on.gate(self._http)
            if self._behind(answer) <= 0 or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(POLL_S)

    def _behind(self, answer: dict[str, Any]) -> int:
        """Requests sent in this phase that are in no row yet."""
        return int(self._clients.tally.sent - self._lost_before - answer["coverage"]["sampled"])


async def _interrupted() -> None:
    pressed = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, pressed.set)
    await pressed.wait()


def _result(answer: dict[str, Any], clients: Clients, healthy: dict[str, Any] | None) -> dict[str, Any]:
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
        "healthy_verdict": None if healthy is None else healthy["verdict"],
        "reasons": answer["reasons"],
        "budgets": {
            name: {key: budget[key] for key in ("samples", "value", "limit", "noise", "critical", "strata_over")}
            for name, budget in answer["budgets"].items()
        },
        "diagnosis": answer["diagnosis"],
        "coverage": coverage,
        "error_texts": tally.error_texts,
    }
