"""One day of a watched proxy in scaled time: healthy, broken, paged, recovered; and all that was seen on it."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from backends.scripted import Script, ScriptedServer
from backends.scripted.traffic import Sent, sent
from proxy.demo.engines import PLANTED
from proxy.demo.stage import SETTINGS, serving
from tests.e2e.observability_rig import (
    SCRAPE_INTERVAL_S,
    Asked,
    Notice,
    Receiver,
    alertmanager,
    prometheus,
)
from tests.e2e.scaled_time import FACTOR, scaled, seconds

DASHBOARD = json.loads((Path(__file__).resolve().parents[2] / "deploy/grafana/dashboards/parity.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

# *choice*: every second tool call wrong, a mean of about ten limits; near four, the alert would be a coin's toss.
FAULT = {name: 2 * rate for name, rate in PLANTED["tool_calls"].items()}
FAST_BURN, VERDICT_FAIL = "ParityBudgetFastBurn", "ParityVerdictFail"
FAST_BURN_WINDOW_S = seconds("30m")
HEALTHY_S = seconds("40m")  # *choice*: the fast burn's window is full of healthy pairs, and every `for` has passed
REQUESTS_PER_S = 12  # *choice*: twice the tool calls that the fast burn's guard wants, on two cores that others use too
CONCURRENCY = 16
POLL_S = 0.1
UNSCALED_S = 0.5  # *choice*: the poll of the gate, a scrape's own time, two HTTP calls; half a second in production too
SEED = 20261123
DEADLINE_S = 120.0

OWN = """\
[mirror]
noise_rate = 0.5
replay_rate = 1.0
needle_rate = 0.2
teacher_forced_rate = 0.1
[gate]
recipe = "observed"
look_interval_s = 1.0
[budgets.tool_call_mismatch]
limit = 0.03
slack = 0.03
critical = true
strata = ["length"]
[budgets.needle_recall_loss]
limit = 0.1
slack = 0.1
[budgets.copy_recall_loss]
limit = 0.1
slack = 0.1
[budgets.logprob_kl]
limit = 0.05
"""


@dataclass
class Day:
    """What was seen. Units: `*_s` seconds of time.monotonic, `*_unix_s` of the clock."""

    began_s: float = 0.0
    began_unix_s: float = 0.0
    planted_unix_s: float = 0.0
    planted_s: float = 0.0
    first_bad_s: float = 0.0
    failed_s: float = 0.0  # the gate's verdict
    recovered_s: float = 0.0
    healthy_alerts: list[dict[str, Any]] = field(default_factory=list)
    healthy_pairs: int = 0
    fired: dict[str, Notice] = field(default_factory=dict)
    resolved: dict[str, Notice] = field(default_factory=dict)
    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # what tables ask, at the page; by query
    drawn: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # what graphs ask, over the whole day
    notices: list[Notice] = field(default_factory=list)  # all that came
    variables: dict[str, list[str]] = field(default_factory=dict)
    exemplars: list[dict[str, Any]] = field(default_factory=list)
    pair_status: int = 0
    client_errors: int = 0


async def observed_day() -> Day:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-observed-")))
        healthy = Script(ttft_s=0.004).as_healthy_quantized()
        reference = await stack.enter_async_context(ScriptedServer(Script(ttft_s=0.004).as_noisy_reference()))
        candidate = await stack.enter_async_context(ScriptedServer(healthy))
        config = folder / "parity.toml"
        ledger = folder / "ledger.sqlite"
        text = SETTINGS.format(candidate=candidate.url, reference=reference.url, folder=folder, ledger=ledger)
        config.write_text(text + OWN)
        urls = await stack.enter_async_context(serving(config))
        receiver = await stack.enter_async_context(Receiver())
        to = await stack.enter_async_context(alertmanager(folder, receiver.url))
        asked = await stack.enter_async_context(prometheus(folder, urls["control"], to))
        control = httpx.AsyncClient(base_url=urls["control"], timeout=10, trust_env=False)
        clients = Clients(urls["relay"], sent(SEED))
        course = _Course(await stack.enter_async_context(control), asked, receiver, clients)
        async with clients.sending():
            await course.begun()
            await course.healthy()
            await course.broken(candidate)
        # What the runbook says of a fail: another model behind the same address begins a new epoch.
        await candidate.aclose()
        after = ScriptedServer(replace(healthy, root="the-former-build"), port=candidate.port)
        await stack.enter_async_context(after)
        async with clients.sending():
            await course.recovered()
        await course.looked_back()
        course.day.client_errors, course.day.notices = clients.errors, receiver.notices
        return course.day


class Clients:
    """Clients at a steady rate, whatever the replies take, within a bound on how many wait at once."""

    def __init__(self, relay_url: str, requests: Iterator[Sent]) -> None:
        self.errors = 0
        self.replied: Callable[[], None] = lambda: None  # called after each reply
        self._relay_url = relay_url
        self._requests = requests

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Requests go out while the block runs; those under way are answered before it is left."""
        enough = asyncio.Event()
        task = asyncio.create_task(self._send(enough))
        try:
            yield
        finally:
            enough.set()
            await task

    async def _send(self, enough: asyncio.Event) -> None:
        free = asyncio.Semaphore(CONCURRENCY)
        http = httpx.AsyncClient(base_url=self._relay_url, timeout=DEADLINE_S, trust_env=False)
        async with http, asyncio.TaskGroup() as group:
            while not enough.is_set():
                await free.acquire()
                group.create_task(self._one(http, next(self._requests), free))
                await asyncio.sleep(1 / REQUESTS_PER_S)

    async def _one(self, http: httpx.AsyncClient, request: Sent, free: asyncio.Semaphore) -> None:
        try:
            reply = await http.post(request.path, json=request.body)
            self.errors += reply.status_code != 200
        except httpx.TransportError:
            self.errors += 1
        finally:
            free.release()
        self.replied()


