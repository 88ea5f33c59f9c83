"""Composition root: the only place that names concrete classes and joins them.

Three programs are put together here: a relay worker, the monitor, and the supervisor of both. Each takes what was
loaded from the settings file, runs until SIGTERM or SIGINT, and drains.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, closing
from dataclasses import asdict
from typing import Any

import orjson
import uvloop

from backends.openai import OpenAIBackend
from backends.pinned.pin import PinError, read_pin
from proxy import __version__
from proxy.errors import ParityError, SettingsError
from proxy.feed import UnixFeedReceiver, UnixFeedSender, max_frame_bytes
from proxy.metrics import RelayCounters
from proxy.monitor.allocator import keep_freed_memory
from proxy.monitor.capability_watch import CapabilityWatch
from proxy.monitor.control import create_control_app, serve_control
from proxy.monitor.evaluate import mismatch_rule
from proxy.monitor.exposition import ParityMetrics
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.pinned import PinnedWatch
from proxy.monitor.pipeline import Monitor
from proxy.monitor.redact import redactor
from proxy.relay import serve_relay
from proxy.report import knobs, plan
from proxy.report.engines import Probed, probe
from proxy.settings import Settings, UpstreamSettings
from proxy.settings_file import Loaded
from proxy.supervisor import Child, Policy, reserve_port, supervise
from scorers.catalogue import SPECS, scorers
from scorers.judge import Budget, EvidenceState, GateRules

DRAIN_MARGIN_S = 5.0  # choice: what a relay may take beyond its own drain time before it is killed
RELAYS_RETURN_S = 10.0  # choice: past its reconnect interval, how long a relay may take to find a new monitor
FEED_FLUSH_S = 2.0  # choice: how long a leaving relay worker waits for the monitor to take the rest


def announce(role: str, host: str, port: int) -> None:
    """One JSON line on stdout: the supervisor and scripts learn the port from it."""
    print(orjson.dumps({"event": "listening", "role": role, "host": host, "port": port}).decode(), flush=True)


def run_relay(loaded: Loaded, index: int, port: int | None = None) -> None:
    """Runs one relay worker until it is told to stop. `port` stands in for `relay.port`."""
    _run(lambda shutdown: _relay(loaded, index, port, shutdown))


def run_monitor(loaded: Loaded, port: int | None = None) -> None:
    """Runs the monitor until it is told to stop. `port` stands in for `control.port`.

    Raises:  LedgerError, SettingsError, FeedError.
    """
    holds = knobs.holds(loaded.settings.gate)
    for sentence in holds:
        logging.getLogger(__name__).warning("no pass: %s", sentence)
    keep_freed_memory()
    _run(lambda shutdown: _monitor(loaded, port, shutdown, holds))


def serve(loaded: Loaded, log_level: str) -> int:
    """The exit code of a supervised relay and monitor.

    Raises:  SupervisorError when no relay worker will stay up, or the port is taken.
    """
    code: int = _run(lambda shutdown: _serve(loaded, log_level, shutdown))
    return code


def budgets_of(settings: Settings) -> tuple[Budget, ...]:
    """The judge's budgets from the settings' tables and the scores' own specifications."""
    return tuple(
        Budget(
            name=name,
            limit=budget.limit,
            bounded=SPECS[name].bounded,
            critical=budget.critical,
            noise_multiple=budget.noise_multiple,
            slack=budget.slack,
            strata=budget.strata,
            unit=SPECS[name].unit,
        )
        for name, budget in settings.budgets.items()
    )


def rules_of(settings: Settings) -> GateRules:
    """The judge's rules from `[gate]`."""
    return GateRules(
        alpha_promote=settings.gate.alpha_promote,
        alpha_rollback=settings.gate.alpha_rollback,
        max_pairs=settings.gate.max_pairs,
        min_coverage=settings.gate.min_coverage,
    )


def check(loaded: Loaded) -> None:
    """Builds what only construction can refuse, and keeps nothing of it.

    Raises:  SettingsError.
    """
    redactor(loaded.settings.ledger.redact)
    budgets_of(loaded.settings)


