"""The budgets: a picture over time of each, the worst first, one per stratum where a budget keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from proxy.monitor.page.chart import Lane, lane_of, latest_mean, picture
from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.shown import Filter, Shown, lanes_worst_first, worst_first
from proxy.monitor.page.words import ago, figure, moment, stratum_words
from scorers.verdict import BudgetVerdict, LaneVerdict

_LEGEND = (
    ("seen", "mean of all pairs so far"),
    ("upto", "up to its upper bound, lost pairs counted as the worst"),
    ("stretch", "mean of one stretch of time, red where over the limit"),
    ("limit", "limit"),
    ("floor", "noise floor: the reference against itself"),
)


def budgets_section(shown: Shown) -> Html:
    """All budgets."""
    budgets = worst_first(shown.verdict)
    body: Part = [_budget(shown, budget) for budget in budgets] if budgets else tag("p", "There is no budget.")
    return tag(
        "section",
        tag("h2", "Budgets over time"),
        tag("ul", [tag("li", _key(kind), " ", said) for kind, said in _LEGEND], class_="legend small")
        if budgets
        else None,
        tag("div", body, class_="all"),
        id="budgets",
        data_live="true",
    )


def _key(kind: str) -> Html:
    if kind in ("stretch", "upto"):
        mark = tag("rect", x="1", y="2", width="22", height="8", class_=kind)
    else:
        mark = tag("line", x1="1", y1="6", x2="23", y2="6", class_=kind)
    return tag("svg", mark, viewBox="0 0 24 12", aria_hidden="true", class_="key")


def _budget(shown: Shown, budget: BudgetVerdict) -> Html:
    lanes = lanes_worst_first(budget)
    return tag(
        "article",
        tag(
            "h3",
            tag("a", budget.name, href=f"/?{urlencode(Filter(budget.name).query())}#pairs", class_="name"),
            " ",
            tag("span", budget.state, class_=f"chip {budget.state}"),
            " ",
            tag("span", "critical", class_="chip") if budget.critical else None,
        ),
        tag("div", [_lane(shown, budget, name, lane) for name, lane in lanes if _matters(lane)], class_="cols charts"),
        _small(shown, budget, [(name, lane) for name, lane in lanes if not _matters(lane)]),
        id=f"budget-{budget.name}",
        class_="apart" if budget.strata else None,
    )


def _matters(lane: LaneVerdict) -> bool:
    """Whether a lane is needed for a pass, or is worth a look by itself."""
    return lane.required or lane.state == "fail" or not lane.share


def _small(shown: Shown, budget: BudgetVerdict, lanes: Sequence[tuple[str, LaneVerdict]]) -> Part:
    """The strata that no pass waits for, folded away."""
    if not lanes:
        return None
    return tag(
        "details",
        tag("summary", f"{len(lanes)} with under 5 % of its pairs, which no pass waits for"),
        tag("div", [_lane(shown, budget, name, lane) for name, lane in lanes], class_="cols charts"),
        id=f"small-{budget.name}",
        class_="small",
    )


def _lane(shown: Shown, budget: BudgetVerdict, name: str, lane: LaneVerdict) -> Html:
    at = shown.over_since(lane)
    words = stratum_words(name)
    drawn = lane_of(shown.course, budget.name, name, at)
    over = _over(shown, budget, lane, at, drawn)
    limit = figure(budget.limit, budget.unit)
    told = f"{budget.name}, {words}: {figure(lane.value, budget.unit)} against a limit of {limit}"
    numbers: list[tuple[str, str]] = [
        (
            "observed",
            f"{figure(lane.value, budget.unit)} over {lane.samples:,}" + (f", {lane.lost:,} lost" if lane.lost else ""),
        ),
        ("at most", figure(lane.bound, budget.unit)),
        ("limit", limit),
        ("noise floor", f"{figure(lane.noise, budget.unit)} over {lane.noise_samples:,}"),
        ("log10 e", _evidence(budget, lane)),
    ]
    return tag(
        "figure",
        tag(
            "figcaption",
            [tag("strong", words), " ", tag("span", lane.state, class_=f"chip {lane.state}"), tag("br")]
            if budget.strata
            else None,
            over,
        ),
        picture(drawn, shown.bound, told)
        if drawn
        else tag("p", "No picture yet: fewer than two moments.", class_="dim"),
        tag("dl", [(tag("dt", key), tag("dd", said)) for key, said in numbers], class_="tight small"),
    )


def _over(shown: Shown, budget: BudgetVerdict, lane: LaneVerdict, at: float | None, drawn: Lane | None) -> Part:
    """Since when it is over, in words."""
    if lane.state != "fail":
        if lane.state == "pass":
            latest = None if drawn is None else latest_mean(drawn)
            if latest is not None and latest > budget.limit:  # a pass is of the whole, and stays until the tests object
                return f"Within its limit over all pairs so far; {figure(latest, budget.unit)} in the latest stretch."
            return "Within its limit, for certain."
        if not lane.samples:
            return "No pair was scored yet."
        above = lane.value is not None and lane.value > budget.limit
        return "Above its limit so far, and not certain yet." if above else "Not decided yet."
    if at is None:
        return "Over its limit, since before the oldest row that is kept."
    how = "changed for the worse" if "change" in lane.crossed and "rollback" not in lane.crossed else "over its limit"
    return [f"{how.capitalize()} since ", moment(at), f", {ago(shown.now_unix_s - at)} ago."]


def _evidence(budget: BudgetVerdict, lane: LaneVerdict) -> str:
    """Both tests and where they decide."""
    promote = f"promote {figure(lane.log10_e_promote)} of {budget.log10_threshold_promote:.2g}"
    return f"{promote}, rollback {figure(lane.log10_e_rollback)} of {budget.log10_threshold_rollback:.2g}"
