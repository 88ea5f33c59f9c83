"""The kinds of panels that the dashboard is made of, each one call: a graph, a timeline, a listing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24  # columns of Grafana's grid
CONTROL = "${control}"  # the variable that holds the control port's address, as the reader's browser has it
GREEN, YELLOW, ORANGE, RED, PURPLE, BLUE, GREY = "green", "yellow", "orange", "red", "purple", "blue", "#8e8e8e"


@dataclass(frozen=True, slots=True)
class Line:
    """One query of a graph or timeline: what is asked, how it is called, how it is drawn (`style`: field properties).

    `exemplars` draws the pairs behind a histogram as dots.
    """

    expr: str
    legend: str
    style: Mapping[str, Any] | None = None
    exemplars: bool = False


LIMIT: Mapping[str, Any] = {
    "color": {"mode": "fixed", "fixedColor": RED},
    "custom.lineStyle": {"fill": "dash", "dash": [10, 10]},
    "custom.lineWidth": 2,
}
FLOOR: Mapping[str, Any] = {
    "color": {"mode": "fixed", "fixedColor": GREY},
    "custom.fillOpacity": 25,
    "custom.lineWidth": 1,
}
BOUND: Mapping[str, Any] = {"color": {"mode": "fixed", "fixedColor": ORANGE}, "custom.lineWidth": 1}
OBSERVED: Mapping[str, Any] = {"color": {"mode": "fixed", "fixedColor": BLUE}, "custom.lineWidth": 3}
DASHED: Mapping[str, Any] = {"custom.lineStyle": {"fill": "dash", "dash": [4, 6]}}
ALLOWED: Mapping[str, Any] = {
    "color": {"mode": "fixed", "fixedColor": YELLOW},
    "custom.lineStyle": {"fill": "dash", "dash": [2, 6]},
}


def graph(
    title: str,
    about: str,
    *lines: Line,
    unit: str = "short",
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    repeat: str | None = None,
    marks: Sequence[tuple[float, str]] = (),
    link: tuple[str, str] | None = None,
    none: str | None = None,
) -> timeseries.Panel:
    """A panel of lines over time, from 0 up.

    `repeat` names the variable of which each value gets its own panel; `marks` are levels drawn across; `link` is
    (title, address) of what a click on a line opens; `none` is said when there is no line.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(height)
        .fill_opacity(40 if stacked else 0)
        .show_points(kinds.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if none:
        panel.no_value(none)
    if repeat:
        panel.repeat(repeat).repeat_direction("h").max_per_row(WIDTH // width).span(WIDTH)
    if marks:
        steps = [models.Threshold(color="transparent"), *(models.Threshold(value, color) for value, color in marks)]
        panel.thresholds(build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED))
    if link:
        panel.data_links([_opens(*link)])
    for number, line in enumerate(lines):
        ref = chr(ord("A") + number)
        query = Dataquery().ref_id(ref).expr(line.expr).legend_format(line.legend).range().datasource(SOURCE)
        panel.with_target(query.exemplar(True) if line.exemplars else query)
        if line.style:
            panel.override_by_query(ref, [models.DynamicConfigValue(key, value) for key, value in line.style.items()])
    return panel


def timeline(
    title: str, about: str, line: Line, states: Sequence[tuple[str, str]], *, width: int = WIDTH, height: int = 5
) -> statetimeline.Panel:
    """A band per series that shows which state held when. `states`: (word, color) of the values 0, 1, 2 and so on."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .span(width)
        .height(height)
        .mappings([_words(states)])
        .fill_opacity(80)
        .line_width(0)
        .show_value(kinds.VisibilityMode.AUTO)
        .merge_values(True)
        .legend(common.VizLegendOptions().show_legend(False))
        .with_target(Dataquery().ref_id("A").expr(line.expr).legend_format(line.legend).range().datasource(SOURCE))
    )


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a table: its query (by the labels that all columns share), its heading, and its look."""

    expr: str
    heading: str
    unit: str = "short"
    states: Sequence[tuple[str, str]] = ()
    marks: Sequence[tuple[float, str]] = ()


def listing(
    title: str,
    about: str,
    labels: Sequence[str],
    columns: Sequence[Column],
    *,
    sort_by: str,
    none: str,
    width: int = WIDTH,
    height: int = 8,
    link: tuple[str, str] | None = None,
) -> table.Panel:
    """A table of now: a row for each set of `labels`, the worst of `sort_by` first. `none` is said when it is empty;
    `link` is (title, address) of what a click on any cell opens."""
    names = {f"Value #{chr(ord('A') + number)}": column for number, column in enumerate(columns)}
    if len(columns) == 1:
        names = {"Value": columns[0]}  # with one query Grafana appends no letter
    order = {name: place for place, name in enumerate([*labels, *names])}
    panel = (
        table.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .span(width)
        .height(height)
        .no_value(none)
        .cell_height(kinds.TableCellHeight.SM)
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True, "score": True},
                    "indexByName": order,
                    "renameByName": {name: column.heading for name, column in names.items()},
                },
            )
        )
    )
    for ref, column in zip("ABCDEFGHIJ", columns, strict=False):
        panel.with_target(
            Dataquery().ref_id(ref).expr(column.expr).instant().format(PromQueryFormat.TABLE).datasource(SOURCE)
        )
        panel.override_by_name(column.heading, _look(column))
    if link:
        panel.data_links([_opens(*link)])
    return panel


def _look(column: Column) -> list[models.DynamicConfigValue]:
    look = [models.DynamicConfigValue("unit", column.unit)]
    if column.states:
        look.append(models.DynamicConfigValue("mappings", [_words(column.states)]))
    if column.marks:
        steps = [
            models.Threshold(color="transparent"),
            *(models.Threshold(value, color) for value, color in column.marks),
        ]
        look.append(
            models.DynamicConfigValue("thresholds", models.ThresholdsConfig(models.ThresholdsMode.ABSOLUTE, steps))
        )
    if column.states or column.marks:
        look.append(models.DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"}))
    return look


def _words(states: Sequence[tuple[str, str]]) -> models.ValueMap:
    """0, 1, 2, ... as words in colors."""
    return models.ValueMap(
        {
            str(number): models.ValueMappingResult(text=word, color=color, index=number)
            for number, (word, color) in enumerate(states)
        }
    )


def _opens(title: str, address: str) -> build.DashboardLink:
    return build.DashboardLink(title).url(address).target_blank(True)
