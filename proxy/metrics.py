"""What a relay worker counts: plain numbers, updated inline, handed over as one JSON-ready snapshot.

Every key is of a closed set, so that each may label a metric. All values but `in_flight` and `connections`
are cumulative since the worker started; the monitor sums the workers with `merge_snapshots`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from proxy.exchange import LossReason

ROUTES = ("chat_completions", "completions", "models", "embeddings", "responses", "other")
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx", "aborted")
RELAY_ERRORS = (
    "connect",  # no connection to the candidate, after all attempts
    "first_byte_timeout",  # the candidate took the request and did not begin a reply in time
    "cut",  # the candidate closed before its reply was whole
    "bad_reply",  # what the candidate sent is no HTTP/1.1 reply
    "refused_head",  # malformed, ambiguous or over-large request head
    "refused_body",  # malformed or over-large request body
    "unknown_path",
    "overload",  # max_in_flight reached
    "client_timeout",  # the client stopped sending or reading
)
FAILOVERS = ("connect", "cut")  # of RELAY_ERRORS, those after which the reference may answer
# Bucket bounds are a *choice*: a cached reply is under 5 ms, a 128K-token prefill takes minutes.
FIRST_BYTE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# The relay's own share of a request is some tens of microseconds (`tests/bench`); a new connection to the candidate
# is part of it, and a turn of a loaded event loop. Bounds are a *choice*.
ADDED_BUCKETS_S = (25e-6, 50e-6, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
# A timer is late by up to 1 ms on an idle loop (libuv counts in milliseconds). Bounds are a *choice*.
LOOP_LAG_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

_ROUTE_BY_PATH = {
    b"/v1/chat/completions": "chat_completions",
    b"/v1/completions": "completions",
    b"/v1/models": "models",
    b"/v1/embeddings": "embeddings",
    b"/v1/responses": "responses",
}


def route_of(path: bytes) -> str:
    """The route, one of ROUTES, that a request path counts under."""
    return _ROUTE_BY_PATH.get(path, "other")


class ArmCounters:
    """What one worker counts where two engines may serve: with [rollout], or with relay.failover."""

    __slots__ = ("candidate", "failovers", "reference", "share", "silences", "unheld")

    def __init__(self) -> None:
        self.candidate = 0  # requests that went to it; one that failed over counts here too
        self.reference = 0
        self.failovers = dict.fromkeys(FAILOVERS, 0)
        self.unheld = 0  # requests whose body found no room to be held, and that could not have failed over
        self.share = 0.0  # of the clients, that the candidate serves now
        self.silences = 0  # how often the reference took over because the monitor was silent

    def snapshot(self) -> dict[str, Any]:
        """All counts, JSON-ready. All but `share` are cumulative; workers merge to the largest share."""
        return {
            "served": {"candidate": self.candidate, "reference": self.reference},
            "failovers": dict(self.failovers),
            "unheld": self.unheld,
            "share": {"max": self.share},
            "silences": self.silences,
        }


class RelayCounters:
    """One worker's counts. Only its event loop writes them, so nothing is locked."""

    __slots__ = (
        "arms",
        "bytes_in",
        "bytes_out",
        "client_disconnects",
        "connections",
        "errors",
        "first_byte_counts",
        "first_byte_sum_s",
        "in_flight",
        "latency_added_counts",
        "latency_added_sum_s",
        "loop_lag_counts",
        "loop_lag_max_s",
        "loop_lag_sum_s",
        "lost",
        "not_sampled",
        "opted_out",
        "requests",
        "sampled",
        "tee_failures",
    )

    def __init__(self) -> None:
        self.arms: ArmCounters | None = None  # of a relay that has two engines
        self.requests = {route: dict.fromkeys(STATUS_CLASSES, 0) for route in ROUTES}
        self.errors = dict.fromkeys(RELAY_ERRORS, 0)
        self.lost = {reason.value: 0 for reason in LossReason}
        self.in_flight = 0
        self.connections = 0
        self.sampled = 0
        self.not_sampled = 0
        self.opted_out = 0
        self.tee_failures = 0
        self.client_disconnects = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.first_byte_counts = [0] * (len(FIRST_BYTE_BUCKETS_S) + 1)
        self.first_byte_sum_s = 0.0
        self.latency_added_counts = [0] * (len(ADDED_BUCKETS_S) + 1)
        self.latency_added_sum_s = 0.0
        self.loop_lag_counts = [0] * (len(LOOP_LAG_BUCKETS_S) + 1)
        self.loop_lag_max_s = 0.0
        self.loop_lag_sum_s = 0.0

    def count_request(self, route: str, status: int) -> None:
        """Counts one ended request; status 0 means that it was aborted before its reply was whole."""
        by_class = self.requests[route]
        if 200 <= status < 300:
            by_class["2xx"] += 1
        elif 300 <= status < 600:
            by_class[STATUS_CLASSES[status // 100 - 2]] += 1
        else:
            by_class["aborted"] += 1

    def observe_first_byte(self, seconds: float) -> None:
        self.first_byte_counts[bisect_left(FIRST_BYTE_BUCKETS_S, seconds)] += 1
        self.first_byte_sum_s += seconds

    def observe_latency_added(self, seconds: float) -> None:
        """One request's time inside the relay, as `Flight` defines it."""
        self.latency_added_counts[bisect_left(ADDED_BUCKETS_S, seconds)] += 1
        self.latency_added_sum_s += seconds

    def observe_loop_lag(self, seconds: float) -> None:
        self.loop_lag_counts[bisect_left(LOOP_LAG_BUCKETS_S, seconds)] += 1
        self.loop_lag_sum_s += seconds
        if seconds > self.loop_lag_max_s:
            self.loop_lag_max_s = seconds

    def snapshot(self) -> dict[str, Any]:
        """All counts, JSON-ready. The `counts` of a histogram are per bucket, not cumulative; the last is +Inf."""
        return {
            **({} if self.arms is None else {"arms": self.arms.snapshot()}),
            "requests": {route: dict(by_class) for route, by_class in self.requests.items()},
            "errors": dict(self.errors),
            "lost": dict(self.lost),
            "in_flight": self.in_flight,
            "connections": self.connections,
            "sampled": self.sampled,
            "not_sampled": self.not_sampled,
            "opted_out": self.opted_out,
            "tee_failures": self.tee_failures,
            "client_disconnects": self.client_disconnects,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "first_byte_s": _histogram(FIRST_BYTE_BUCKETS_S, self.first_byte_counts, self.first_byte_sum_s),
            "latency_added_s": _histogram(ADDED_BUCKETS_S, self.latency_added_counts, self.latency_added_sum_s),
            "loop_lag_s": {
                **_histogram(LOOP_LAG_BUCKETS_S, self.loop_lag_counts, self.loop_lag_sum_s),
                "max": self.loop_lag_max_s,
            },
        }


def _histogram(buckets: tuple[float, ...], counts: list[int], total: float) -> dict[str, Any]:
    return {"buckets": list(buckets), "counts": list(counts), "sum": total, "count": sum(counts)}


def merge_snapshots(snapshots: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One snapshot for all workers: numbers are added, `max` is the largest, bucket bounds stay as they are."""
    merged = RelayCounters().snapshot()
    for snapshot in snapshots:
        _add(merged, snapshot)
    return merged


def _add(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict):
            _add(into.setdefault(key, {}), value)
        elif key == "max":
            into[key] = max(into.get(key, value), value)
        elif key == "buckets":
            into[key] = value
        elif isinstance(value, list):
            into[key] = [a + b for a, b in zip(into.get(key, [0] * len(value)), value, strict=True)]
        else:
            into[key] = into.get(key, 0) + value
