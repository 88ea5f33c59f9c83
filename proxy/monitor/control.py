"""The monitor's own port: metrics, health, the gate, the pairs behind it, and a page for people.

Loopback without a token, a token anywhere else. Nothing here writes what a prompt says into a log. Reads of the
ledger run in threads, on their own connections: neither the monitor's loop nor its writer waits for a reader.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol

import orjson
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from proxy.errors import LedgerError, RolloutError, SettingsError
from proxy.monitor import gate
from proxy.monitor.exposition import ParityMetrics
from proxy.monitor.gate_routes import add_gate
from proxy.monitor.guard import Guard, is_loopback
from proxy.monitor.ledger_reader import LedgerStats
from proxy.monitor.page import CONTENT_SECURITY_POLICY, problem
from proxy.monitor.page_routes import PairSource, add_pages
from proxy.monitor.replies import json_reply, small_body, wants_html
from proxy.monitor.rows import MonitorView

KEEP_ALIVE_S = 120  # above Prometheus' default scrape interval of 60 s, so that a scraper's connection is never closed
MAX_CONNECTIONS = 256  # *choice*: people, scrapers and rollout tools; beyond it 503
SHUTDOWN_GRACE_S = 3  # *choice*: a reader of the page is not worth more
MAX_ACT_BYTES = 4096  # *choice*: an act has a sentence to say
MAX_REASON_CHARS = 500  # *choice*

_SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # under "no-referrer" a browser says of its own forms: origin null
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

_log = logging.getLogger(__name__)


class LedgerSource(PairSource, Protocol):
    """What the port reads of the ledger. Calls block and raise LedgerError."""

    def stats(self) -> LedgerStats: ...


def create_control_app(
    view: MonitorView,
    ledger: LedgerSource,
    metrics: ParityMetrics,
    token: str | None,
    recipe: str,
    gate_token: str | None = None,
) -> FastAPI:
    """The port's application. An empty token is no token. `gate_token` opens the gate's questions and nothing else."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.has_token = bool(token)
    app.add_middleware(Guard, token=token or None, gate_token=gate_token or None, response_headers=_SECURITY_HEADERS)
    _add_probes(app, view, ledger, metrics, recipe)
    add_gate(app, view, recipe)
    _add_acts(app, view)
    add_pages(app, view, ledger, recipe)
    _add_problems(app)
    return app


async def serve_control(
    app: ASGIApp, host: str, port: int, shutdown: asyncio.Event, on_listening: Callable[[str, int], None]
) -> None:
    """Serves until `shutdown` is set, on the running loop; signals stay the caller's. Port 0: the system chooses.

    Raises:  SettingsError when the host is beyond loopback and the app has no token, or cannot be bound.
    """
    if not is_loopback(host) and not getattr(getattr(app, "state", None), "has_token", False):
        raise SettingsError(
            [
                f'control.host: "{host}" is beyond loopback and the port has no token; name a variable that holds one '
                'with control.token_env, or set control.host = "127.0.0.1"'
            ]
        )
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
        limit_concurrency=MAX_CONNECTIONS,
    )
    server = _Server(config)
    bound_host, bound_port = listener.getsockname()[:2]
    stopper = asyncio.create_task(_stop(server, shutdown))
    try:
        on_listening(bound_host, bound_port)
        await server.serve(sockets=[listener])
    finally:
        stopper.cancel()
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn's server, less its signal handlers: the composition root has its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _stop(server: uvicorn.Server, shutdown: asyncio.Event) -> None:
    await shutdown.wait()
    server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError([f'control.host: "{host}" cannot be used: {error.strerror or error}']) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise SettingsError(
            [f"control.port: {host}:{port} cannot be bound: {error.strerror or error}; choose another control.port"]
        ) from error
    return listener


def _add_probes(app: FastAPI, view: MonitorView, ledger: LedgerSource, metrics: ParityMetrics, recipe: str) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return json_reply({"alive": True})

    @app.get("/readyz")
    async def readyz() -> Response:
        conditions = dict(view.readiness())
        ready = all(conditions.values())
        lacks = {"lacks": view.state()["lacks"]} if "lacks" in view.state() else {}
        return json_reply({"ready": ready, "conditions": conditions, **lacks}, 200 if ready else 503)

    @app.get("/metrics")
    async def scrape(request: Request) -> Response:
        try:
            stats: LedgerStats | None = await asyncio.to_thread(ledger.stats)
        except LedgerError as error:
            _log.warning("the scrape goes without the ledger's size: %s", error)
            stats = None
        body, content_type = metrics.scrape(
            verdict=gate.current(view, recipe),
            readiness=view.readiness(),
            state=view.state(),
            ledger=stats,
            accept=request.headers.get("accept", ""),
        )
        return Response(body, media_type=content_type)

    @app.get("/state")
    async def state() -> Response:
        return json_reply(view.state())


def _add_acts(app: FastAPI, view: MonitorView) -> None:
    @app.post("/mirror/{act}")
    async def act(request: Request, act: Literal["pause", "resume"]) -> Response:
        (view.pause if act == "pause" else view.resume)()
        if wants_html(request):
            return RedirectResponse("/", 303)
        return json_reply({"paused": act == "pause"})

    @app.post("/rollout/{act}")
    async def rollout(request: Request, act: Literal["pause", "resume", "abort", "promote"]) -> Response:
        stands = await view.rollout_act(act, _reason_in(await small_body(request, MAX_ACT_BYTES)))
        if wants_html(request):
            return RedirectResponse("/", 303)
        return json_reply(stands)

    @app.post("/gate/reset")
    async def reset(request: Request) -> Response:
        position = await view.reset(_reason_in(await small_body(request, MAX_ACT_BYTES)))
        if wants_html(request):
            return RedirectResponse("/", 303)
        return json_reply({"reset": True, "position": position})


def _reason_in(body: bytes) -> str:
    """The operator's reason, empty when none is given. Raises: HTTPException."""
    try:
        told = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        told = None
    reason = told.get("reason", "") if isinstance(told, dict) else None
    if not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS:
        raise HTTPException(
            422, f'the body must be empty or a JSON object {{"reason": "..."}} of up to {MAX_REASON_CHARS} characters'
        )
    return reason


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> Response:
        return _problem(request, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{found['loc'][-1]}: {found['msg']}" for found in error.errors())
        return _problem(request, 422, told)

    @app.exception_handler(RolloutError)
    async def refused(request: Request, error: RolloutError) -> Response:
        return _problem(request, 409, str(error))

    @app.exception_handler(LedgerError)
    async def unreadable(request: Request, error: LedgerError) -> Response:
        return _problem(request, 503, str(error))


def _problem(request: Request, status: int, told: str, headers: Mapping[str, str] | None = None) -> Response:
    if wants_html(request):
        return HTMLResponse(problem(status, told), status, headers=dict(headers or {}))
    return json_reply({"error": told}, status, headers)