def missing_files(loaded: Loaded) -> list[str]:
    """The weights and the pin that the file names and that are not here, or cannot be read, one line each. A relay
    serves without them: only `parity check-config` refuses them, and the monitor a pin that it cannot read."""
    arms = {"candidate": loaded.settings.candidate, "reference": loaded.settings.reference}
    missing = [
        f"{name}.weights: there is no {arm.weights}; give the model's directory on the monitor's machine, or remove it"
        for name, arm in arms.items()
        if arm.weights is not None and not arm.weights.exists()
    ]
    try:
        pinned_of(loaded.settings)
    except SettingsError as error:
        missing += error.problems
    return missing


def pinned_of(settings: Settings) -> PinnedWatch | None:
    """The pin that the arms are held against, if one is named. Raises: SettingsError."""
    path = settings.reference.contract
    if path is None:
        return None
    try:
        return PinnedWatch(path.name, read_pin(path))
    except PinError as error:
        raise SettingsError([f"reference.contract: {error}"]) from None


def plan_of(loaded: Loaded, requests_per_s: float | None) -> plan.Plan:
    """What each budget needs before it can pass, and how long that takes at `requests_per_s` or what the ledger saw.

    Raises:  LedgerError when there is a ledger at the settings' path and it cannot be read.
    """
    settings = loaded.settings
    return plan.of(settings, budgets_of(settings), rules_of(settings), requests_per_s)


def probed(loaded: Loaded) -> Probed:
    """What both engines can do, asked now. It takes as long as a dozen tiny requests, or their time-outs."""
    return uvloop.run(_probed(loaded))


async def _probed(loaded: Loaded) -> Probed:
    settings = loaded.settings
    async with AsyncExitStack() as stack:
        arms = {
            "candidate": _backend("candidate", settings.candidate, loaded.secrets.candidate_api_key, settings),
            "reference": _backend("reference", settings.reference, loaded.secrets.reference_api_key, settings),
        }
        for arm in arms.values():
            stack.push_async_callback(arm.aclose)
        models = {"candidate": settings.candidate.model, "reference": settings.reference.model}
        return await probe(arms, models, settings.budgets, settings.mirror.top_logprobs)


def hints(loaded: Loaded) -> list[str]:
    """What is allowed and probably not meant, one sentence each."""
    settings = loaded.settings
    said = [f"no pass: {sentence}" for sentence in knobs.holds(settings.gate)]
    if settings.sampling.rate == 0:
        said.append("sampling.rate is 0: nothing is mirrored, and the verdict stays inconclusive")
    if settings.mirror.noise_rate == 0:
        said.append("mirror.noise_rate is 0: the noise floor is never measured, so no bounded budget can pass")
    if settings.mirror.replay_rate == 0:
        said.append("mirror.replay_rate is 0: requests with a temperature above 0 are never compared, nor logprobs")
    if settings.rollout is not None and settings.sampling.rate == 0:
        said.append("[rollout] with sampling.rate 0: without evidence it stays at its first step")
    if settings.rollout is not None and settings.mirror.replay_rate == 0:
        said.append("[rollout] with mirror.replay_rate 0: the clients whom the reference serves give no evidence")
    if settings.mirror.needle_rate == 0 and "needle_recall_loss" in settings.budgets:
        said.append("mirror.needle_rate is 0: budgets.needle_recall_loss gets no data")
    return said


def _fresh_evidence(settings: Settings) -> Callable[[], EvidenceState]:
    budgets, rules = budgets_of(settings), rules_of(settings)
    return lambda: EvidenceState(budgets, rules)


async def _serve(loaded: Loaded, log_level: str, shutdown: asyncio.Event) -> int:
    """Both ports are held here, so that a restarted child comes back where it was."""
    settings = loaded.settings
    relay_port, relay_holder = reserve_port(settings.relay.host, settings.relay.port, "relay.port")
    control_port, control_holder = reserve_port(settings.control.host, settings.control.port, "control.port")
    common = ("--config", str(loaded.path), "--log-level", log_level)
    program = (sys.executable, "-m", "proxy.cli")
    children = [
        Child("monitor", (*program, "monitor", "--port", str(control_port), *common), critical=False),
        *(
            Child(
                f"relay-{n}", (*program, "relay", "--worker", str(n), "--port", str(relay_port), *common), critical=True
            )
            for n in range(settings.relay.workers)
        ),
    ]
    policy = Policy(drain_timeout_s=settings.relay.drain_timeout_s + DRAIN_MARGIN_S)
    with relay_holder, control_holder:
        return await supervise(
            children,
            shutdown,
            logging.getLogger("parity"),
            on_ready=lambda _, told: announce(told["role"], told["host"], told["port"]),
            policy=policy,
        )


