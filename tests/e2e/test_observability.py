"""The real thing: Prometheus and Alertmanager watch a running proxy; a planted fault pages, and recovery ends it.

Time is scaled: every window, `for` and interval of the deployed rules is divided by 30 (`scaled_time.py`), so that the
30 minutes of the fast burn are one here. What is not scaled is the machine: what takes it a second here takes it a
second in production, where the windows are thirty times as long.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.scripted import Script, ScriptedServer
from backends.scripted.traffic import Sent, sent
from proxy.demo.engines import PLANTED
from proxy.demo.stage import serving
from tests.e2e.observability_rig import (
    GROUP_WAIT_S,
    SCRAPE_INTERVAL_S,
    Asked,
    Notice,
    Receiver,
    alertmanager,
    missing,
    prometheus,
)
from tests.e2e.scaled_time import FACTOR, scaled, seconds

DASHBOARD = json.loads((Path(__file__).resolve().parents[2] / "deploy/grafana/dashboards/parity.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

FAST_BURN, VERDICT_FAIL = "ParityBudgetFastBurn", "ParityVerdictFail"
FAST_BURN_WINDOW_S = seconds("30m")
HEALTHY_S = seconds("40m")  # *choice*: the fast burn's window is full of healthy pairs, and every `for` has passed
REQUESTS_PER_S = 12  # *choice*: twice the tool calls that the fast burn's guard wants, on two cores that others use too
CONCURRENCY = 16
POLL_S = 0.1
UNSCALED_S = 0.5  # *choice*: the poll of the gate, a scrape's own time, two HTTP calls; half a second in production too
SEED = 20261123
DEADLINE_S = 120.0

SETTINGS = """\
[candidate]
url = "{candidate}"
[reference]
url = "{reference}"
teacher_forcing = true
[relay]
port = 0
[sampling]
rate = 1.0
large_body_rate = 1.0
[feed]
socket = "{folder}/feed.sock"
[mirror]
noise_rate = 0.5
replay_rate = 1.0
needle_rate = 0.2
teacher_forced_rate = 0.1
[ledger]
path = "{folder}/ledger.sqlite"
[control]
port = 0
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


@pytest.fixture(scope="module")
def day() -> Day:
    """The whole course, once; every test reads one aspect of it."""
    if missing():
        told = f"not installed: {', '.join(missing())} (Debian: apt-get install prometheus prometheus-alertmanager)"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    return asyncio.run(_day())


async def _day() -> Day:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-observed-")))
        healthy = Script(ttft_s=0.004).as_healthy_quantized()
        reference = await stack.enter_async_context(ScriptedServer(Script(ttft_s=0.004).as_noisy_reference()))
        candidate = await stack.enter_async_context(ScriptedServer(healthy))
        config = folder / "parity.toml"
        config.write_text(SETTINGS.format(candidate=candidate.url, reference=reference.url, folder=folder))
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
        for fault, rate in PLANTED["tool_calls"].items():
            candidate.set_fault(fault, rate)
        await self._until(lambda gate: gate["verdict"] == "fail")
        day.failed_s = time.monotonic()
        for name in (VERDICT_FAIL, FAST_BURN):
            day.fired[name] = await self._receiver.told(name, "firing", within_s=DEADLINE_S)
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


def test_no_alert_fired_or_was_about_to_while_the_candidate_was_healthy(day: Day) -> None:
    assert day.healthy_pairs > 400
    assert [series["metric"] for series in day.healthy_alerts] == []


def test_the_fault_pages_within_the_rules_window_and_two_scrapes(day: Day) -> None:
    """From the planting, which is before the first bad request. Alertmanager waits `group_wait` before it sends."""
    notice = day.fired[FAST_BURN]
    took_s = notice.at_s - day.planted_s
    bar_s = FAST_BURN_WINDOW_S + 2 * SCRAPE_INTERVAL_S + GROUP_WAIT_S
    since_bad_s = notice.at_s - day.first_bad_s
    print(f"\n{FAST_BURN}: {took_s:.1f} s after the fault, {since_bad_s:.1f} s after the first bad reply")
    print(f"  of {bar_s:.2f} s ({FAST_BURN_WINDOW_S:g} s window, 2 scrapes, {GROUP_WAIT_S} s group_wait)")
    assert day.planted_s <= day.first_bad_s < notice.at_s
    assert took_s <= bar_s
    assert notice.labels["budget"] == "tool_call_mismatch"
    assert notice.labels["severity"] == "page"
    assert "times its limit" in notice.summary


