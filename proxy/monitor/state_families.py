"""The monitor's state of this moment as Prometheus families: what waits, and what was turned away on its way to a row.

Read from `MonitorView.state()`, so that a scrape and `/state` never differ. What the state does not tell has no series.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from prometheus_client.core import Metric

from backends.capabilities import Finding
from proxy.exchange import Phase
from proxy.feed import ReceiverCounters
from proxy.monitor.order import OrderCounts
from proxy.monitor.prompt_tokens import WORDS
from proxy.monitor.tallies import counter, gauge, one_of

ARMS = ("candidate", "reference")
BREAKER_STATES = ("closed", "open", "half_open")
ORDER_EVENTS = tuple(entry.name for entry in fields(OrderCounts))
FEED_EVENTS = tuple(entry.name for entry in fields(ReceiverCounters))

_GAUGES = (
    # where in the state, metric, what it says
    (("paused",), "parity_mirror_paused", "1 while an operator has paused the mirror."),
    (("queue", "exchanges"), "parity_mirror_queue_exchanges", "Exchanges waiting for their shadow calls."),
    (
        ("queue", "oldest_s"),
        "parity_mirror_queue_oldest_seconds",
        "How long the first exchange that waits for its shadow calls has waited.",
    ),
    (("queue", "bytes"), "parity_mirror_queue_bytes", "Bytes held by exchanges that wait or are in work."),
    (("queue", "in_work"), "parity_mirror_in_work_exchanges", "Exchanges whose shadow calls are being made."),
    (("shadow_calls",), "parity_mirror_calls_in_flight", "Shadow calls under way."),
    (("ledger", "waiting_rows"), "parity_ledger_waiting_rows", "Rows that are not durable yet."),
    (
        *(("contract", "gate", "rules", "min_coverage"), "parity_coverage_required_ratio"),
        "The least coverage that a pass may rest on (gate.min_coverage).",
    ),
    (("order", "unreleased"), "parity_order_unreleased_exchanges", "Exchanges that have no row in the ledger yet."),
    (("order", "owed"), "parity_order_owed_rows", "Sampled requests turned away whose lost row is still to come."),
    (
        ("order", "oldest_open_s"),
        "parity_order_oldest_open_seconds",
        "How long the oldest exchange without a row holds the others back.",
    ),
)
_COUNTERS = (
    (("queue", "refused"), "parity_mirror_refused", "Exchanges that a full backlog turned away."),
    (("breaker", "times_opened"), "parity_breaker_opened", "How often the reference's breaker opened."),
    (("early_dropped",), "parity_mirror_early_dropped", "Events dropped while the ledger was being read."),
    (("ledger", "events_dropped"), "parity_ledger_dropped_events", "Operator's acts that the ledger never got."),
)


def state_families(state: Mapping[str, Any]) -> Iterator[Metric]:
    """Every `parity_mirror_*` and `parity_order_*` family, the breaker, and the feed's receiving side."""
    for path, name, help in _GAUGES:
        yield gauge(name, help, (), {(): _at(state, path)})
    breaker = state.get("breaker")
    now = breaker.get("state") if isinstance(breaker, Mapping) else breaker
    yield one_of("parity_breaker", "The reference's circuit breaker.", "state", BREAKER_STATES, str(now))
    contract = state.get("contract")
    if contract and "prompt_tokens" in contract:
        word = str(contract["prompt_tokens"])
        yield one_of("parity_prompt_tokens", "Whether the arms read the same prompts.", "state", WORDS, word)
    silent = state.get("unreachable")
    arms = {} if silent is None else {(arm,): float(arm not in silent) for arm in ARMS}
    yield gauge("parity_arm_reachable", "1 for an arm that answered when it was last asked what it is.", ("arm",), arms)
    yield gauge(
        "parity_arm_capability",
        "1 for what an engine was found able to do, 0 for what it lacks.",
        ("arm", "capability"),
        _capabilities(state.get("capabilities")),
    )
    pin = contract.get("pin") if contract else None
    if pin:
        broken = {(arm,): float(len(pin.get("broken", {}).get(arm, ()))) for arm in ARMS}
        yield gauge(
            "parity_contract_pin_differences", "What differs from the pinned contract, by arm.", ("arm",), broken
        )
    if isinstance(state.get("rollout"), Mapping):
        yield from _rollout(state["rollout"])
    for path, name, help in _COUNTERS:
        told = _at(state, path)
        yield counter(name, help, (), {} if told is None else {(): told})
    yield _counts(state, "order", ORDER_EVENTS, "parity_order_events", "What was odd in the sampling order, by kind.")
    yield _counts(
        state, "feed", FEED_EVENTS, "parity_feed_receiver_events", "What came in from the relays, and what was wrong."
    )


def _capabilities(told: Mapping[str, Any] | None) -> dict[tuple[str, ...], float]:
    """What is known; what is unknown has no series."""
    found: dict[tuple[str, ...], float] = {}
    for arm, one in (told or {}).items():
        for capability, finding in one["findings"].items():
            if finding != Finding.UNKNOWN:
                found[arm, capability] = float(finding == Finding.HAS)
    return found


def _rollout(rollout: Mapping[str, Any]) -> Iterator[Metric]:
    share, step = _at(rollout, ("share",)), _at(rollout, ("step",))
    yield gauge("parity_rollout_share", "Share of the clients that the candidate is to serve.", (), {(): share})
    yield gauge("parity_rollout_step", "The step of the staged rollout, from 1.", (), {(): step})
    phase = str(rollout.get("phase"))
    yield one_of("parity_rollout_phase", "Where the staged rollout stands.", "phase", tuple(Phase), phase)


def _counts(state: Mapping[str, Any], key: str, known: tuple[str, ...], name: str, help: str) -> Metric:
    told = {event: _at(state, (key, event)) for event in known}
    return counter(name, help, ("event",), {(event,): count for event, count in told.items() if count is not None})


def _at(state: Any, path: tuple[str, ...]) -> float | None:
    """The number at a path of the state; None when it is not there."""
    for key in path:
        state = state.get(key) if isinstance(state, Mapping) else None
    return float(state) if isinstance(state, int | float) else None
