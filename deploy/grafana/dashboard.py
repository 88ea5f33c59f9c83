"""Writes dashboards/parity.json: `python -m deploy.grafana.dashboard`. A test holds the committed file equal to it."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from deploy.grafana import judgement, service
from deploy.grafana.panels import CONTROL, SOURCE
from deploy.grafana.queries import HERE, OURS

UID = "parity-proxy"  # stable: addresses in runbooks and alerts hold it
WRITTEN = Path(__file__).parent / "dashboards" / "parity.json"
CONTROL_URL = "http://127.0.0.1:9090"  # the default; in Kubernetes what `kubectl port-forward` or the ingress gives
WINDOWS = ("5m", "15m", "30m", "1h", "6h", "1d")
WINDOW = "30m"  # that of the fast burn alert
ROWS = {
    "Clients": service.clients,
    "Parity per budget and stratum": judgement.parity,
    "Coverage": service.coverage,
    "Shadow cost": service.shadow_cost,
    "Verdict history": judgement.history,
}


class _Annotation(models.AnnotationQuery, Builder[models.AnnotationQuery]):
    """With the fields that Grafana's Prometheus datasource reads and the SDK's type does not have."""

    def __init__(self, name: str, expr: str, color: str, title: str, text: str) -> None:
        super().__init__(name=name, datasource=SOURCE, icon_color=color, expr=expr)
        self._own = {"step": "60s", "titleFormat": title, "textFormat": text}

    def to_json(self) -> dict[str, object]:
        return super().to_json() | self._own

    def build(self) -> models.AnnotationQuery:
        return self


def dashboard() -> models.Dashboard:
    """The whole dashboard, every panel with a number of its own."""
    made = (
        build.Dashboard("Parity: candidate against reference")
        .uid(UID)
        .description("Which budget broke, since when, on which stratum, and which pairs to read.")
        .tags(["parity", "llm"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(_link("Verdict and failing pairs", CONTROL + "/"))
        .link(_link("What the gate says", CONTROL + "/gate"))
        .annotation(
            _Annotation(
                *("New epoch", f"parity_epoch_info{{{HERE}}} unless parity_epoch_info{{{HERE}}} offset 5m", "blue"),
                *("Epoch {{epoch}} begins", "contract {{contract}} on {{instance}}"),
            )
        )
        .annotation(
            _Annotation(
                *("Pages", f'ALERTS{{alertstate="firing",severity="page",{OURS}}}', "red"),
                *("{{alertname}}", "{{budget}} {{stratum}} {{instance}}"),
            )
        )
    )
    for variable in _variables():
        made.with_variable(variable)
    for panel in judgement.one_minute():
        made.with_panel(panel)
    for title, panels in ROWS.items():
        made.with_row(build.Row(title))
        for panel in panels():
            made.with_panel(panel)
    whole = made.build()
    for number, any_panel in enumerate(whole.panels or (), start=1):
        any_panel.id_val = number
    return whole


def render() -> str:
    """The text of dashboards/parity.json."""
    return JSONEncoder(indent=2, sort_keys=True).encode(dashboard()) + "\n"


def _variables() -> list[build.QueryVariable | build.DatasourceVariable | build.CustomVariable | build.TextBoxVariable]:
    window = models.VariableOption(selected=True, text=WINDOW, value=WINDOW)
    return [
        build.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _asked("job", "Job", "label_values(parity_build_info, job)").all_value(".+"),
        _asked("instance", "Instance", 'label_values(parity_build_info{job=~"$job"}, instance)').all_value(".+"),
        _asked("budget", "Budget", f"label_values(parity_budget_limit{{{HERE}}}, budget)"),
        build.CustomVariable("window").label("Window of means").values(",".join(WINDOWS)).current(window),
        build.TextBoxVariable("control")
        .label("Control port")
        .default_value(CONTROL_URL)
        .current(models.VariableOption(selected=True, text=CONTROL_URL, value=CONTROL_URL))
        .description("The monitor's control port as your browser reaches it: links to failing pairs begin with it."),
    ]


def _asked(name: str, label: str, query: str) -> build.QueryVariable:
    """A choice of several, all at first, of what Prometheus knows."""
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _link(title: str, url: str) -> build.DashboardLink:
    return (
        build.DashboardLink(title).url(url).type(models.DashboardLinkType.LINK).icon("external link").target_blank(True)
    )


if __name__ == "__main__":
    WRITTEN.write_text(render())