async def _relay(loaded: Loaded, index: int, port: int | None, shutdown: asyncio.Event) -> None:
    settings = loaded.settings
    if port is not None:
        settings = settings.model_copy(update={"relay": settings.relay.model_copy(update={"port": port})})
    # In a container every life has the same pid; the ledger would take its numbers for those of the one before.
    worker = f"{index}-{os.getpid()}-{os.urandom(3).hex()}"
    counters = RelayCounters()
    feed = UnixFeedSender(settings.feed, worker=worker, stats=counters.snapshot)
    await feed.start()
    try:
        await serve_relay(
            settings,
            worker=worker,
            feed=feed,
            counters=counters,
            shutdown=shutdown,
            on_listening=lambda host, port: announce("relay", host, port),
            salt=loaded.secrets.sampling_salt,
        )
    finally:
        await feed.aclose(FEED_FLUSH_S)


async def _monitor(loaded: Loaded, port: int | None, shutdown: asyncio.Event, holds: list[str]) -> None:
    settings, secrets = loaded.settings, loaded.secrets
    limits = {name: budget.limit for name, budget in settings.budgets.items()}
    async with AsyncExitStack() as stack:
        ledger = stack.enter_context(closing(SqliteLedger(settings.ledger, is_mismatch=mismatch_rule(limits))))
        metrics = ParityMetrics(
            specs=list(SPECS.values()),
            recipe=settings.gate.recipe,
            version=__version__,
            budgets=budgets_of(settings),
            relays_return_s=settings.feed.reconnect_interval_s + RELAYS_RETURN_S,
        )
        candidate = _backend("candidate", settings.candidate, secrets.candidate_api_key, settings)
        stack.push_async_callback(candidate.aclose)
        reference = _backend("reference", settings.reference, secrets.reference_api_key, settings)
        stack.push_async_callback(reference.aclose)
        monitor = Monitor(
            settings,
            ledger=ledger,
            candidate=candidate,
            reference=reference,
            scorers=scorers(),
            evidence=_fresh_evidence(settings),
            metrics=metrics,
            salt=secrets.sampling_salt,
            pinned=pinned_of(settings),
            capabilities=CapabilityWatch(settings.mirror.top_logprobs),
            holds=holds,
        )
        feed = UnixFeedReceiver(
            settings.feed.socket,
            on_event=monitor.on_event,
            on_stats=monitor.on_stats,
            on_connection=monitor.on_connection,
            max_frame_bytes=max_frame_bytes(settings.feed),
        )
        monitor.attach_feed(lambda: asdict(feed.counters), feed.order)
        await feed.start()
        stack.push_async_callback(feed.aclose)
        control = create_control_app(
            monitor, ledger, metrics, secrets.control_token, settings.gate.recipe, secrets.gate_token
        )
        leaving = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_after_pausing(feed, shutdown, leaving))
            tasks.create_task(
                serve_control(
                    control,
                    settings.control.host,
                    settings.control.port if port is None else port,
                    shutdown,
                    lambda host, port: announce("control", host, port),
                )
            )
            tasks.create_task(monitor.run(leaving))


async def _after_pausing(feed: UnixFeedReceiver, shutdown: asyncio.Event, leaving: asyncio.Event) -> None:
    """Sets `leaving` once nothing is read any more: a relay keeps what was not acknowledged for the next monitor."""
    await shutdown.wait()
    feed.pause()
    leaving.set()


def _backend(name: str, arm: UpstreamSettings, api_key: str | None, settings: Settings) -> OpenAIBackend:
    return OpenAIBackend(
        name,
        arm.url,
        api_key=api_key,
        connect_timeout_s=settings.relay.connect_timeout_s,
        max_reply_bytes=settings.mirror.max_reply_bytes,
        max_connections=settings.mirror.concurrency * 2,
    )


def _run(main: Callable[[asyncio.Event], Coroutine[Any, Any, Any]]) -> Any:
    """What `main` returns, on uvloop, with an event that SIGTERM or SIGINT sets. A second signal ends it at once."""

    async def run() -> Any:
        shutdown = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            if shutdown.is_set():
                os._exit(128 + number)
            shutdown.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        return await main(shutdown)

    try:
        return uvloop.run(run())
    except ExceptionGroup as group:
        first = group.exceptions[0]  # of tasks that fell together, the one that fell first
        if isinstance(first, ParityError):
            raise first from None
        raise