def test_the_failed_verdict_pages_at_once(day: Day) -> None:
    """Its rule has no window: the verdict is seen by the next scrape and the next evaluation."""
    took_s = day.fired[VERDICT_FAIL].at_s - day.failed_s
    print(f"\n{VERDICT_FAIL}: verdict {day.failed_s - day.planted_s:.1f} s after the fault, page {took_s:.2f} s later")
    assert took_s <= 2 * SCRAPE_INTERVAL_S + GROUP_WAIT_S + UNSCALED_S
    assert "proven worse" in day.fired[VERDICT_FAIL].summary


def test_recovery_resolves_both(day: Day) -> None:
    for name in (VERDICT_FAIL, FAST_BURN):
        took_s = day.resolved[name].at_s - day.recovered_s
        print(f"\n{name}: resolved {took_s:.1f} s after the candidate was replaced")
        assert took_s <= seconds("30m")
        assert day.resolved[name].labels == day.fired[name].labels


def test_only_what_was_broken_paged(day: Day) -> None:
    """The clients were served throughout: no page about them, about the relay or about the monitor."""
    assert day.client_errors == 0
    pages = {n.name for n in day.notices if n.labels["severity"] == "page" and n.status == "firing"}
    early = {n.name for n in day.notices if n.at_s < day.began_s}
    assert pages - early == {VERDICT_FAIL, FAST_BURN}
    assert early <= {"ParityMonitorAbsent"}


def test_every_variable_has_values(day: Day) -> None:
    assert day.variables["job"] == ["parity"]
    assert len(day.variables["instance"]) == 1
    assert set(day.variables["budget"]) >= {"tool_call_mismatch", "logprob_kl"}


def test_every_query_of_the_dashboard_returns_data(day: Day) -> None:
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    asked += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    assert day.shown.keys() | day.drawn.keys() == set(asked)
    assert [expr for answers in (day.shown, day.drawn) for expr, answer in answers.items() if not answer] == []


def test_the_dashboard_says_what_broke_since_when_and_where(day: Day) -> None:
    def figures(title: str) -> list[list[dict[str, Any]]]:
        panel = next(panel for panel in PANELS if panel["title"].startswith(title))
        return [day.shown[target["expr"]] for target in panel["targets"]]

    verdicts, since, *_ = figures("Which budget broke")
    states = {series["metric"]["budget"]: float(series["value"][1]) for series in verdicts}
    assert [budget for budget, state in states.items() if state == 2.0] == ["tool_call_mismatch"]
    (failing,) = since
    assert failing["metric"]["budget"] == "tool_call_mismatch"
    failed_unix_s = day.planted_unix_s + day.failed_s - day.planted_s
    assert abs(float(failing["value"][1]) / 1000 - failed_unix_s) < seconds("1m") + SCRAPE_INTERVAL_S + 1
    limits = {
        tuple(s["metric"][x] for x in ("budget", "stratum")): float(s["value"][1]) for s in figures("On which")[0]
    }
    budget, stratum = max(limits, key=lambda row: limits[row])
    assert budget == "tool_call_mismatch"
    assert stratum.endswith("/tools")
    assert limits[budget, stratum] > 2
    alerts = {series["metric"]["alertname"] for series in figures("Alerts that fire")[0]}
    assert {FAST_BURN, VERDICT_FAIL} <= alerts


def test_the_dots_lead_to_pairs_that_can_be_read(day: Day) -> None:
    assert len(day.exemplars) > 10
    assert day.pair_status == 200
