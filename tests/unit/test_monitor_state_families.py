"""What the monitor turned away reaches a scrape under the keys that its state really has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest

from proxy.feed import ReceiverCounters
from proxy.monitor.order import OrderCounts
from proxy.monitor.pipeline import Monitor
from proxy.monitor.state_families import state_families
from scorers.catalogue import scorers
from scorers.judge import Budget, EvidenceState, GateRules, start
from tests.unit.monitor_rig import (
    MemoryLedger,
    Metrics,
    ScriptedBackend,
    chat_reply,
    exchange,
    mark,
    ok,
    settings,
    until,
)
from tests.unit.monitor_samples import FixedView

Series = Mapping[tuple[str, str], float]


def series(state: Mapping[str, Any]) -> Series:
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in state_families(state)
        for sample in family.samples
    }


def evidence() -> EvidenceState:
    return start((Budget("tool_call_mismatch", 0.03, bounded=True, critical=True),), GateRules())


@pytest.mark.asyncio
async def test_every_figure_is_found_in_the_state_of_a_real_monitor() -> None:
    monitor = Monitor(
        settings(concurrency=1, max_queue_exchanges=1),
        ledger=MemoryLedger(),
        candidate=ScriptedBackend("candidate", lambda path, body: ok(chat_reply())),
        reference=ScriptedBackend("reference", lambda path, body: ok(chat_reply())),
        scorers=scorers(),
        evidence=evidence,
        metrics=Metrics(),
        salt=b"rig",
        wall=lambda: 100.0,  # when the rig's exchanges were sampled
    )
    received = ReceiverCounters(connections=2, events=9, malformed=1)
    monitor.attach_feed(lambda: asdict(received))
    shutdown = asyncio.Event()
    task = asyncio.create_task(monitor.run(shutdown))
    await until(lambda: monitor.readiness()["resumed"])
    for event in (mark(0), mark(0)):
        monitor.on_event(event)
    for number in range(8):  # the backlog takes one of them
        monitor.on_event(exchange(number))
    got = series(monitor.state())
    assert got["parity_mirror_refused_total", ""] == 7
    assert got["parity_order_events_total", "duplicates"] == 1
    assert {event for name, event in got if name == "parity_order_events_total"} == set(asdict(OrderCounts()))
    assert got["parity_feed_receiver_events_total", "malformed"] == 1
    assert {event for name, event in got if name == "parity_feed_receiver_events_total"} == set(asdict(received))
    for name in (
        *("parity_mirror_paused", "parity_mirror_queue_exchanges", "parity_mirror_queue_bytes"),
        *("parity_mirror_in_work_exchanges", "parity_mirror_early_dropped_total", "parity_ledger_dropped_events_total"),
        *("parity_order_unreleased_exchanges", "parity_order_owed_rows", "parity_order_oldest_open_seconds"),
        *("parity_mirror_queue_oldest_seconds", "parity_mirror_calls_in_flight", "parity_breaker_opened_total"),
        "parity_ledger_waiting_rows",
    ):
        assert (name, "") in got
    assert got["parity_coverage_required_ratio", ""] == GateRules().min_coverage
    assert got["parity_arm_reachable", "reference"] == 1
    shutdown.set()
    await asyncio.wait_for(task, 20)


def test_whether_the_arms_read_the_same_prompts_is_a_series() -> None:
    for word, other in (("agree", "differ"), ("differ", "agree")):
        got = series({"contract": {"prompt_tokens": word}})
        assert (got["parity_prompt_tokens", word], got["parity_prompt_tokens", other]) == (1.0, 0.0)


def test_an_arm_that_does_not_answer_is_not_reachable() -> None:
    got = series({"unreachable": {"reference": "connection refused"}})
    assert (got["parity_arm_reachable", "candidate"], got["parity_arm_reachable", "reference"]) == (1, 0)


def test_what_the_state_does_not_tell_has_no_series() -> None:
    got = series(FixedView().state())
    assert got["parity_mirror_queue_exchanges", ""] == 2
    assert got["parity_breaker", "closed"] == 1
    assert not [name for name, _ in got if name.startswith(("parity_order", "parity_feed"))]
    assert series({"queue": "strange", "order": None, "paused": None, "feed": {"events": "x"}}) == {
        ("parity_breaker", state): 0.0 for state in ("closed", "open", "half_open")
    }


def test_a_rollout_shows_where_it_stands_and_only_when_there_is_one() -> None:
    assert not [name for name, _ in series(FixedView().state()) if "rollout" in name]
    got = series({"rollout": {"share": 0.25, "step": 2, "phase": "stepping"}})
    assert (got["parity_rollout_share", ""], got["parity_rollout_step", ""]) == (0.25, 2)
    phases = {phase: value for (name, phase), value in got.items() if name == "parity_rollout_phase"}
    assert phases == {"stepping": 1, "paused": 0, "promoted": 0, "failed": 0, "aborted": 0}
    assert ("parity_rollout_share", "") not in series({"rollout": {}})  # while the ledger is being read


def test_a_pin_that_holds_is_a_series_at_zero_and_none_is_no_series() -> None:
    name = "parity_contract_pin_differences"
    pinned = {"contract": {"pin": {"file": "c.toml", "seal": "s", "broken": {"reference": ["one", "another"]}}}}
    assert {arm: value for (of, arm), value in series(pinned).items() if of == name} == {
        "candidate": 0.0,
        "reference": 2.0,
    }
    pinned["contract"]["pin"]["broken"] = {}
    assert {value for (of, _), value in series(pinned).items() if of == name} == {0.0}
    assert not [of for of, _ in series({"contract": {"pin": None}}) if of == name]
    assert not [of for of, _ in series({}) if of == name]


def test_what_is_unknown_of_an_engine_has_no_series() -> None:
    told = {"capabilities": {"reference": {"findings": {"logprobs": "has", "seed": "refused", "tools": "unknown"}}}}
    shown = {label: value for (of, label), value in series(told).items() if of == "parity_arm_capability"}
    assert shown == {"referencelogprobs": 1.0, "referenceseed": 0.0}
