"""The rules: each alert fires on its fault and is silent otherwise, an idle system fires none, all they name exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.real_exposition import series

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
RULES = sorted((DEPLOY / "rules").glob("*.yml"))
TESTS = sorted((DEPLOY / "tests").glob("*.yml"))
RUNBOOK = ROOT / "docs" / "runbook.md"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)


def promtool(*arguments: object, cwd: Path = ROOT) -> tuple[int, str]:
    """(exit code, everything that it said)."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, timeout=110
    )
    return done.returncode, done.stdout + done.stderr


class Alert(NamedTuple):
    name: str
    expr: str
    severity: str
    summary: str
    runbook: str


_EXPR = re.compile(r"^        expr: (?:\|\n(?P<block>(?:          .*\n)+)|(?P<line>.*)\n)", re.MULTILINE)


def _expr_in(match: re.Match[str]) -> str:
    return match["block"] or f"          {match['line']}\n"


def alerts() -> list[Alert]:
    """What alerts.yml holds; it is written in one regular shape, and promtool's own count is held against this one."""
    found = []
    for part in (DEPLOY / "rules" / "alerts.yml").read_text().split("      - alert: ")[1:]:
        expr = _EXPR.search(part)
        severity = re.search(r"^ +severity: (\w+)$", part, re.MULTILINE)
        summary = re.search(r"^ +summary: ((?:.|\n)+?)^ +runbook_url: (\S+)$", part, re.MULTILINE)
        assert expr, part
        assert severity, part
        assert summary, part
        name = part.partition("\n")[0]
        found.append(Alert(name, _expr_in(expr), severity[1], summary[1], summary[2]))
    return found


def expressions() -> Iterator[str]:
    """Every expression of every rule, and of the queries inside summaries."""
    for file in RULES:
        for match in _EXPR.finditer(file.read_text()):
            yield _expr_in(match)
    for alert in alerts():
        if "query" in alert.summary:
            yield alert.summary


def mutated(folder: Path, change: str) -> None:
    """A copy of rules and tests in which every alert's expression E is `(E) change`."""
    shutil.copytree(DEPLOY, folder, dirs_exist_ok=True)
    path = folder / "rules" / "alerts.yml"
    text = path.read_text()
    changed = _EXPR.sub(lambda found: f"        expr: |\n          (\n{_expr_in(found)}          ) {change}\n", text)
    assert changed.count(change) == len(alerts())
    path.write_text(changed)


def failing(folder: Path) -> set[str]:
    """The alerts of which a test fails there."""
    with ThreadPoolExecutor(2) as pool:
        said = "".join(text for _, text in pool.map(lambda test: promtool("test", "rules", test), _tests_in(folder)))
    assert "error" not in said.lower().replace('outcome="error"', ""), said[:2000]
    return set(re.findall(r"alertname: *(\w+), time:", said))


def _tests_in(folder: Path) -> list[Path]:
    return sorted((folder / "tests").glob("*.yml"))


@needs_promtool
def test_promtool_accepts_rules_and_configuration() -> None:
    code, said = promtool("check", "rules", *RULES)
    assert code == 0, said
    counts = [int(count) for count in re.findall(r"SUCCESS: (\d+) rules found", said)]
    assert counts[0] == len(alerts()), "alerts.yml is not in the shape that these tests read"
    assert sum(counts) == sum(len(_EXPR.findall(file.read_text())) for file in RULES)
    code, said = promtool("check", "config", DEPLOY / "prometheus.yml")
    assert code == 0, said
    assert len(re.findall(r"SUCCESS: \d+ rules found", said)) == len(RULES), "prometheus.yml does not load the rules"


@needs_promtool
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_each_alert_fires_on_its_fault_and_is_silent_otherwise(file: Path) -> None:
    code, said = promtool("test", "rules", file)
    assert code == 0, said


@needs_promtool
def test_every_alert_has_a_test_that_makes_it_fire(tmp_path: Path) -> None:
    """Alerts that can never fire fail the tests that expect them: for each alert there must be one."""
    mutated(tmp_path, "and on () (vector(0) > 1)")
    assert {alert.name for alert in alerts()} - failing(tmp_path) == set()


@needs_promtool
def test_every_alert_has_a_test_that_keeps_it_silent(tmp_path: Path) -> None:
    """Alerts that fire whenever they should not fail the tests that expect silence, and only those."""
    mutated(tmp_path, "or on () vector(1)")
    assert {alert.name for alert in alerts()} - failing(tmp_path) == set()


def _as_input(labels: frozenset[tuple[str, str]]) -> str:
    pairs = [("job", "parity"), ("instance", "a:9090"), *sorted(labels)]
    return ",".join(f'{name}="{value}"' for name, value in pairs)


