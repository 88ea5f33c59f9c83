"""`/`: what is the verdict, why, how far is each budget from its limit, what was covered, which pairs to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.style import frame
from scorers.judge import Verdict
from scorers.verdict import BudgetVerdict

_MEANING = {
    "pass": "The candidate is within every budget.",
    "fail": "The candidate is over a critical budget.",
    "inconclusive": "The evidence does not decide yet. This is never a pass.",
}
_MORE_REASONS = 8  # *choice*: what is read at a glance; /gate has them all
_SCORES_SHOWN = 4  # *choice*


_UNMET = {
    "resumed": "the ledger is still being read",
    "ledger_writable": "the ledger cannot be written",
    "relay_connected": "no relay is connected",
    "candidate_reachable": "the candidate does not answer",
    "reference_answers": "the reference does not answer",
}


def overview(
    *,
    verdict: Verdict,
    readiness: Mapping[str, bool],
    state: Mapping[str, Any],
    pairs: Sequence[Mapping[str, Any]],
    score: str | None,
    every: bool,
    refresh_s: int | None,
    trouble: str | None,
    full: bool,
) -> str:
    """The whole page. `pairs` are summaries, latest first; `full` says that there may be older ones."""
    links = [
        tag("a", "stop refreshing", href="/") if refresh_s else tag("a", "refresh every 10 s", href="/?refresh=10"),
        tag("a", "gate", href="/gate"),
        tag("a", "metrics", href="/metrics"),
        tag("a", "state", href="/state"),
    ]
    about = f"recipe {verdict.recipe}" + ("" if verdict.epoch is None else f", epoch {verdict.epoch}")
    return frame(
        f"{verdict.state} - parity",
        about,
        _verdict(verdict),
        _monitor(readiness, state),
        _budgets(verdict),
        _coverage(verdict),
        _pairs(pairs, {name: budget.limit for name, budget in verdict.budgets.items()}, score, every, trouble, full),
        refresh_s=refresh_s,
        links=links,
    )


def _verdict(verdict: Verdict) -> Html:
    first = verdict.reasons[0] if verdict.reasons else _MEANING[verdict.state]
    rest = verdict.reasons[1:]
    diagnosis = verdict.diagnosis
    suspect = None
    if diagnosis.axis != "undetermined":
        suspect = tag(
            "div",
            tag("h3", "Suspect: ", diagnosis.axis.replace("_", " ")),
            tag("ul", [tag("li", sentence) for sentence in diagnosis.evidence]),
            tag("p", diagnosis.fix) if diagnosis.fix else None,
        )
    return tag(
        "section",
        tag("h1", verdict.state.capitalize()),
        tag("p", first),
        tag("ul", [tag("li", reason) for reason in rest[:_MORE_REASONS]]) if rest else None,
        tag("p", tag("a", f"and {len(rest) - _MORE_REASONS} more", href="/gate"))
        if len(rest) > _MORE_REASONS
        else None,
        suspect,
        tag(
            "p",
            f"{_MEANING[verdict.state]} {verdict.samples:,} pairs, {verdict.noise_samples:,} noise pairs.",
            class_="figures small",
        ),
        class_=f"verdict {verdict.state}",
    )


def _monitor(readiness: Mapping[str, bool], state: Mapping[str, Any]) -> Html:
    paused = bool(state.get("paused"))
    act = "resume" if paused else "pause"
    unmet = [name for name, holds in readiness.items() if not holds]
    chips: list[Part] = [tag("span", "paused", class_="chip wait") if paused else None]
    chips += [tag("span", _UNMET.get(name, f"not {name.replace('_', ' ')}"), class_="chip bad") for name in unmet]
    if not unmet:
        chips.append(tag("span", "ready", class_="chip good"))
    alarms = [str(alarm) for alarm in state.get("alarms", ())]
    arms = state.get("arms", {})
    for side, health in arms.items() if isinstance(arms, Mapping) else ():
        if health.get("failures_in_a_row"):
            alarms.append(f"{side}, {health['failures_in_a_row']} failed calls in a row: {health.get('last_error')}")
    return tag(
        "section",
        tag("h2", "Monitor"),
        tag("p", [(chip, " ") for chip in chips]),
        tag("ul", [tag("li", alarm) for alarm in alarms]) if alarms else None,
        tag("form", tag("button", f"{act} the mirror"), method="post", action=f"/mirror/{act}"),
        tag("p", "Clients are served alike, mirrored or not.", class_="small dim"),
    )


def _budgets(verdict: Verdict) -> Html:
    columns = ("Budget", "Verdict", "Value", "Upper bound", "Limit", "Noise", "Pairs", "log10 e: promote / rollback")
    head = tag("tr", [tag("th", name, scope="col", class_=None if at < 2 else "n") for at, name in enumerate(columns)])
    rows = [_budget(name, budget, columns) for name, budget in verdict.budgets.items()]
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="stack")
    body: Part = tag("div", table, class_="scroll") if rows else tag("p", "There is no budget.")
    return tag("section", tag("h2", "Budgets"), body)


def _budget(name: str, budget: BudgetVerdict, columns: Sequence[str]) -> Html:
    lane = budget.lane
    lengths = [
        tag("li", f"{length}: ", _figure(part.value, budget.unit), f" of {part.samples:,}, {part.state}")
        for length, part in budget.strata.items()
    ]
    evidence = f"{_figure(lane.log10_e_promote)} / {_figure(lane.log10_e_rollback)}"
    cells: list[Part] = [
        [
            tag("a", name, href=f"/?{urlencode({'score': name})}", class_="name"),
            " ",
            tag("span", "critical", class_="chip") if budget.critical else None,
            tag("details", tag("summary", "by prompt length"), tag("ul", lengths), class_="small") if lengths else None,
        ],
        tag("span", budget.state, class_=f"chip {budget.state}"),
        _figure(budget.value, budget.unit),
        _figure(budget.bound, budget.unit),
        _figure(budget.limit, budget.unit),
        _figure(budget.noise, budget.unit),
        f"{budget.samples:,}" + (f" ({lane.lost:,} lost)" if lane.lost else ""),
        evidence,
    ]
    return tag(
        "tr",
        [
            tag("td", cell, class_="wide" if at == 0 else (None if at == 1 else "n"), data_label=columns[at])
            for at, cell in enumerate(cells)
        ],
    )


def _coverage(verdict: Verdict) -> Html:
    coverage = verdict.coverage
    share = "unknown" if coverage.ratio is None else f"{coverage.ratio:.1%}"
    facts: list[tuple[str, str]] = [
        ("scored", f"{coverage.scored:,} of {coverage.eligible:,} eligible ({share})"),
        ("ineligible", _tally(coverage.ineligible)),
        ("lost", _tally(coverage.lost)),
    ]
    strata = [
        tag("tr", tag("td", name, data_label="Stratum"), [_cell(label, n) for label, n in cells])
        for name, cell in coverage.strata.items()
        for cells in [tuple((head, getattr(cell, name)) for name, head in _STRATUM_COLUMNS.items())]
    ]
    head = tag(
        "tr",
        tag("th", "Stratum", scope="col"),
        [tag("th", h, scope="col", class_="n") for h in _STRATUM_COLUMNS.values()],
    )
    return tag(
        "section",
        tag("h2", "Coverage"),
        tag("dl", [(tag("dt", name), tag("dd", told)) for name, told in facts]),
        tag(
            "details",
            tag("summary", "by stratum"),
            tag("div", tag("table", tag("thead", head), tag("tbody", strata), class_="stack"), class_="scroll"),
        )
        if strata
        else None,
    )


_STRATUM_COLUMNS = {
    "sampled": "Sampled",
    "eligible": "Eligible",
    "scored": "Scored",
    "dropped": "Dropped",
    "reference_error": "Reference error",
    "unpaired": "Unpaired",
}


def _cell(label: str, count: int) -> Html:
    return tag("td", f"{count:,}", class_="n", data_label=label)


def _pairs(
    pairs: Sequence[Mapping[str, Any]],
    limits: Mapping[str, float],
    score: str | None,
    every: bool,
    trouble: str | None,
    full: bool,
) -> Html:
    def link(text: str, chosen: bool, **query: str) -> Html:
        return tag("a", text, href="/?" + urlencode(query), aria_current="true" if chosen else None)

    filters = [link("all mismatches", score is None and not every), link("every kept pair", every, every="true")]
    filters += [link(name, score == name and not every, score=name) for name in sorted(limits)]
    columns = ("Sampled", "Off by", "Stratum", "Pair")
    rows = [_pair(pair, columns, limits) for pair in pairs]
    older: Part = None
    if full and pairs:
        query = {"before": str(pairs[-1]["position"]), **({"score": score} if score else {})}
        older = tag("p", link("older pairs", False, **query, **({"every": "true"} if every else {})))
    head = tag("tr", [tag("th", name, scope="col") for name in columns])
    if trouble is not None:
        body: Part = tag("p", trouble, class_="chip bad")
    elif rows:
        table = tag("table", tag("thead", head), tag("tbody", rows), class_="stack")
        body = tag("div", table, class_="scroll")
    else:
        body = tag("p", "No such pair is kept.", class_="dim")
    return tag("section", tag("h2", "Pairs to read"), tag("div", filters, class_="filters small"), body, older)


def _pair(pair: Mapping[str, Any], columns: Sequence[str], limits: Mapping[str, float]) -> Html:
    off = [s for s in pair["scores"] if s["arm"] == "candidate" and s["value"] and s["name"] in limits]
    off.sort(key=lambda s: limits[s["name"]] - s["value"])
    shown = [
        tag("div", s["name"], " ", tag("span", f"{s['value']:.3g}", class_=_over(s["value"], limits[s["name"]])))
        for s in off[:_SCORES_SHOWN]
    ]
    href = f"/pairs/{quote(pair['id'], safe='')}?kind={pair['kind']}"
    text = pair["id"] if pair["kind"] == "live" else f"{pair['id']} (needle)"
    cells: list[Part] = [
        _moment(pair["sampled_unix_s"]),
        tag("div", shown or tag("span", "nothing that a budget looks at", class_="dim"), class_="small"),
        pair["stratum"] or "unknown",
        tag("a", text, href=href, class_="name"),
    ]
    return tag("tr", [tag("td", cell, data_label=columns[at]) for at, cell in enumerate(cells)])


def _over(value: float, limit: float) -> str | None:
    return "chip bad" if value > limit else None


def _moment(unix_s: float) -> Html:
    at = datetime.fromtimestamp(unix_s, UTC)
    return tag("time", at.strftime("%Y-%m-%d %H:%M:%S"), datetime=at.isoformat(timespec="seconds"), class_="small")


def _tally(counts: Mapping[str, int]) -> str:
    if not counts:
        return "none"
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in ordered)


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return "unknown" if unit else "none"
    if unit == "ratio":
        return f"{value:.2%}"
    return f"{value:.3g}" + (f" {unit}" if unit else "")
