"""Sums over relay workers never go down, whatever workers do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import LossReason
from proxy.metrics import ArmCounters, RelayCounters
from proxy.monitor.relay_totals import MAX_GONE, RelayTotals


def snapshot(requests: int, in_flight: int = 0) -> dict[str, Any]:
    counters = RelayCounters()
    for _ in range(requests):
        counters.count_request("chat_completions", 200)
        counters.observe_first_byte(0.2)
    counters.in_flight = in_flight
    counters.sampled = requests
    return counters.snapshot()


def figure(totals: RelayTotals, name: str, labels: Mapping[str, str] | None = None) -> float:
    for family in totals.families():
        for sample in family.samples:
            if sample.name == name and all(sample.labels.get(k) == v for k, v in (labels or {}).items()):
                return float(sample.value)
    raise AssertionError(f"no {name}")


SERVED = {"route": "chat_completions", "status_class": "2xx"}


def served(totals: RelayTotals) -> float:
    return figure(totals, "parity_relay_requests_total", SERVED)


def test_workers_are_added_up() -> None:
    totals = RelayTotals()
    for worker, requests in (("0-1", 3), ("1-2", 4)):
        totals.connection(worker, True)
        totals.stats(worker, snapshot(requests, in_flight=2))
    assert served(totals) == 7
    assert figure(totals, "parity_relay_sampled_total") == 7
    assert figure(totals, "parity_relay_first_byte_seconds_count") == 7
    assert figure(totals, "parity_relay_first_byte_seconds_bucket", {"le": "0.1"}) == 0
    assert figure(totals, "parity_relay_first_byte_seconds_bucket", {"le": "0.25"}) == 7
    assert figure(totals, "parity_relay_in_flight_requests") == 4
    assert figure(totals, "parity_relay_workers") == 2


def test_what_a_worker_counted_before_this_monitor_began_is_not_counted_again() -> None:
    """To Prometheus a restarted monitor is a counter reset; history that came back after it would look like news."""
    now_s = 50.0
    totals = RelayTotals(10.0, lambda: now_s)
    totals.connection("0-1", True)
    totals.stats("0-1", {**snapshot(500, in_flight=3), "feed": {"dropped": {"feed_full": 40}, "queue_bytes": 9}})
    assert served(totals) == 0
    assert figure(totals, "parity_feed_dropped_total", {"reason": "feed_full"}) == 0
    assert figure(totals, "parity_relay_first_byte_seconds_count") == 0
    assert figure(totals, "parity_relay_in_flight_requests") == 3  # what is so now is no history
    assert figure(totals, "parity_feed_queue_bytes") == 9
    totals.stats("0-1", {**snapshot(507), "feed": {"dropped": {"feed_full": 41}}})
    assert served(totals) == 7
    assert figure(totals, "parity_feed_dropped_total", {"reason": "feed_full"}) == 1
    now_s = 60.0
    totals.stats("1-2", snapshot(5))  # a worker that began after us: all that it counted is news
    totals.stats("0-1", snapshot(2))  # another of the same name
    assert served(totals) == 7 + 5 + 2


def test_time_in_the_relay_and_lag_are_histograms_over_all_workers() -> None:
    totals = RelayTotals()
    for worker in ("0-1", "1-2"):
        counters = RelayCounters()
        counters.observe_latency_added(40e-6)
        counters.observe_loop_lag(0.3)
        totals.stats(worker, counters.snapshot())
    assert figure(totals, "parity_relay_added_latency_seconds_bucket", {"le": "2.5e-05"}) == 0
    assert figure(totals, "parity_relay_added_latency_seconds_bucket", {"le": "5e-05"}) == 2
    assert figure(totals, "parity_relay_added_latency_seconds_sum") == 80e-6
    assert figure(totals, "parity_relay_loop_lag_seconds_bucket", {"le": "0.25"}) == 0
    assert figure(totals, "parity_relay_loop_lag_seconds_bucket", {"le": "0.5"}) == 2


def test_counts_of_an_older_relay_are_added_without_what_it_does_not_know() -> None:
    totals = RelayTotals()
    old = snapshot(3)
    del old["latency_added_s"]
    old["loop_lag_s"] = {"max": 0.5, "sum": 0.7, "count": 4}
    totals.stats("0-1", old)
    assert served(totals) == 3
    assert figure(totals, "parity_relay_added_latency_seconds_count") == 0


def test_a_worker_that_is_gone_keeps_its_counts_and_loses_its_gauges() -> None:
    totals = RelayTotals()
    totals.connection("0-1", True)
    totals.stats("0-1", snapshot(3, in_flight=2))
    totals.connection("0-1", False)
    totals.connection("0-9", True)
    totals.stats("0-9", snapshot(1, in_flight=1))
    assert served(totals) == 4
    assert figure(totals, "parity_relay_in_flight_requests") == 1
    assert figure(totals, "parity_relay_workers") == 1


def test_a_worker_that_starts_again_under_its_name_counts_on() -> None:
    totals = RelayTotals()
    totals.connection("0-1", True)
    totals.stats("0-1", snapshot(5))
    totals.stats("0-1", snapshot(2))
    assert served(totals) == 7


def test_many_dead_workers_are_folded_into_one() -> None:
    totals = RelayTotals()
    for n in range(3 * MAX_GONE):
        totals.connection(f"0-{n}", True)
        totals.stats(f"0-{n}", snapshot(1))
        totals.connection(f"0-{n}", False)
    assert served(totals) == 3 * MAX_GONE
    assert len(totals._last) <= MAX_GONE


def test_a_snapshot_with_missing_or_strange_parts_breaks_nothing() -> None:
    totals = RelayTotals()
    totals.connection("0-1", True)
    totals.stats("0-1", {"feed": {"offered": 4, "dropped": {}}})
    totals.stats("0-2", {"requests": {"made_up": {"2xx": 1}}, "errors": {"made_up": 3}, "brand_new": 9})
    totals.stats("0-3", {"first_byte_s": {"counts": [1]}})
    totals.stats("0-4", {"requests": 7})
    assert served(totals) == 0
    assert figure(totals, "parity_feed_offered_total") == 4


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["news", "restart", "gone", "back"])), max_size=40))
def test_no_sum_ever_goes_down(acts: list[tuple[int, str]]) -> None:
    totals = RelayTotals()
    counts = dict.fromkeys(range(4), 0)
    before = 0.0
    for worker, act in acts:
        if act == "gone":
            totals.connection(f"0-{worker}", False)
        elif act == "back":
            totals.connection(f"0-{worker}", True)
        else:
            counts[worker] = 1 if act == "restart" else counts[worker] + 2
            totals.stats(f"0-{worker}", snapshot(counts[worker]))
        now = served(totals)
        assert now >= before
        before = now


def test_every_drop_of_the_feed_is_told_by_its_reason() -> None:
    totals = RelayTotals()
    totals.connection("0-1", True)
    dropped = {reason.value: n for n, reason in enumerate(LossReason, start=1)}
    counts = {"dropped": dropped, "dropped_marks": 4, "notices": 7, "notices_dropped": 2, "connections": 3}
    totals.stats("0-1", {**snapshot(1), "feed": counts})
    for reason, count in dropped.items():
        assert figure(totals, "parity_feed_dropped_total", {"reason": reason}) == count
    for key in ("dropped_marks", "notices", "notices_dropped", "connections"):
        assert figure(totals, f"parity_feed_{key}_total") == counts[key]


def test_two_engines_are_told_apart_and_the_share_is_the_largest_of_those_connected() -> None:
    totals = RelayTotals()
    totals.connection("0-1", True)
    totals.stats("0-1", snapshot(3))
    assert not [family.name for family in totals.families() if "arm" in family.name or "rollout" in family.name]
    for worker, share in (("0-1", 0.25), ("1-2", 0.0), ("2-3", 1.0)):
        arms = ArmCounters()
        arms.candidate, arms.reference, arms.share, arms.silences = 3, 4, share, 1
        arms.failovers["cut"] = 2
        totals.connection(worker, True)
        totals.stats(worker, {**snapshot(7), "arms": arms.snapshot()})
    totals.connection("2-3", False)
    assert figure(totals, "parity_relay_arm_requests_total", {"arm": "candidate"}) == 9
    assert figure(totals, "parity_relay_arm_requests_total", {"arm": "reference"}) == 12
    assert figure(totals, "parity_relay_failovers_total", {"kind": "cut"}) == 6
    assert figure(totals, "parity_relay_failovers_total", {"kind": "connect"}) == 0
    assert figure(totals, "parity_relay_rollout_silences_total") == 3
    assert figure(totals, "parity_relay_rollout_share_max") == 0.25
