"""The real thing: Prometheus and Alertmanager watch a running proxy; a planted fault pages, and recovery ends it.

Time is scaled: every window, `for` and interval of the deployed rules is divided by 30 (`scaled_time.py`), so that the
30 minutes of the fast burn are one here. What is not scaled is the machine: what takes it a second here takes it a
second in production, where the windows are thirty times as long.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import pytest

from tests.e2e.observability_rig import GROUP_WAIT_S, SCRAPE_INTERVAL_S, missing
from tests.e2e.observed_day import (
    DASHBOARD,
    FAST_BURN,
    FAST_BURN_WINDOW_S,
    PANELS,
    UNSCALED_S,
    VERDICT_FAIL,
    Day,
    observed_day,
)
from tests.e2e.scaled_time import DEPLOYED, scaled, seconds

pytestmark = pytest.mark.timeout(600)  # the day takes two minutes, more where nothing pages


@pytest.fixture(scope="module")
def day() -> Day:
    """The whole course, once; every test reads one aspect of it."""
    if missing():
        told = f"not installed: {', '.join(missing())} (Debian: apt-get install prometheus prometheus-alertmanager)"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    return asyncio.run(observed_day())


def test_every_duration_of_the_rules_is_scaled_and_no_name() -> None:
    rules = "".join(file.read_text() for file in (DEPLOYED / "rules").glob("*.yml"))
    fast = scaled(rules)
    assert len(re.findall(r"\b\d+ms\b", fast)) == len(re.findall(r"\[\d+[smhd]\b|:1m\]|for: \d", rules)) > 30
    assert re.findall(r"\[\d+[smhd]\b|for: \d+[smhd]\b", fast) == []
    assert re.findall(r"\w+:parity_\w+:\w+", fast) == re.findall(r"\w+:parity_\w+:\w+", rules)


def test_no_alert_fired_or_was_about_to_while_the_candidate_was_healthy(day: Day) -> None:
    assert day.healthy_pairs > 400
    assert [series["metric"] for series in day.healthy_alerts] == []


def test_the_fault_pages_within_the_rules_window_and_two_scrapes(day: Day) -> None:
    """From the planting, which is before the first bad request. Alertmanager waits `group_wait` before it sends."""
    notice = day.fired[FAST_BURN]
    took_s = notice.at_s - day.planted_s
    bar_s = FAST_BURN_WINDOW_S + 2 * SCRAPE_INTERVAL_S + GROUP_WAIT_S
    since_bad_s = notice.at_s - day.first_bad_s
    print(f"\n{FAST_BURN}: {took_s:.1f} s after the fault, {since_bad_s:.1f} s after the first bad reply")
    print(f"  of {bar_s:.2f} s ({FAST_BURN_WINDOW_S:g} s window, 2 scrapes, {GROUP_WAIT_S} s group_wait)")
    assert day.planted_s <= day.first_bad_s < notice.at_s
    assert took_s <= bar_s
    assert notice.labels["budget"] == "tool_call_mismatch"
    assert notice.labels["severity"] == "page"
    assert "times its limit" in notice.summary


def test_the_failed_verdict_pages_at_once(day: Day) -> None:
    """Its rule has no window: the verdict is seen by the next scrape and the next evaluation."""
    took_s = day.fired[VERDICT_FAIL].at_s - day.failed_s
    print(f"\n{VERDICT_FAIL}: verdict {day.failed_s - day.planted_s:.1f} s after the fault, page {took_s:.2f} s later")
    assert took_s <= 2 * SCRAPE_INTERVAL_S + GROUP_WAIT_S + UNSCALED_S
    assert "proven worse" in day.fired[VERDICT_FAIL].summary


def test_recovery_resolves_both(day: Day) -> None:
    for name in (VERDICT_FAIL, FAST_BURN):
        took_s = day.resolved[name].at_s - day.recovered_s
        print(f"\n{name}: resolved {took_s:.1f} s after the candidate was replaced")
        assert took_s <= seconds("30m")
        assert day.resolved[name].labels == day.fired[name].labels


def test_only_what_was_broken_paged(day: Day) -> None:
    """The clients were served throughout: no page about them, about the relay or about the monitor."""
    assert day.client_errors == 0
    pages = {n.name for n in day.notices if n.labels["severity"] == "page" and n.status == "firing"}
    early = {n.name for n in day.notices if n.at_s < day.began_s}
    assert pages - early == {VERDICT_FAIL, FAST_BURN}
    assert early <= {"ParityMonitorAbsent"}


def test_every_variable_has_values(day: Day) -> None:
    assert day.variables["job"] == ["parity"]
    assert len(day.variables["instance"]) == 1
    assert set(day.variables["budget"]) >= {"tool_call_mismatch", "logprob_kl"}


def test_every_query_of_the_dashboard_returns_data(day: Day) -> None:
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    asked += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    assert day.shown.keys() | day.drawn.keys() == set(asked)
    assert [expr for answers in (day.shown, day.drawn) for expr, answer in answers.items() if not answer] == []


def test_the_dashboard_says_what_broke_since_when_and_where(day: Day) -> None:
    def figures(title: str) -> list[list[dict[str, Any]]]:
        panel = next(panel for panel in PANELS if panel["title"].startswith(title))
        return [day.shown[target["expr"]] for target in panel["targets"]]

    verdicts, since, *_ = figures("Which budget broke")
    states = {series["metric"]["budget"]: float(series["value"][1]) for series in verdicts}
    assert [budget for budget, state in states.items() if state == 2.0] == ["tool_call_mismatch"]
    (failing,) = since
    assert failing["metric"]["budget"] == "tool_call_mismatch"
    failed_unix_s = day.planted_unix_s + day.failed_s - day.planted_s
    assert abs(float(failing["value"][1]) / 1000 - failed_unix_s) < seconds("1m") + SCRAPE_INTERVAL_S + 1
    limits = {
        tuple(s["metric"][x] for x in ("budget", "stratum")): float(s["value"][1]) for s in figures("On which")[0]
    }
    budget, stratum = max(limits, key=lambda row: limits[row])
    assert budget == "tool_call_mismatch"
    assert stratum.endswith("/tools")
    assert limits[budget, stratum] > 2
    alerts = {series["metric"]["alertname"] for series in figures("Alerts that fire")[0]}
    assert {FAST_BURN, VERDICT_FAIL} <= alerts


def test_the_dots_lead_to_pairs_that_can_be_read(day: Day) -> None:
    assert len(day.exemplars) > 10
    assert day.pair_status == 200
