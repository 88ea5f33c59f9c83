"""What a benchmark's figures promise and print: kept or broken by the figure alone; nothing of what was not run."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.bench import monitor_large
from tests.bench.monitor_large import ORDINARY
from tests.bench.relay import large, page, workers
from tests.bench.relay.load import Seen
from tests.bench.relay.proxies import Proxy

ROOT = Path(__file__).resolve().parents[2]
HEAD = {"command": "c", "machine": "m"}


def arm(number: int, cpu_us: list[float], apart_us: list[float], *, lost: int = 0) -> workers.Arm:
    made = workers.Arm(Proxy("p", 1), list(range(number)), Counter(), sent=600, cpu_us=cpu_us, apart_us=apart_us)
    made.connections = [[16] * number for _ in cpu_us]
    made.per_second = [1.0] * len(cpu_us)
    made.errors = lost
    return made


def worker_figures() -> dict[str, Any]:
    arms = [arm(1, [20.0, 22.0, 21.0], [20.0, 22.0, 21.0]), arm(8, [30.0, 33.0, 32.0], [30.0, 30.0, 32.0])]
    counted = [{"requests": 600, "sampled_or_not": 600} for _ in arms]
    return {**HEAD, "workers": workers.told(arms, counted, [0.6, 0.7]), "workers_rounds": 3}


def broken(figures: dict[str, Any]) -> list[str]:
    return [name for name, (_, kept) in page.promises(figures).items() if not kept]


def test_many_workers_ratios_are_taken_within_a_round() -> None:
    eight = worker_figures()["workers"]["8"]
    assert eight["over_apart"]["median"] == 1.0
    assert eight["over_apart"]["high"] == pytest.approx(1.1)
    assert eight["over_one_worker"]["median"] == 1.5


def test_many_workers_that_cost_what_relays_apart_cost_keep_every_promise() -> None:
    assert broken(worker_figures()) == []
    assert len(page.promises(worker_figures())) == 5


@pytest.mark.parametrize(
    ("where", "value", "word"),
    [
        (("counted", "requests"), 599, "count exactly"),
        (("counted", "sampled_or_not"), 601, "count exactly"),
        (("over_apart", "median"), 1.2, "relays apart"),
        (("without_a_connection",), 1, "without a connection"),
        (("errors",), 1, "no errors"),
    ],
)
def test_each_promise_of_many_workers_can_be_broken(where: tuple[str, ...], value: float, word: str) -> None:
    figures = deepcopy(worker_figures())
    place = figures["workers"]["8"]
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    (name,) = broken(figures)
    assert name.startswith("8 workers")
    assert word in name


def seen(latency_ms: float) -> Seen:
    return Seen(latencies_s=[latency_ms / 1e3] * 10)


def large_figures(added_ms: float) -> dict[str, Any]:
    alone, beside = large.LOADS
    found = {
        "direct": {alone: [seen(1.0)], beside: [seen(3.0)]},
        "relay, nothing mirrored": {alone: [seen(1.2)], beside: [seen(3.2)]},
        "relay, all mirrored": {alone: [seen(1.5)], beside: [seen(3.5 + added_ms)]},
    }
    return {**HEAD, "large_bodies": large.told(found, dict.fromkeys(found, 0)), "large_rounds": 1}


def test_what_large_bodies_add_leaves_out_what_they_cost_without_a_relay() -> None:
    figures = large_figures(0.4)
    assert figures["large_bodies"]["added_by_large"]["p99_ms"]["median"] == pytest.approx(0.4)
    assert broken(figures) == []
    assert broken(large_figures(1.5)) == ["1 MB bodies add at most 1 ms to the p99 of small requests"]


def control_port(late_ms: float) -> dict[str, Any]:
    arms = [
        monitor_large.Arm(ORDINARY, [], [(0.0, 1.0)], [2.0]),
        monitor_large.Arm("1 MB requests", [], [(2.0, 3.0)], [3.0]),
    ]
    answers = [(n / 100, 0.001) for n in range(100)] + [(2 + n / 100, late_ms / 1e3) for n in range(100)]
    return monitor_large.told(arms, answers)


@pytest.mark.parametrize(("late_ms", "words"), [(5.0, []), (20.0, ["10 ms later"]), (150.0, ["10 ms later", "100 ms"])])
def test_a_late_control_port_breaks_the_monitors_promises(late_ms: float, words: list[str]) -> None:
    names = [name for name, (_, kept) in monitor_large.promises(control_port(late_ms)).items() if not kept]
    assert len(names) == len(words)
    assert all(word in name and name.startswith("1 MB requests") for word, name in zip(words, names, strict=True))


def test_a_control_port_that_was_not_asked_is_not_fast() -> None:
    with pytest.raises(AssertionError, match="not asked"):
        monitor_large.told([monitor_large.Arm(ORDINARY, [], [(0.0, 1.0)], [2.0])], [(5.0, 0.001)])


def test_what_was_not_measured_has_no_promise_and_no_table() -> None:
    assert page.promises(HEAD) == {}
    assert len(list(page.tables(HEAD))) == 1
    assert list(monitor_large.tables({})) == []


def test_tables_stand_between_their_marks_and_nowhere_else() -> None:
    document = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n"
    once = page.filled(document, "x", ["| 1 |", "| 2 |"])
    assert once == document.replace("old", "| 1 |\n| 2 |")
    assert page.filled(once, "x", ["| 1 |", "| 2 |"]) == once
    lines = list(page.tables({**worker_figures(), **large_figures(0.4)}))
    for table in ("| workers on one port", "| small requests"):
        (at,) = [n for n, line in enumerate(lines) if line.startswith(table)]
        assert lines[at - 2].startswith("`python -m tests.bench.relay --part ")
        assert {line.count("|") for line in lines[at : at + 4]} == {lines[at].count("|")}


def test_the_page_says_what_the_figures_say() -> None:
    document = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    relay, monitor = (
        json.loads((ROOT / "docs" / "bench" / f"{n}.json").read_text()) for n in ("relay", "monitor_cost")
    )
    assert page.filled(document, "relay", page.tables(relay)) == document
    assert page.filled(document, "monitor, large bodies", monitor_large.tables(monitor)) == document
    assert relay["kept"] == {name: kept for name, (_, kept) in page.promises(relay).items()}
