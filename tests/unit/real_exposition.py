"""The scrape of a real monitor, idle or at work, and one in which every family has a series.

Tests of rules and documents hold what they name against these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from proxy.feed import ReceiverCounters
from proxy.metrics import ArmCounters, RelayCounters
from proxy.monitor.capability_watch import CapabilityWatch
from proxy.monitor.exposition import ParityMetrics
from proxy.monitor.ledger_reader import LedgerStats
from proxy.monitor.pipeline import Monitor
from proxy.presets import PRESETS
from proxy.settings import RolloutSettings, StepSettings
from scorers.catalogue import SPECS, scorers
from scorers.coverage import Coverage, StratumCoverage
from scorers.judge import Budget, GateRules, Verdict, start
from scorers.verdict import BudgetVerdict
from tests.unit.monitor_rig import MemoryLedger, ScriptedBackend, chat_reply, exchange, mark, ok, settings, until
from tests.unit.monitor_samples import bodies, lane, row, verdict

STEPS = (StepSettings(share=0.25, pairs=200, seconds=600.0), StepSettings(share=1.0))
SCENES = {"idle": (0, False), "rollout": (0, True), "served": (30, False), "full": (30, True)}  # (exchanges, in steps)
LEDGER = LedgerStats(rows=7, epochs=1, file_bytes=4096, wal_bytes=512)


def _budgets() -> tuple[Budget, ...]:
    """Those of every preset, as `parity` would make them."""
    made: dict[str, Budget] = {}
    for preset in PRESETS.values():
        for name, given in preset.items():
            spec = SPECS[name]
            strata = tuple(given.get("strata", ()))
            made[name] = Budget(
                name, given["limit"], spec.bounded, given.get("critical", False), strata=strata, unit=spec.unit
            )
    return tuple(made.values())


def _metrics() -> ParityMetrics:
    return ParityMetrics(specs=tuple(SPECS.values()), recipe="awq-int4-g128", version="1.2.3", budgets=_budgets())


async def _run(
    metrics: ParityMetrics, exchanges: int, rollout: bool
) -> tuple[Mapping[str, Any], Verdict, Mapping[str, bool]]:
    """(state, verdict, readiness) of a monitor that has written so many exchanges, and one of whose relays is there.

    `rollout`: both engines serve clients, in steps.
    """
    given = settings(noise_rate=1.0)
    monitor = Monitor(
        given.model_copy(update={"rollout": RolloutSettings(steps=STEPS)}) if rollout else given,
        ledger=MemoryLedger(),
        candidate=ScriptedBackend("candidate", lambda path, body: ok(chat_reply())),
        reference=ScriptedBackend("reference", lambda path, body: ok(chat_reply())),
        scorers=scorers(),
        evidence=lambda: start(_budgets(), GateRules()),
        metrics=metrics,
        salt=b"rig",
        capabilities=CapabilityWatch(20),
        wall=lambda: 100.0,
    )
    monitor.attach_feed(lambda: asdict(ReceiverCounters(connections=1)))
    shutdown = asyncio.Event()
    task = asyncio.create_task(monitor.run(shutdown))
    await until(lambda: monitor.readiness()["resumed"])
    monitor.on_connection("0-1", True)
    counters = RelayCounters()
    counters.arms = ArmCounters() if rollout else None
    for number in range(exchanges):
        counters.count_request("chat_completions", 200)
        counters.sampled += 1
        monitor.on_event(mark(number))
        monitor.on_event(exchange(number))
    monitor.on_stats("0-1", {**counters.snapshot(), "feed": {"offered": 2 * exchanges, "sent": 2 * exchanges}})
    await until(lambda: monitor.state()["ledger"]["rows_written"] == exchanges)
    now = monitor.state(), monitor.verdict(), monitor.readiness()
    shutdown.set()
    await asyncio.wait_for(task, 20)
    return now


def _full_verdict() -> Verdict:
    known = {"log10_e_rollback": -0.3, "change_level": 0.4}
    stratum = StratumCoverage(sampled=4, scored=2, ineligible=1, dropped=1)
    return verdict(
        budgets={
            "tool_call_mismatch": BudgetVerdict(
                name="tool_call_mismatch",
                limit=0.03,
                critical=True,
                unit="ratio",
                noise_limit=0.019,
                log10_threshold_promote=1.3,
                log10_threshold_rollback=2.0,
                lane=lane(**known),
                strata={"1k-4k": lane(**known)},
                over=(),
            )
        },
        coverage=Coverage(
            sampled=4,
            scored=2,
            ineligible={"path": 1},
            lost={"late": 1},
            recent=stratum,
            strata={"1k-4k/tools/whole/greedy": stratum},
        ),
    )


@cache
def _scene(kind: str) -> tuple[str, Mapping[str, Any]]:
    """(text of one scrape, the monitor's state then)."""
    metrics = _metrics()
    with ThreadPoolExecutor(1) as thread:  # a loop of its own, whatever runs where the caller is
        state, judged, ready = thread.submit(lambda: asyncio.run(_run(metrics, *SCENES[kind]))).result()
    broken = {"reference": ["reference engine engine_version: 1 became 2"]} if kind == "full" else {}
    pin = {"file": "contract.toml", "seal": "0123456789abcdef", "broken": broken}
    state = {**state, "contract": {**state["contract"], "pin": pin}}
    if kind == "full":
        judged = _full_verdict()
        metrics.row(row(100, bodies=bodies()))
        metrics.row(replace(row(101), disposition="lost", reason="late", stratum=None, scores=()))
        metrics.shadow_call("candidate", "ok", 0.2)
    body, _ = metrics.scrape(verdict=judged, readiness=ready, state=state, ledger=LEDGER)
    return body.decode(), state


def exposition(kind: str) -> str:
    """The text of one scrape: "idle" (nothing was ever asked), "rollout" (the same with a staged rollout), "served" (30
    exchanges), "full" (a series for all).
    """
    return _scene(kind)[0]


def state(kind: str) -> Mapping[str, Any]:
    """What /state answers then."""
    return _scene(kind)[1]


def families(kind: str) -> list[Metric]:
    """Our own families in that scrape: not those of the process."""
    found = text_string_to_metric_families(exposition(kind))
    return [family for family in found if family.name.startswith("parity_")]


def series(kind: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of our own in that scrape."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(kind)
        for sample in family.samples
    }