class _Course:
    """The phases of the day, and what is seen in each."""

    def __init__(self, control: httpx.AsyncClient, asked: Asked, receiver: Receiver, clients: Clients) -> None:
        self.day = Day()
        self._control = control
        self._asked = asked
        self._receiver = receiver
        self._clients = clients

    async def begun(self) -> None:
        """Prometheus looks for targets every 5 s, which no setting scales: until then the monitor is rightly absent."""
        await self._seen("up == 1 unless on () ALERTS")
        self.day.began_s, self.day.began_unix_s = time.monotonic(), time.time()

    async def healthy(self) -> None:
        """Long enough for every alert to have had its chance."""
        await self._until(lambda gate: time.time() - self.day.began_unix_s >= HEALTHY_S and gate["samples"] > 0)
        self.day.healthy_alerts = await self._asked.over("ALERTS", self.day.began_unix_s, SCRAPE_INTERVAL_S)
        self.day.healthy_pairs = (await self._gate())["samples"]

    async def broken(self, candidate: ScriptedServer) -> None:
        """The fault, until it has paged; then what the dashboard shows to whom it woke."""
        day = self.day

        def noticed() -> None:
            if not day.first_bad_s and candidate.faults.struck["tool_name"]:
                day.first_bad_s = time.monotonic()

        self._clients.replied = noticed
        day.planted_s, day.planted_unix_s = time.monotonic(), time.time()
        for fault, rate in FAULT.items():
            candidate.set_fault(fault, rate)
        await self._until(lambda gate: gate["verdict"] == "fail")
        day.failed_s = time.monotonic()
        for name in (VERDICT_FAIL, FAST_BURN):
            day.fired[name] = await self._receiver.told(name, "firing", within_s=DEADLINE_S)
        # Who was woken looks five minutes later, and is told when it began, not that it is so now.
        await self._until(lambda gate: time.monotonic() - day.failed_s >= seconds("5m"))
        day.variables = await self._variables()
        for panel in PANELS:
            for target in panel["targets"]:
                if target.get("instant"):
                    day.shown[target["expr"]] = await self._asked.now(self._written_out(target["expr"]))
                if target.get("exemplar"):
                    day.exemplars += await self._asked.exemplars(self._written_out(target["expr"]), day.began_unix_s)
        if day.exemplars:
            pair = day.exemplars[-1]["labels"]["pair_id"]
            page = await self._control.get(f"/pairs/{pair}", headers={"accept": "text/html"})
            day.pair_status = page.status_code

    async def recovered(self) -> None:
        """Another build at the same address: a new epoch, and the alerts resolve. Then a moment with the mirror paused,
        because only a loss shows in the panel of losses."""
        self.day.recovered_s = time.monotonic()
        await self._until(lambda gate: gate["epoch"] > 1 and gate["samples"] > 0)
        for name in (VERDICT_FAIL, FAST_BURN):
            self.day.resolved[name] = await self._receiver.told(name, "resolved", within_s=DEADLINE_S)
        await self._control.post("/mirror/pause")
        await self._until(lambda gate: gate["coverage"]["lost"])
        await self._control.post("/mirror/resume")
        await self._seen(scaled('increase(parity_exchanges_total{kind="live",disposition="lost"}[1m]) > 0'))

    async def looked_back(self) -> None:
        """What is drawn over time, over the whole day."""
        drawn = [target for panel in PANELS for target in panel["targets"] if target.get("range")]
        for query in [*drawn, *DASHBOARD["annotations"]["list"]]:
            expr = query["expr"]
            self.day.drawn[expr] = await self._asked.over(
                self._written_out(expr), self.day.began_unix_s, SCRAPE_INTERVAL_S
            )

    async def _gate(self) -> dict[str, Any]:
        return dict((await self._control.get("/gate")).json())

    async def _until(self, holds: Callable[[dict[str, Any]], object]) -> None:
        deadline = time.monotonic() + HEALTHY_S + DEADLINE_S
        while not holds(gate := await self._gate()):
            assert time.monotonic() < deadline, gate
            await asyncio.sleep(POLL_S)

    async def _seen(self, expr: str) -> None:
        """Returns once Prometheus has an answer."""
        deadline = time.monotonic() + DEADLINE_S
        while not await self._asked.now(expr):
            assert time.monotonic() < deadline, expr
            await asyncio.sleep(POLL_S)

    async def _variables(self) -> dict[str, list[str]]:
        """What Prometheus offers for each variable that the dashboard asks it for."""
        found: dict[str, list[str]] = {}
        for variable in DASHBOARD["templating"]["list"]:
            if asked := re.fullmatch(r"label_values\((.+), (\w+)\)", str(variable.get("query"))):
                found[variable["name"]] = await self._asked.values(asked[2], self._written_out(asked[1], found))
        return found

    def _written_out(self, expr: str, found: dict[str, list[str]] | None = None) -> str:
        """A query as Grafana would send it, with all of each variable chosen, in scaled time."""
        known = self.day.variables if found is None else found
        chosen = {name: "(" + "|".join(map(re.escape, values)) + ")" for name, values in known.items()}
        chosen |= {"__rate_interval": "1m", "__interval": "1m", "window": "30m"}
        chosen["__range"] = f"{round((time.time() - self.day.began_unix_s) * FACTOR)}s"
        written = re.sub(r"\$([a-z_]\w*)", lambda name: chosen[name[1]].replace("\\", "\\\\"), expr)
        return scaled(written)
