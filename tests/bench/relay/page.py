"""The promises that a run is held against, and its tables in docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BEGIN, END = "<!-- relay: begin -->", "<!-- relay: end -->"
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


def promises(told: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Each promise that this run can speak of: its figure in words, and whether it was kept."""
    found: dict[str, tuple[str, bool]] = {}
    for (table, name), bound in MOST.items():
        if figure := told.get(table, {}).get(name):
            found[f"{table}.{name} at most {bound:g}"] = (_words(figure), figure["median"] <= bound)
    for (table, name), bound in LEAST.items():
        if figure := told.get(table, {}).get(name):
            found[f"{table}.{name} at least {bound:g}"] = (_words(figure), figure["median"] >= bound)
    added = told.get("scenarios", {}).get("1 connection", {}).get("relay", {}).get("added_p50_ms")
    if added:
        found[f"added at the median, one connection, at most {MAX_ADDED_MS} ms"] = (
            _words(added, " ms"),
            added["median"] <= MAX_ADDED_MS,
        )
    arms = told.get("mirror_arms", {})
    noise = arms.get("off_again", {}).get("latency_p99_ratio", {})
    for arm in ("10", "100", "stalled"):
        if arm not in arms:
            continue
        cpu, p99, errors = (arms[arm][name] for name in ("cpu_per_chunk_ratio", "latency_p99_ratio", "errors"))
        allowed = MAX_P99_RATIO + max(0.0, noise["high"] - noise["low"])
        found[f"mirror {arm}: CPU per chunk at most {MAX_CPU_RATIO}x"] = (_words(cpu), cpu["median"] <= MAX_CPU_RATIO)
        found[f"mirror {arm}: p99 at most {MAX_P99_RATIO}x and the run's own noise ({allowed:.2f}x)"] = (
            _words(p99),
            p99["median"] <= allowed,
        )
        found[f"mirror {arm}: no errors"] = (str(errors), errors == 0)
    return found


def filled(document: str, told: Mapping[str, Any]) -> str:
    """The document with its tables written anew between the marks."""
    head, rest = document.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{chr(10).join(_tables(told))}\n{END}{tail}"


def _tables(told: Mapping[str, Any]) -> Iterator[str]:
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
                            cells = " | ".join(_cell(arms[arm].get(key)) for key, _ in columns)
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
            yield f"| {label} | " + " | ".join(_cell(arms[arm][n]) for n in names) + f" | {arms[arm]['errors']} |"


def _cell(figure: Mapping[str, float] | None) -> str:
    return "" if not figure else f"{figure['median']:.3g} [{figure['low']:.3g}, {figure['high']:.3g}]"


def _words(figure: Mapping[str, float], unit: str = "") -> str:
    return f"{figure['median']:.3g}{unit} ({figure['low']:.3g} to {figure['high']:.3g})"
