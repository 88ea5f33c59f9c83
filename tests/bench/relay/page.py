"""The promises that a run is held against, and its tables in docs/performance.md. What was not measured has neither."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_WORKER_COLUMNS = ("cpu_per_request_us", "apart_cpu_per_request_us", "over_apart", "over_one_worker")
ARMS = ("direct", "nginx", "relay", "sglang-router", "litellm")

# Source: the project's own targets. Each holds for the median of the rounds.
MOST = {
    ("ratio_to_nginx", "cpu_per_request"): 1.5,
    ("ratio_to_nginx", "cpu_per_chunk"): 1.2,
}
LEAST = {
    ("litellm_over_relay", "cpu_per_request"): 300.0,
    ("sglang_router_over_relay", "cpu_per_request"): 1.0,
    ("sglang_router_over_relay", "cpu_per_chunk"): 1.0,
}
MAX_ADDED_MS = 0.1
MAX_CPU_RATIO, MAX_P99_RATIO = 1.15, 1.05
MAX_SHARED_RATIO = 1.1  # *choice*: what is shared may not cost a tenth of a request, with however many workers
MAX_LARGE_P99_MS = 1.0  # *choice*: a tenth of the time between two tokens of a fast engine (10 ms)


def promises(told: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Each promise that this run can speak of: its figure in words, and whether it was kept."""
    found: dict[str, tuple[str, bool]] = {}
    for (table, name), bound in MOST.items():
        if figure := told.get(table, {}).get(name):
            found[f"{table}.{name} at most {bound:g}"] = (words(figure), figure["median"] <= bound)
    for (table, name), bound in LEAST.items():
        if figure := told.get(table, {}).get(name):
            found[f"{table}.{name} at least {bound:g}"] = (words(figure), figure["median"] >= bound)
    added = told.get("scenarios", {}).get("1 connection", {}).get("relay", {}).get("added_p50_ms")
    if added:
        found[f"added at the median, one connection, at most {MAX_ADDED_MS} ms"] = (
            words(added, " ms"),
            added["median"] <= MAX_ADDED_MS,
        )
    arms = told.get("mirror_arms", {})
    noise = arms.get("off_again", {}).get("latency_p99_ratio", {})
    for arm in ("10", "100", "stalled"):
        if arm not in arms:
            continue
        cpu, p99, errors = (arms[arm][name] for name in ("cpu_per_chunk_ratio", "latency_p99_ratio", "errors"))
        allowed = MAX_P99_RATIO + max(0.0, noise["high"] - noise["low"])
        found[f"mirror {arm}: CPU per chunk at most {MAX_CPU_RATIO}x"] = (words(cpu), cpu["median"] <= MAX_CPU_RATIO)
        found[f"mirror {arm}: p99 at most {MAX_P99_RATIO}x and the run's own noise ({allowed:.2f}x)"] = (
            words(p99),
            p99["median"] <= allowed,
        )
        found[f"mirror {arm}: no errors"] = (str(errors), errors == 0)
    found |= _worker_promises(told.get("workers", {}))
    if large := told.get("large_bodies"):
        p99 = large["added_by_large"]["p99_ms"]
        found[f"1 MB bodies add at most {MAX_LARGE_P99_MS:g} ms to the p99 of small requests"] = (
            words(p99, " ms"),
            p99["median"] <= MAX_LARGE_P99_MS,
        )
        errors = sum(large["errors"].values())
        found["1 MB bodies: no errors"] = (str(errors), errors == 0)
    return found


def _worker_promises(workers: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, bool]]]:
    noise = workers.get("1", {}).get("over_apart", {})
    for number, found in workers.items():
        over, label = found["over_apart"], f"{number} workers" if number != "1" else "1 worker"
        if number != "1":
            allowed = MAX_SHARED_RATIO + max(0.0, noise["high"] - noise["low"])
            yield (
                f"{label}: CPU per request at most {MAX_SHARED_RATIO}x that of as many relays apart, and the noise "
                f"({allowed:.2f}x)",
                (words(over), over["median"] <= allowed),
            )
        counted = found["counted"]
        yield (
            f"{label}: the metrics count exactly what was sent",
            (f"{counted['requests']} of {found['sent']}", set(counted.values()) == {found["sent"]}),
        )
        without = found["without_a_connection"]
        yield (
            f"{label}: none without a connection, no errors",
            (
                f"{without} without, {found['errors']} errors",
                not without and not found["errors"],
            ),
        )


def said(promises: Mapping[str, tuple[str, bool]]) -> int:
    """Prints each promise, and whether it was kept; 0 when all were, else 1."""
    for name, (figure, kept) in promises.items():
        print(f"{'kept  ' if kept else 'BROKEN'} {name}: {figure}")
    return int(not all(kept for _, kept in promises.values()))