def _idle_test(title: str, values: dict[tuple[str, frozenset[tuple[str, str]]], str]) -> str:
    """A test in which no alert may fire, soon after the start and once every window has passed."""
    lines = [f"  - name: {title}", "    interval: 1m", "    input_series:"]
    for (name, labels), told in {**values, ("up", frozenset()): "1x440"}.items():
        lines += [f"      - series: '{name}{{{_as_input(labels)}}}'", f"        values: {told}"]
    lines.append("    alert_rule_test:")
    for alert in alerts():
        for minutes in (10, 35, 75, 430):
            lines += [f"      - eval_time: {minutes}m", f"        alertname: {alert.name}", "        exp_alerts: []"]
    return "\n".join(lines) + "\n"


@needs_promtool
def test_an_idle_system_fires_nothing(tmp_path: Path) -> None:
    """Every series that a real monitor shows, as it shows it: never asked anything; and asked a little, long ago."""
    idle, served = series("idle"), series("served")
    assert served["parity_relay_requests_total", frozenset({("route", "chat_completions"), ("status_class", "2xx")})]
    burst = {key: f"{idle.get(key, 0.0)!r}x5 {value!r}x435" for key, value in served.items()}
    head = "rule_files:\n" + "".join(f"  - {file}\n" for file in RULES) + "evaluation_interval: 5m\ntests:\n"
    (tmp_path / "idle.yml").write_text(
        head
        + _idle_test("never asked", {key: f"{value!r}x440" for key, value in idle.items()})
        + _idle_test("never asked, with a rollout", {key: f"{value!r}x440" for key, value in series("rollout").items()})
        + _idle_test("served before Prometheus came", {key: f"{value!r}x440" for key, value in served.items()})
        + _idle_test("served a little and then idle", burst)
    )
    code, said = promtool("test", "rules", tmp_path / "idle.yml")
    assert code == 0, said


_SELECTOR = re.compile(r"(?<![\w:])(parity_\w+)(?![\w:])(?:\{([^}]*)\})?")


def test_every_metric_and_label_that_a_rule_selects_is_in_the_real_exposition() -> None:
    real = series("full").keys() | series("idle").keys()
    selected = {found.groups() for expr in expressions() for found in _SELECTOR.finditer(expr)}
    assert len(selected) > 20
    for name, matchers in selected:
        have = [dict(labels) for known, labels in real if known == name]
        assert have, f"no metric {name}"
        for label, _, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers or ""):
            for one in value.split("|"):
                assert any(labels.get(label) == one for labels in have), f'{name} never has {label}="{one}"'


def test_every_recorded_series_that_an_alert_reads_is_recorded() -> None:
    recorded = set(re.findall(r"- record: (\S+)", (DEPLOY / "rules" / "recording.yml").read_text()))
    read = {name for expr in expressions() for name in re.findall(r"\w+:parity_\w+:\w+", expr)}
    assert read <= recorded
    for name in recorded:
        assert re.fullmatch(r"[a-z_]+:parity_[a-z_]+:[a-z0-9_]+", name), f"{name}: level:metric:operations"


def test_every_series_that_the_rules_tests_invent_is_as_the_real_one() -> None:
    real = {name: {label for label, _ in labels} for name, labels in series("full")}
    invented = {found for file in TESTS for found in re.findall(r"- series: (parity_\w+)\{(.*)\}", file.read_text())}
    assert len(invented) > 20
    for name, labels in invented:
        names = set(re.findall(r'(\w+)="', labels)) - {"job", "instance"}
        assert real[name] == names, (name, names)


def test_each_alert_has_a_severity_a_summary_with_numbers_and_its_page_in_the_runbook() -> None:
    sections = dict(re.findall(r"^## (\w+)\n((?:(?!^## ).*\n)+)", RUNBOOK.read_text(), re.MULTILINE))
    for alert in alerts():
        assert alert.severity in ("page", "ticket"), alert.name
        assert re.search(r"\$value|\| value", alert.summary), f"{alert.name}: a summary without a number"
        assert alert.runbook == f"docs/runbook.md#{alert.name.lower()}", alert.name
        section = sections.pop(alert.name)
        assert f"Severity: {alert.severity}." in section, alert.name
        for part in ("**Means.**", "**Clients.**", "**First.**", "**Ends.**"):
            assert part in section, (alert.name, part)
        commands = re.search(r"```console\n((?:.*\n)+?)```", section)
        assert commands, alert.name
        assert commands[1].count("$ ") == 3, alert.name
    assert not sections.keys() - {"Words"}, "sections of no alert"
