"""Two scripted engines on sockets, a ledger on disk, and a monitor between them: traffic in, rows and verdicts out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import orjson
from prometheus_client import CollectorRegistry

from backends.openai import OpenAIBackend
from backends.scripted import Script, ScriptedServer
from backends.scripted.traffic import sent
from proxy.exchange import Exchange, Outcome, RelayEvent, Sampled
from proxy.feed import UnixFeedReceiver, max_frame_bytes
from proxy.monitor.evaluate import mismatch_rule
from proxy.monitor.exposition import ParityMetrics
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.pipeline import Monitor
from proxy.settings import (
    BudgetSettings,
    FeedSettings,
    LedgerSettings,
    MirrorSettings,
    ReferenceSettings,
    Settings,
    UpstreamSettings,
)
from scorers.catalogue import SPECS, scorers
from scorers.judge import Budget, EvidenceState, GateRules, start

BUDGETS = {
    "tool_call_mismatch": BudgetSettings(limit=0.05, critical=True, slack=0.05),
    "needle_recall_loss": BudgetSettings(limit=0.1, critical=True, slack=0.1),
    "logprob_kl": BudgetSettings(limit=0.05),
}


def world_settings(path: Path, *, budgets: Mapping[str, BudgetSettings] = BUDGETS, **mirror: Any) -> Settings:
    """Everything mirrored unless said otherwise."""
    rates: dict[str, Any] = {"noise_rate": 1.0, "replay_rate": 1.0, "needle_rate": 1.0, "timeout_s": 10.0}
    return Settings(
        candidate=UpstreamSettings(url="http://127.0.0.1:1", model="m"),
        reference=ReferenceSettings(url="http://127.0.0.1:2", model="m", teacher_forcing=True),
        mirror=MirrorSettings(**{**rates, **mirror}),
        ledger=LedgerSettings(path=path / "ledger.sqlite", keep_share=0.0),
        budgets=dict(budgets),
    )


def fresh_evidence(settings: Settings) -> EvidenceState:
    return start(
        tuple(
            Budget(
                name,
                budget.limit,
                bounded=SPECS[name].bounded,
                critical=budget.critical,
                noise_multiple=budget.noise_multiple,
                slack=budget.slack,
                unit=SPECS[name].unit,
            )
            for name, budget in settings.budgets.items()
        ),
        GateRules(),
    )


class World:
    """A running monitor, its two engines, and a stand-in for the relay that records exchanges as the relay would."""

    def __init__(self, settings: Settings, candidate: ScriptedServer, reference: ScriptedServer, **more: Any) -> None:
        self.settings = settings
        self.candidate = candidate
        self.reference = reference
        self.numbers = count()
        limits = {name: budget.limit for name, budget in settings.budgets.items()}
        self.ledger = SqliteLedger(settings.ledger, is_mismatch=mismatch_rule(limits))
        self.metrics = ParityMetrics(
            specs=tuple(SPECS.values()), recipe="test", version="0", registry=CollectorRegistry(auto_describe=False)
        )
        self.backends = [
            OpenAIBackend(name, url, api_key=None, connect_timeout_s=1.0, max_reply_bytes=1 << 24, max_connections=64)
            for name, url in (("candidate", candidate.url), ("reference", reference.url))
        ]
        self.monitor = Monitor(
            settings,
            ledger=self.ledger,
            candidate=self.backends[0],
            reference=self.backends[1],
            scorers=scorers(),
            evidence=lambda: fresh_evidence(settings),
            metrics=self.metrics,
            salt=b"world",
            **more,
        )

    async def exchanges(self, seed: int, number: int, worker: str = "w") -> list[RelayEvent]:
        """Marks and exchanges of scripted traffic, each answered by the candidate itself."""
        events: list[RelayEvent] = []
        async with httpx.AsyncClient(base_url=self.candidate.url, trust_env=False) as client:
            for request, sequence in zip(sent(seed), self.numbers, strict=False):
                events += await served(client, request.path, request.body, worker, sequence)
                if len(events) >= 2 * number:
                    return events
        raise AssertionError("traffic ended")

    def send(self, events: Iterable[RelayEvent]) -> None:
        for event in events:
            self.monitor.on_event(event)

    def at_rest(self) -> bool:
        """Nothing waits, is in work, or is still to be written (needles included)."""
        state = self.monitor.state()
        busy = state["queue"]["exchanges"] + state["queue"]["in_work"] + state["order"]["unreleased"]
        return not busy and not state["ledger"]["waiting_rows"]

    def receiver(self, feed: FeedSettings) -> UnixFeedReceiver:
        """What brings the monitor the events of that feed, as the composition root joins them."""
        return UnixFeedReceiver(
            feed.socket,
            on_event=self.monitor.on_event,
            on_stats=self.monitor.on_stats,
            on_connection=self.monitor.on_connection,
            max_frame_bytes=max_frame_bytes(feed),
        )

    def rows(self) -> list[Any]:
        epoch = self.ledger.latest_epoch()
        return list(self.ledger.observations(epoch[0])) if epoch else []


async def served(
    client: httpx.AsyncClient, path: str, body: Mapping[str, Any], worker: str, sequence: int
) -> list[RelayEvent]:
    """The mark and the exchange of one request, as a relay would have seen it."""
    raw, began, outcome = orjson.dumps(body), time.time(), Outcome.COMPLETE
    content, status, kind = b"", 0, b""
    try:
        async with client.stream("POST", path, content=raw, headers={"content-type": "application/json"}) as reply:
            status, kind = reply.status_code, reply.headers.get("content-type", "").encode()
            async for chunk in reply.aiter_raw():
                content += chunk
    except httpx.TransportError:
        outcome = Outcome.CANDIDATE_FAILED
    exchange = Exchange(
        id=f"{worker}-{sequence}",
        worker=worker,
        sequence=sequence,
        at_unix_s=began,
        method="POST",
        target=path,
        request_headers=((b"Content-Type", b"application/json"),),
        request_body=raw,
        status=status,
        response_headers=((b"Content-Type", kind),),
        response_body=content,
        outcome=outcome,
        first_byte_s=0.0,
        duration_s=time.time() - began,
    )
    return [Sampled(exchange.id, worker, sequence, began), exchange]


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """The monitor runs inside; afterwards it has drained and its ledger is closed."""
    shutdown = asyncio.Event()
    task = asyncio.create_task(world.monitor.run(shutdown))
    try:
        await until(lambda: world.monitor.readiness()["resumed"] or task.done(), 30.0)
        yield world
    finally:
        shutdown.set()
        await asyncio.wait_for(task, 30.0)
        for backend in world.backends:
            await backend.aclose()
        world.ledger.close()


@asynccontextmanager
async def engines(candidate: Script | None = None, reference: Script | None = None) -> AsyncIterator[Any]:
    async with ScriptedServer(candidate or Script()) as one, ScriptedServer(reference or Script()) as other:
        yield one, other


async def until(condition: Any, within_s: float = 30.0) -> None:
    """Returns when the condition holds; fails past the deadline."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  conditions of other threads have no event
            await asyncio.sleep(0.02)
