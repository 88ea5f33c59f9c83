"""Running counts with closed labels, and how they become Prometheus families.

Our own rather than prometheus_client's metric objects, because sums over relay workers, gauges that are absent
while unknown, and counters without `_created` series all need a collector of our own anyway.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric

Labels = TypeVar("Labels", bound=tuple[str, ...])


class Counts:
    """A counter by labels. Series named in `known` are there from the start, so that rate() sees their first step."""

    __slots__ = ("_help", "_labels", "_name", "_values")

    def __init__(self, name: str, help: str, labels: Sequence[str], known: Iterable[tuple[str, ...]] = ()) -> None:
        self._name = name
        self._help = help
        self._labels = tuple(labels)
        self._values: dict[tuple[str, ...], float] = dict.fromkeys(known, 0)

    def add(self, *labels: str, by: float = 1) -> None:
        self._values[labels] = self._values.get(labels, 0) + by

    def family(self) -> Metric:
        """The family as Prometheus reads it."""
        return counter(self._name, self._help, self._labels, self._values)


class Buckets:
    """A histogram by labels, with fixed upper bounds. Each bucket keeps the exemplar of its latest observation."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_help", "_labels", "_name", "_sums")

    def __init__(self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._name = name
        self._help = help
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._exemplars: dict[tuple[str, ...], dict[int, tuple[float, Exemplar]]] = {}

    def observe(self, value: float, *labels: str, exemplar: Mapping[str, str] | None = None, at_s: float = 0.0) -> None:
        """Counts one value. `exemplar` names what it was seen on. Units: at_s seconds since the Unix epoch."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        bucket = bisect_left(self._bounds, value)
        counts[bucket] += 1
        self._sums[labels] += value
        if exemplar is not None:
            kept = self._exemplars.setdefault(labels, {})
            if bucket not in kept or kept[bucket][0] <= at_s:  # a scraper refuses those that go back in time
                kept[bucket] = at_s, Exemplar(dict(exemplar), value, at_s)

    def family(self) -> Metric:
        """The family as Prometheus reads it."""
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        for labels, counts in self._counts.items():
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = list(cumulative(self._bounds, counts))
            for bucket, (_, exemplar) in self._exemplars.get(labels, {}).items():
                bound, count, *_ = buckets[bucket]
                buckets[bucket] = bound, count, exemplar
            family.add_metric(labels, buckets, self._sums[labels])
        return family


def counter(name: str, help: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    """A counter family; `name` is without `_total`."""
    family = CounterMetricFamily(name, help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(name: str, help: str, labels: Sequence[str], values: Mapping[Labels, float | None]) -> Metric:
    """A gauge family; what is None is absent, never NaN."""
    family = GaugeMetricFamily(name, help, labels=labels)
    for key, value in values.items():
        if value is not None:
            family.add_metric(key, value)
    return family


def one_of(name: str, help: str, label: str, known: Iterable[str], current: str | None) -> Metric:
    """A gauge with every known state present: 1 for the current one, 0 for the others."""
    return gauge(name, help, (label,), {(state,): float(state == current) for state in known})


def cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """(upper bound, cumulative count) per bucket, the last one "+Inf".

    Shapes:  counts are per bucket, one more than bounds.
    """
    total = 0
    out: list[tuple[str, float]] = []
    for bound, count in zip([*(f"{bound:g}" for bound in bounds), "+Inf"], counts, strict=True):
        total += count
        out.append((bound, total))
    return out


def number(value: Any) -> float:
    """What another process sent, as a number; 0 for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
