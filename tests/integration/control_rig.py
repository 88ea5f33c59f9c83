"""A control port on a real socket over a real ledger, with a monitor that says what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from proxy.monitor.control import create_control_app, serve_control
from proxy.monitor.exposition import ParityMetrics
from proxy.monitor.ledger import SqliteLedger
from proxy.settings import LedgerSettings
from tests.unit.monitor_samples import SPECS, FixedView, is_mismatch

TOKEN = "s3cret-token"
GATE_TOKEN = "g8te-token"


@dataclass(slots=True)
class Rig:
    view: FixedView
    ledger: SqliteLedger
    metrics: ParityMetrics
    port: int
    client: httpx.AsyncClient
    shutdown: asyncio.Event
    serving: asyncio.Task[None]


@asynccontextmanager
async def control_port(
    directory: Path,
    token: str | None = None,
    view: FixedView | None = None,
    gate_token: str | None = None,
    port: int = 0,
) -> AsyncIterator[Rig]:
    """A served control port; gone again, ledger closed, at the end."""
    view = view if view is not None else FixedView()
    ledger = SqliteLedger(LedgerSettings(path=directory / "ledger.sqlite"), is_mismatch=is_mismatch)
    ledger.open_epoch({"reference": "m"}, "first", 1.0)
    metrics = ParityMetrics(specs=SPECS, recipe="awq-int4-g128", version="0")
    app = create_control_app(view, ledger, metrics, token, "awq-int4-g128", gate_token)
    shutdown = asyncio.Event()
    listening: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_control(app, "127.0.0.1", port, shutdown, lambda host, port: listening.set_result((host, port)))
    )
    serving.add_done_callback(lambda _: listening.done() or listening.cancel())  # it could not listen
    try:
        _, port = await listening
    except asyncio.CancelledError:
        serving.result()
        raise
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield Rig(view, ledger, metrics, port, client, shutdown, serving)
    finally:
        shutdown.set()
        await serving
        ledger.close()
