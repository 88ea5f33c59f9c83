"""How much of the sampled traffic was compared, by stratum, and why the rest was not, in words."""

from __future__ import annotations

from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.words import counted, stratum_words
from scorers.coverage import Coverage, StratumCoverage

_COLUMNS = ("Stratum", "Scored of eligible", "Dropped", "Reference failed", "Unpaired", "Ineligible")


def coverage_section(coverage: Coverage) -> Html:
    """All sampled requests."""
    share = "unknown" if coverage.ratio is None else f"{coverage.ratio:.1%}"
    recent = coverage.recent.ratio
    lost, ineligible = counted(coverage.lost), counted(coverage.ineligible)
    return tag(
        "section",
        tag("h2", "Coverage"),
        tag(
            "p",
            tag("strong", f"{coverage.scored:,} of {coverage.eligible:,} eligible ({share})"),
            " were compared",
            f"; of the latest {coverage.recent.eligible:,}, {recent:.1%}." if recent is not None else ".",
        ),
        _bar(coverage),
        tag(
            "div",
            tag("div", tag("h3", "Lost"), _list(lost, "Nothing was lost.")),
            tag("div", tag("h3", "Never meant to be compared"), _list(ineligible, "None.")),
            class_="cols",
        ),
        _table(coverage),
        id="coverage",
        data_live="true",
    )


def _list(said: list[str], none: str) -> Part:
    return tag("ul", [tag("li", one) for one in said]) if said else tag("p", none, class_="dim")


def _bar(coverage: Coverage) -> Part:
    """Scored, lost and ineligible as parts of one bar. Its words are beside it."""
    if not coverage.sampled:
        return None
    x, parts = 0.0, []
    for kind, count in (
        ("scored", coverage.scored),
        ("lost", sum(coverage.lost.values())),
        ("ineligible", sum(coverage.ineligible.values())),
    ):
        width = 360.0 * count / coverage.sampled
        parts.append(tag("rect", x=f"{x:.1f}", y="0", width=f"{width:.1f}", height="14", class_=kind))
        x += width
    told = f"{coverage.sampled:,} sampled: {coverage.scored:,} scored, {sum(coverage.lost.values()):,} lost"
    return tag(
        "svg", parts, viewBox="0 0 360 14", role="img", aria_label=told, preserveAspectRatio="none", class_="bar"
    )


def _table(coverage: Coverage) -> Part:
    if not coverage.strata:
        return None
    worst = sorted(coverage.strata.items(), key=lambda item: (item[1].ratio is None, item[1].ratio or 0.0))
    head = tag("tr", [tag("th", name, scope="col", class_="n" if at else None) for at, name in enumerate(_COLUMNS)])
    table = tag("table", tag("thead", head), tag("tbody", [_row(name, cell) for name, cell in worst]), class_="stack")
    return tag(
        "details",
        tag("summary", f"by stratum ({len(worst)}), the least covered first"),
        tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="Coverage by stratum"),
        id="strata",
    )


def _row(name: str, cell: StratumCoverage) -> Html:
    ratio = "" if cell.ratio is None else f" ({cell.ratio:.0%})"
    numbers = (
        f"{cell.scored:,} of {cell.eligible:,}{ratio}",
        f"{cell.dropped:,}",
        f"{cell.reference_error:,}",
        f"{cell.unpaired:,}",
        f"{cell.ineligible:,}",
    )
    cells = [tag("td", told, class_="n", data_label=column) for told, column in zip(numbers, _COLUMNS[1:], strict=True)]
    return tag("tr", tag("th", stratum_words(name), scope="row"), cells)
