"""The relay workers' counts, added up so that a sum never goes down when a worker dies.

Each worker sends cumulative snapshots (proxy/metrics.py). The last one of a worker that is gone stays in the sum;
past a bound the oldest of those are folded into one. Gauges count only workers that are connected.

A worker outlives the monitor. What it had counted before this monitor began is left out, or a restart would look to
Prometheus like a reset followed by all of history at once, and old drops would raise new alarms.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.core import HistogramMetricFamily, Metric

from proxy.exchange import LossReason
from proxy.metrics import (
    ADDED_BUCKETS_S,
    FAILOVERS,
    FIRST_BYTE_BUCKETS_S,
    LOOP_LAG_BUCKETS_S,
    RELAY_ERRORS,
    ROUTES,
    STATUS_CLASSES,
    RelayCounters,
    merge_snapshots,
)
from proxy.monitor.tallies import counter, cumulative, gauge, number

MAX_GONE = 32  # *choice*: snapshots of workers that are gone, kept apart in case one comes back

_log = logging.getLogger(__name__)

_COUNTERS = (
    # key in the snapshot, metric, what it says
    ("sampled", "sampled", "Requests that the sampling coin chose."),
    ("not_sampled", "not_sampled", "Requests that the sampling coin did not choose, or that cannot be sampled."),
    ("opted_out", "opted_out", "Requests whose client asked not to be mirrored."),
    ("tee_failures", "tee_failures", "Captures that failed inside; the client was served all the same."),
    ("client_disconnects", "client_disconnects", "Clients that hung up before their reply was whole."),
    ("bytes_in", "received_bytes", "Bytes of requests from clients."),
    ("bytes_out", "sent_bytes", "Bytes of replies to clients."),
)

_FIRST_BYTE = "Time from a request's first byte to the reply's first byte."
_ADDED_LATENCY = "Time that a request's head and its reply's head spent in the relay together."
_LOOP_LAG = "How late a periodic timer of the relay's event loop came."
_HISTOGRAMS = (
    # key in the snapshot, metric, what it says, upper bounds
    ("first_byte_s", "first_byte", _FIRST_BYTE, FIRST_BYTE_BUCKETS_S),
    ("latency_added_s", "added_latency", _ADDED_LATENCY, ADDED_BUCKETS_S),
    ("loop_lag_s", "loop_lag", _LOOP_LAG, LOOP_LAG_BUCKETS_S),
)

_FEED_COUNTERS = (
    ("dropped_marks", "Of the dropped events, those that were no exchange but a mark or a loss."),
    ("notices", "Losses that the feed itself announced, for exchanges that it dropped."),
    ("notices_dropped", "Of the feed's notices of loss, those that never reached the monitor."),
    ("connections", "Connections that relay workers made to a monitor."),
)


class RelayTotals:
    """The last snapshot of every worker, and their sum.

    A worker that is first heard of within `returning_s` was there before (or is as new as this monitor, and has counted
    next to nothing yet). Units: seconds on the caller's monotonic clock.
    """

    def __init__(self, returning_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._returning_until_s = clock() + returning_s
        self._last: dict[str, dict[str, Any]] = {}
        self._connected: set[str] = set()
        self._base: dict[str, Any] = RelayCounters().snapshot()

    def stats(self, worker: str, snapshot: Mapping[str, Any]) -> None:
        """Takes a worker's cumulative snapshot. One that went down is a new worker of the same name.

        One that cannot be added up (a relay of another version) is left out, so that the scrape goes on.
        """
        try:
            merge_snapshots([dict(snapshot)])
        except (AttributeError, TypeError, ValueError) as error:
            _log.warning("the counts of relay worker %s are of another shape: %s", worker, error)
            return
        before = self._last.pop(worker, None)
        if before is None and self._clock() < self._returning_until_s:
            self._fold(_negated(dict(snapshot)))
        elif before is not None and _requests(snapshot) < _requests(before):
            self._fold(before)
        self._last[worker] = dict(snapshot)  # popped and set again: the order is by last news

    def connection(self, worker: str, connected: bool) -> None:
        """Notes that a worker came or went."""
        if connected:
            self._connected.add(worker)
            return
        self._connected.discard(worker)
        gone = [name for name in self._last if name not in self._connected]
        for name in gone[: max(0, len(gone) - MAX_GONE)]:
            self._fold(self._last.pop(name))

    def families(self) -> Iterator[Metric]:
        """Every `parity_relay_*` and `parity_feed_*` family."""
        total = merge_snapshots([self._base, *self._last.values()])
        live = merge_snapshots([self._last[name] for name in self._connected if name in self._last])
        requests = total["requests"]
        yield counter(
            "parity_relay_requests",
            "Requests that ended, by route and class of the status that the client got.",
            ("route", "status_class"),
            {(r, c): number(requests.get(r, {}).get(c)) for r in ROUTES for c in STATUS_CLASSES},
        )
        yield counter(
            "parity_relay_errors",
            "Errors that the relay itself answered or suffered, by kind.",
            ("kind",),
            {(kind,): number(total["errors"].get(kind)) for kind in RELAY_ERRORS},
        )
        yield counter(
            "parity_relay_lost",
            "Sampled exchanges that the capture dropped, by reason.",
            ("reason",),
            {(reason.value,): number(total["lost"].get(reason.value)) for reason in LossReason},
        )
        for key, name, help in _COUNTERS:
            yield counter(f"parity_relay_{name}", help, (), {(): number(total.get(key))})
        yield gauge("parity_relay_workers", "Relay workers connected to this monitor.", (), {(): len(self._connected)})
        yield gauge("parity_relay_in_flight_requests", "Requests in flight.", (), {(): number(live.get("in_flight"))})
        yield gauge("parity_relay_connections", "Client connections open.", (), {(): number(live.get("connections"))})
        if "arms" in total:
            yield from _arms(total["arms"], live.get("arms", {}))
        yield from _timings(total, live)
        yield from _feed(total.get("feed", {}), live.get("feed", {}))

    def _fold(self, snapshot: dict[str, Any]) -> None:
        self._base = merge_snapshots([self._base, snapshot])


def _negated(snapshot: dict[str, Any]) -> dict[str, Any]:
    """What takes a snapshot out of a sum; the largest and the bounds are no sums and stay."""
    out: dict[str, Any] = {}
    for key, value in snapshot.items():
        if isinstance(value, dict):
            out[key] = _negated(value)
        elif key in ("max", "buckets"):
            out[key] = value
        else:
            out[key] = [-count for count in value] if isinstance(value, list) else -value
    return out


def _requests(snapshot: Mapping[str, Any]) -> float:
    return sum(number(n) for by_class in snapshot.get("requests", {}).values() for n in by_class.values())


def _arms(total: Mapping[str, Any], live: Mapping[str, Any]) -> Iterator[Metric]:
    yield counter(
        "parity_relay_arm_requests",
        "Requests that began, by the arm that they were sent to; those that failed over count under the candidate.",
        ("arm",),
        {(arm,): number(total.get("served", {}).get(arm)) for arm in ("candidate", "reference")},
    )
    yield counter(
        "parity_relay_failovers",
        "Requests that the reference got after the candidate had failed before its first byte, by kind of the failure.",
        ("kind",),
        {(kind,): number(total.get("failovers", {}).get(kind)) for kind in FAILOVERS},
    )
    yield counter(
        "parity_relay_failover_unheld",
        "Requests whose body found no room to be held for a fail-over.",
        (),
        {(): _n(total, "unheld")},
    )
    yield counter(
        "parity_relay_rollout_silences",
        "How often a relay worker returned to the reference because the monitor was silent.",
        (),
        {(): _n(total, "silences")},
    )
    share = live.get("share", {}).get("max")
    yield gauge(
        "parity_relay_rollout_share_max",
        "The largest share of the clients that a connected relay worker sends to the candidate.",
        (),
        {(): None if share is None else number(share)},
    )


def _timings(total: Mapping[str, Any], live: Mapping[str, Any]) -> Iterator[Metric]:
    for key, name, help, bounds in _HISTOGRAMS:
        family = HistogramMetricFamily(f"parity_relay_{name}_seconds", help)
        family.add_metric((), cumulative(bounds, total[key]["counts"]), number(total[key]["sum"]))
        yield family
    yield gauge(
        "parity_relay_loop_lag_max_seconds",
        "The latest that a connected worker's event loop ever woke up.",
        (),
        {(): number(live["loop_lag_s"]["max"])},
    )


def _feed(total: Mapping[str, Any], live: Mapping[str, Any]) -> Iterator[Metric]:
    yield counter("parity_feed_offered", "Events that the relay left for the monitor.", (), {(): _n(total, "offered")})
    yield counter("parity_feed_sent", "Events that the monitor acknowledged.", (), {(): _n(total, "sent")})
    yield counter(
        "parity_feed_dropped",
        "Events that the feed dropped, by reason.",
        ("reason",),
        {(reason.value,): number(total.get("dropped", {}).get(reason.value)) for reason in LossReason},
    )
    for key, help in _FEED_COUNTERS:
        yield counter(f"parity_feed_{key}", help, (), {(): _n(total, key)})
    yield gauge(
        "parity_feed_queue_bytes", "Bytes that the feed holds for the monitor.", (), {(): _n(live, "queue_bytes")}
    )
    yield gauge(
        "parity_feed_queue_exchanges",
        "Exchanges that the feed holds for the monitor: its depth.",
        (),
        {(): _n(live, "queue_exchanges")},
    )


def _n(values: Mapping[str, Any], key: str) -> float:
    return number(values.get(key))