def filled(document: str, name: str, lines: Iterable[str]) -> str:
    """The document with these lines between the marks of that name, in place of what was there."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, rest = document.split(begin)
    _, tail = rest.split(end)
    return "\n".join((head + begin, *lines, end + tail))


def tables(told: Mapping[str, Any]) -> Iterator[str]:
    """The lines of every table that these figures give."""
    yield f"`{told['command']}`, {told['machine']}. Median of the rounds, quartiles in brackets."
    if "scenarios" in told:
        for title, columns in (
            ("requests", (("cpu_us", "CPU µs per request"), ("added_p50_ms", "added p50 ms"),
                          ("added_p99_ms", "added p99 ms"), ("per_second", "requests/s"), ("busy", "core used"))),
            ("streams", (("cpu_us", "CPU µs per chunk"), ("added_p50_ms", "added to a chunk, p50 ms"),
                         ("added_p99_ms", "p99 ms"), ("first_byte_ms", "first byte ms"), ("rss_mb", "RSS MB"))),
        ):  # fmt: skip
            yield ""
            yield f"| {title} | arm | " + " | ".join(label for _, label in columns) + " | errors |"
            yield "|---|---|" + "---|" * (len(columns) + 1)
            for scenario, arms in told["scenarios"].items():
                if ("streams" in scenario) == (title == "streams"):
                    for arm in ARMS:
                        if arm in arms:
                            cells = " | ".join(cell(arms[arm].get(key)) for key, _ in columns)
                            yield f"| {scenario} | {arm} | {cells} | {arms[arm]['errors']} |"
    for table in ("ratio_to_nginx", "sglang_router_over_relay", "litellm_over_relay"):
        if told.get(table):
            yield ""
            yield f"| {table} | median | quartiles |"
            yield "|---|---|---|"
            for name, figure in told[table].items():
                if figure:
                    yield f"| {name} | {figure['median']:.3g} | {figure['low']:.3g} to {figure['high']:.3g} |"
    if arms := told.get("mirror_arms"):
        yield ""
        columns = ("CPU per chunk", "p99 of a chunk", "CPU per request", "p99 of a reply", "errors")
        yield f"| mirror, over the arm without one | {' | '.join(columns)} |"
        yield "|---|---|---|---|---|---|"
        for arm in ("off_again", "10", "100", "stalled"):
            names = ("cpu_per_chunk_ratio", "latency_p99_ratio", "cpu_per_request_ratio", "request_latency_p99_ratio")
            label = {"off_again": "off, a second time", "stalled": "100 %, stalled"}.get(arm, f"{arm} %")
            yield f"| {label} | " + " | ".join(cell(arms[arm][n]) for n in names) + f" | {arms[arm]['errors']} |"
    for name, table in (("workers", _worker_table), ("large", _large_table)):
        if figures := told.get("large_bodies" if name == "large" else name):
            yield ""
            yield f"`python -m tests.bench.relay --part {name} --rounds {told[f'{name}_rounds']}`:"
            yield ""
            yield from table(figures)


def _worker_table(workers: Mapping[str, Any]) -> Iterator[str]:
    columns = ("CPU µs per request", "of as many relays apart", "ratio", "over one worker")
    more = ("connections of a worker", "sent", "counted", "idle, CPU ms a second each")
    yield f"| workers on one port, sharing a core | {' | '.join(columns + more)} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for number, found in workers.items():
        cells = (cell(found[name]) for name in _WORKER_COLUMNS)
        held = f"{found['connections_least']['median']:g} to {found['connections_most']['median']:g}"
        counted = found["counted"]["requests"]
        yield f"| {number} | {' | '.join(cells)} | {held} | {found['sent']} | {counted} | {found['idle_ms_per_s']:g} |"


def _large_table(large: Mapping[str, Any]) -> Iterator[str]:
    yield "| small requests | arm | p50 ms | p99 ms | slowest ms |"
    yield "|---|---|---|---|---|"
    for arm, loads in large["arms"].items():
        for load, found in loads.items():
            cells = " | ".join(cell(found[name]) for name in ("p50_ms", "p99_ms", "slowest_ms"))
            yield f"| {load} | {arm} | {cells} |"
    added = " | ".join(cell(large["added_by_large"][name]) for name in ("p50_ms", "p99_ms", "slowest_ms"))
    yield f"| what the large ones add | relay less direct | {added} |"


def cell(figure: Mapping[str, float] | None) -> str:
    """A median with its quartiles, for a table; empty where nothing was measured."""
    return "" if not figure else f"{figure['median']:.3g} [{figure['low']:.3g}, {figure['high']:.3g}]"


def words(figure: Mapping[str, float], unit: str = "") -> str:
    """A median with its quartiles, in a line."""
    return f"{figure['median']:.3g}{unit} ({figure['low']:.3g} to {figure['high']:.3g})"
