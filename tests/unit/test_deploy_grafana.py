"""The dashboard: the committed file is the script's, all that it asks for exists, and it can answer in one minute."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboard import CONTROL_URL, ROWS, UID, WRITTEN, render
from proxy.monitor.control import create_control_app
from proxy.monitor.ledger_pairs import strata_of
from tests.unit.metrics_page import LABELS
from tests.unit.monitor_samples import FixedView
from tests.unit.real_exposition import series

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads(WRITTEN.read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
    *(annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]),
]
RECORDED = set(re.findall(r"- record: (\S+)", (DEPLOY / "prometheus" / "rules" / "recording.yml").read_text()))
CONTROL_APP = create_control_app(FixedView(), cast(Any, None), cast(Any, None), None, "r")
_SELECTOR = re.compile(r"(?<![\w:\"])((?:\w+:)?parity_\w+(?::\w+)?)(?![\w:])(?:\{([^}]*)\})?")


def test_the_committed_file_is_what_the_script_writes() -> None:
    assert WRITTEN.read_text() == render(), "run: python -m deploy.grafana.dashboard"


def test_the_sdk_reads_back_what_it_wrote() -> None:
    again = Dashboard.from_json(DASHBOARD)
    assert again.uid == UID == "parity-proxy"
    assert [panel.title for panel in again.panels or ()] == [panel["title"] for panel in DASHBOARD["panels"]]


def test_there_is_a_row_for_each_subject_and_the_answer_comes_before_them() -> None:
    kinds = [panel["type"] for panel in DASHBOARD["panels"]]
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == list(ROWS)
    first = DASHBOARD["panels"][: kinds.index("row")]
    assert sum(panel["gridPos"]["h"] for panel in first if panel["gridPos"]["x"] == 0) <= 25, "no longer one screen"
    assert [panel["title"].partition(" (")[0] for panel in first] == [
        "Verdict",
        "Alerts that fire, since when",
        "Which budget broke, since when",
        "On which stratum",
    ]


def test_from_each_table_and_each_line_of_a_budget_a_click_leads_to_its_failing_pairs() -> None:
    links = {panel["title"]: panel["fieldConfig"]["defaults"].get("links", []) for panel in PANELS}
    of_stratum = "&stratum=${__data.fields.stratum:percentencode}"
    for title, more in (("Which budget broke, since when", ""), ("On which stratum", of_stratum)):
        asked = links[f"{title} (click: its failing pairs)"]
        assert [link["url"] for link in asked] == ["${control}/?score=${__data.fields.budget}" + more + "#pairs"]
    for title in ("$budget", "$budget by stratum, in the last $window"):
        assert [link["url"] for link in links[title]] == ["${control}/?score=${__field.labels.budget}#pairs"]
    assert {link["url"] for link in DASHBOARD["links"]} == {"${control}/", "${control}/gate"}


def test_what_the_links_ask_is_what_the_page_reads() -> None:
    """A route, a filter and a place on the page that are really there; the strata of the table are filters too."""
    for url in re.findall(r"\$\{control\}([^\"]*)", WRITTEN.read_text()):
        path, _, query = url.partition("#")[0].partition("?")
        (route,) = [route for route in CONTROL_APP.routes if getattr(route, "path", None) == path]
        read = set(inspect.signature(route.endpoint).parameters)  # type: ignore[attr-defined]
        assert {part.partition("=")[0] for part in query.split("&") if part} <= read, url
        assert "#" not in url or url.endswith("#pairs"), url
    shown = {value for where, values in LABELS["stratum"] if where == "parity_score_*" for value in values}
    assert [name for name in shown - {"unknown"} if not strata_of(name)] == []


def test_each_budget_is_drawn_with_its_bound_its_limit_and_its_noise_floor() -> None:
    panel = next(panel for panel in PANELS if panel["title"] == "$budget")
    assert panel["repeat"] == "budget"
    asked = [target["expr"].partition("{")[0].removeprefix("parity_budget_") for target in panel["targets"]]
    assert asked == ["value", "bound", "limit", "noise_limit", "noise"]


def test_panels_have_a_number_a_title_and_an_explanation_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS) > 25
    assert all(len(panel["description"]) > 20 for panel in PANELS)


def test_panels_lie_on_the_grid_and_on_no_other() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, two in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= two["x"]
            or two["x"] + two["w"] <= one["x"]
            or one["y"] + one["h"] <= two["y"]
            or two["y"] + two["h"] <= one["y"]
        )
        assert apart, (one, two)


def test_every_query_goes_to_the_chosen_datasource_and_every_variable_exists() -> None:
    used = [panel["datasource"] for panel in PANELS] + [target["datasource"] for p in PANELS for target in p["targets"]]
    used += [annotation["datasource"] for annotation in DASHBOARD["annotations"]["list"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in used)
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    named = set(re.findall(r"\$\{?([a-z]\w*)", WRITTEN.read_text()))
    assert named == names


def test_every_metric_and_label_that_it_selects_is_in_the_real_exposition_or_recorded() -> None:
    real = series("full").keys() | series("idle").keys()
    asked = {found.groups() for expr in EXPRESSIONS for found in _SELECTOR.finditer(expr)}
    assert len(asked) > 50
    for name, matchers in asked:
        if name in RECORDED:
            continue
        have = {label for known, labels in real if known == name for label, _ in labels}
        assert any(known == name for known, _ in real), f"no metric {name}"
        for label, _, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers or ""):
            if label in ("job", "instance"):
                continue
            assert label in have, f"{name} has no label {label}"
            closed = {one for _, values in LABELS[label] for one in values}
            assert value == "$budget" or value in closed, f'{label} is never "{value}"'


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    """Each as a recording rule, Grafana's variables replaced by durations and names."""
    rules = [{"record": f"asked:number:{number}", "expr": replaced(expr)} for number, expr in enumerate(EXPRESSIONS)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(EXPRESSIONS)} rules found" in done.stdout + done.stderr


def replaced(expr: str) -> str:
    return re.sub(r"\$(window|__\w+)", "5m", expr)


def test_what_is_provisioned_fits_the_dashboard() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (exemplars,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert exemplars["name"] == "pair_id"
    assert exemplars["url"] == CONTROL_URL + "/pairs/$${__value.raw}", "Grafana reads $ as a variable of its own there"
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "parity.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
