"""Counts, buckets and gauges as Prometheus reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor.tallies import Buckets, Counts, cumulative, gauge, number, one_of


def test_known_series_are_there_before_their_first_step() -> None:
    counts = Counts("parity_x", "help", ("a",), [("one",)])
    counts.add("two", by=2)
    assert {s.labels["a"]: s.value for s in counts.family().samples} == {"one": 0, "two": 2}


def test_buckets_are_cumulative_and_their_bounds_inclusive() -> None:
    buckets = Buckets("parity_x", "help", (), (0.0, 1.0))
    for value in (0.0, 0.5, 1.0, 7.0):
        buckets.observe(value)
    found = {s.labels.get("le", s.name): s.value for s in buckets.family().samples}
    assert found == {"0": 1, "1": 3, "+Inf": 4, "parity_x_count": 4, "parity_x_sum": 8.5}


def test_a_bucket_keeps_its_latest_exemplar() -> None:
    buckets = Buckets("parity_x", "help", (), (1.0,))
    for value, pair, at_s in ((0.5, "a", 10.0), (0.7, "b", 11.0), (0.6, "late", 9.0), (5.0, "c", 3.0)):
        buckets.observe(value, exemplar={"pair_id": pair}, at_s=at_s)
    buckets.observe(0.1)
    found = {s.labels["le"]: s.exemplar for s in buckets.family().samples if s.name == "parity_x_bucket"}
    kept = {le: (e.labels["pair_id"], e.value, e.timestamp) for le, e in found.items() if e is not None}
    assert kept == {"1": ("b", 0.7, 11.0), "+Inf": ("c", 5.0, 3.0)}


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_the_last_bucket_holds_all(counts: list[int]) -> None:
    assert cumulative((0.1, 2.5), counts) == [
        ("0.1", counts[0]),
        ("2.5", counts[0] + counts[1]),
        ("+Inf", sum(counts)),
    ]


def test_what_is_unknown_has_no_series() -> None:
    assert [s.labels["a"] for s in gauge("parity_x", "help", ("a",), {("x",): None, ("y",): 1}).samples] == ["y"]


def test_exactly_one_state_is_set_or_none() -> None:
    family = one_of("parity_x", "help", "state", ("a", "b"), "b")
    assert {s.labels["state"]: s.value for s in family.samples} == {"a": 0, "b": 1}
    assert [s.value for s in one_of("parity_x", "help", "state", ("a", "b"), "None").samples] == [0, 0]


@pytest.mark.parametrize(("sent", "read"), [(3, 3.0), (2.5, 2.5), ("3", 0.0), (None, 0.0), (True, 0.0), ([1], 0.0)])
def test_what_another_process_sent_is_a_number_or_0(sent: object, read: float) -> None:
    assert number(sent) == read
