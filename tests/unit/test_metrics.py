"""The counts of a relay worker: closed keys, JSON, and sums over workers."""

from __future__ import annotations

import json
import math

import pytest

from proxy.exchange import LossReason
from proxy.metrics import (
    ADDED_BUCKETS_S,
    FIRST_BYTE_BUCKETS_S,
    LOOP_LAG_BUCKETS_S,
    RELAY_ERRORS,
    ROUTES,
    STATUS_CLASSES,
    RelayCounters,
    merge_snapshots,
    route_of,
)
from proxy.relay.refusal import Refusal


def test_routes_are_a_closed_set() -> None:
    assert route_of(b"/v1/chat/completions") == "chat_completions"
    assert route_of(b"/v1/models") == "models"
    assert route_of(b"/v1/models/evil-label") == "other"
    assert {route_of(path) for path in (b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/x")} <= set(ROUTES)


def test_status_classes() -> None:
    counters = RelayCounters()
    for status in (200, 299, 301, 404, 500, 599, 0, 600, 999):
        counters.count_request("models", status)
    assert counters.requests["models"] == {"2xx": 2, "3xx": 1, "4xx": 1, "5xx": 2, "aborted": 3}


def test_first_byte_buckets_hold_their_upper_bound() -> None:
    counters = RelayCounters()
    for seconds in (0.0, FIRST_BYTE_BUCKETS_S[0], FIRST_BYTE_BUCKETS_S[1], math.nextafter(600.0, 700.0), 1e6):
        counters.observe_first_byte(seconds)
    assert counters.first_byte_counts[:2] == [2, 1]
    assert counters.first_byte_counts[-1] == 2
    assert len(counters.first_byte_counts) == len(FIRST_BYTE_BUCKETS_S) + 1


def test_loop_lag() -> None:
    counters = RelayCounters()
    for seconds in (0.1, 0.3, 0.2):
        counters.observe_loop_lag(seconds)
    snapshot = counters.snapshot()["loop_lag_s"]
    assert (snapshot["max"], snapshot["sum"], snapshot["count"]) == (0.3, 0.1 + 0.3 + 0.2, 3)
    assert snapshot["counts"][LOOP_LAG_BUCKETS_S.index(0.1)] == 1
    assert snapshot["counts"][LOOP_LAG_BUCKETS_S.index(0.25)] == 1
    assert snapshot["counts"][LOOP_LAG_BUCKETS_S.index(0.5)] == 1


def test_latency_added() -> None:
    counters = RelayCounters()
    for seconds in (0.0, 20e-6, 0.02, 99.0):
        counters.observe_latency_added(seconds)
    snapshot = counters.snapshot()["latency_added_s"]
    assert (snapshot["sum"], snapshot["count"]) == (pytest.approx(99.02002), 4)
    assert snapshot["counts"][0] == 2
    assert snapshot["counts"][ADDED_BUCKETS_S.index(0.025)] == 1
    assert snapshot["counts"][-1] == 1


@pytest.mark.parametrize("bounds", [FIRST_BYTE_BUCKETS_S, ADDED_BUCKETS_S, LOOP_LAG_BUCKETS_S])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_snapshot_is_json_with_closed_keys_and_a_copy() -> None:
    counters = RelayCounters()
    snapshot = counters.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert set(snapshot["requests"]) == set(ROUTES)
    assert all(set(by_class) == set(STATUS_CLASSES) for by_class in snapshot["requests"].values())
    assert set(snapshot["errors"]) == set(RELAY_ERRORS)
    assert set(snapshot["lost"]) == {reason.value for reason in LossReason}
    counters.count_request("models", 200)
    counters.errors["cut"] += 1
    assert snapshot == RelayCounters().snapshot()


def test_every_refusal_has_its_counter() -> None:
    assert {refusal.counter for refusal in Refusal} <= set(RELAY_ERRORS)


def test_merge_adds_and_takes_the_largest_lag() -> None:
    one, two = RelayCounters(), RelayCounters()
    one.count_request("models", 200)
    two.count_request("models", 200)
    two.errors["cut"] += 3
    one.bytes_in, two.bytes_in = 5, 7
    one.observe_first_byte(0.2)
    two.observe_first_byte(0.2)
    one.observe_loop_lag(0.5)
    two.observe_loop_lag(0.25)
    merged = merge_snapshots([one.snapshot(), two.snapshot()])
    assert merged["requests"]["models"]["2xx"] == 2
    assert merged["errors"]["cut"] == 3
    assert merged["bytes_in"] == 12
    assert merged["first_byte_s"]["count"] == 2
    assert sum(merged["first_byte_s"]["counts"]) == 2
    assert merged["first_byte_s"]["buckets"] == list(FIRST_BYTE_BUCKETS_S)
    assert (merged["loop_lag_s"]["max"], merged["loop_lag_s"]["sum"]) == (0.5, 0.75)
    assert sum(merged["loop_lag_s"]["counts"]) == merged["loop_lag_s"]["count"] == 2
    assert merge_snapshots([]) == RelayCounters().snapshot()
