"""The verdict: what it is and since when; which budget broke, since when, where, and one pair that shows it."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.shown import Filter, Shown, broken, lanes_worst_first, over_position, worst_stratum
from proxy.monitor.page.words import ago, figure, moment, stratum_words
from scorers.verdict import BudgetVerdict

_MEANING = {
    "pass": "The candidate is within every budget.",
    "fail": "The candidate is over a critical budget.",
    "inconclusive": "The evidence does not decide yet. This is never a pass.",
}
_MORE_REASONS = 8  # *choice*: listed; /gate has them all
_AT_ONCE = 3  # *choice*: reasons read at a glance; more are folded away


def verdict_section(shown: Shown) -> Html:
    """The section that a page on call is opened for."""
    verdict = shown.verdict
    over = broken(verdict)
    certain = any(budget.state == "fail" for budget in over)
    figures = f"{verdict.samples:,} pairs and {verdict.noise_samples:,} noise pairs judged."
    return tag(
        "section",
        tag("p", tag("span", "Verdict", class_="dim"), class_="small"),
        tag("h1", verdict.state.capitalize(), tag("span", " ", _since(shown), class_="since")),
        tag("p", _MEANING[verdict.state], " ", tag("span", figures, class_="dim")),
        [_broken(shown, budget) for budget in over],
        None if certain else _first_reason(shown),
        _suspect(shown),
        _reasons(shown, told=not certain),
        id="verdict",
        class_=f"verdict {verdict.state}",
        data_live="true",
    )


def _since(shown: Shown) -> Part:
    since = shown.since
    if since is None:
        return None
    span = f" ({ago(shown.now_unix_s - since.at_unix_s)})"
    return ["since " if since.exact else "since before ", moment(since.at_unix_s), span]


def _broken(shown: Shown, budget: BudgetVerdict) -> Html:
    """One broken budget, in four answers."""
    lane = budget.lane  # of several lanes it knows when the first turned over
    parts = shown.parts.get(budget.name, ())
    stratum = worst_stratum(budget, parts)
    what = (
        f"{figure(budget.value, budget.unit)} over {budget.samples:,} pairs; its limit is "
        f"{figure(budget.limit, budget.unit)}, the reference against itself gives {figure(budget.noise, budget.unit)}"
    )
    at, position = shown.over_since(lane), over_position(lane)
    certain = budget.state == "fail"
    since: Part = (
        "before the oldest row that is kept" if at is None else [moment(at), f" ({ago(shown.now_unix_s - at)})"]
    )
    if not certain:
        since = "not certain yet: more pairs decide"
    answers: list[tuple[str, Part]] = [
        ("How far", what),
        ("Over since", [since, f", position {position:,}" if position is not None else None]),
        ("Where", _where(shown, budget, stratum)),
        ("See it", _see(shown, budget)),
    ]
    return tag(
        "div",
        tag(
            "h2",
            tag("a", budget.name, href=f"#budget-{budget.name}", class_="name"),
            " is over its limit " if certain else " looks to be over its limit ",
            tag(
                "span",
                "critical" if budget.critical else "not critical",
                class_="chip bad" if budget.critical else "chip",
            ),
        ),
        tag("dl", [(tag("dt", name), tag("dd", told)) for name, told in answers]),
        class_="broken",
    )


def _where(shown: Shown, budget: BudgetVerdict, stratum: str | None) -> Part:
    if budget.strata:
        lanes = lanes_worst_first(budget)
        over = [name for name, lane in lanes if lane.state == "fail"]
        name, lane = lanes[0]
        said = f"{stratum_words(name)}: {figure(lane.value, budget.unit)} over {lane.samples:,} pairs"
        more = [stratum_words(one) for one in over if one != name]
        at = shown.over_since(lane)
        since = [", since ", moment(at)] if at is not None and len(over) > 1 else None
        return [
            tag("strong", said),
            since,
            f"; over in {' and in '.join(more)} too" if more else "; for certain nowhere else",
        ]
    parts = shown.parts.get(budget.name, ())
    if stratum is None:
        return "its evidence is not kept apart by stratum, and the latest rows name none"
    worst = parts[0]
    return [
        "worst with ",
        tag("strong", f"{stratum_words(stratum)}: {figure(worst.mean, budget.unit)} over {worst.pairs:,} pairs"),
        tag("span", " (of the latest rows; this budget is judged over all strata together)", class_="dim"),
    ]


def _see(shown: Shown, budget: BudgetVerdict) -> Part:
    pair = shown.first.get(budget.name)
    if pair is None:
        return "no pair over this limit is kept (ledger.keep_mismatches)"
    stratum = worst_stratum(budget, shown.parts.get(budget.name, ()))
    chosen = Filter(budget.name, stratum)
    listed = Filter(budget.name)
    return [
        tag("a", "read a failing pair", href=pair_link(pair, chosen), class_="act"),
        " ",
        tag("a", "all its failing pairs", href=f"/?{urlencode(listed.query())}#pairs"),
    ]


def pair_link(pair: object, chosen: Filter) -> str:
    """The address of one pair in the reader, which steps through what the filter chooses."""
    assert isinstance(pair, dict)
    query = urlencode(chosen.query(kind=pair["kind"]))
    return f"/pairs/{quote(pair['id'], safe='')}?{query}"


def _first_reason(shown: Shown) -> Html:
    reasons = shown.verdict.reasons
    return tag("p", tag("strong", "Why: "), reasons[0] if reasons else _MEANING[shown.verdict.state])


def _suspect(shown: Shown) -> Part:
    diagnosis = shown.verdict.diagnosis
    if diagnosis.axis == "undetermined":
        return None
    return tag(
        "div",
        tag("h2", "Suspect: ", diagnosis.axis.replace("_", " ")),
        tag("ul", [tag("li", sentence) for sentence in diagnosis.evidence]),
        tag("p", tag("strong", "Try: "), diagnosis.fix) if diagnosis.fix else None,
    )


def _reasons(shown: Shown, *, told: bool) -> Part:
    rest = shown.verdict.reasons[1:] if told else shown.verdict.reasons
    if not rest:
        return None
    more = len(rest) - _MORE_REASONS
    return tag(
        "details",
        tag("summary", f"{'what else is open' if told else 'every reason'} ({len(rest)})"),
        tag("ul", [tag("li", reason) for reason in rest[:_MORE_REASONS]]),
        tag("p", tag("a", f"and {more} more", href="/gate")) if more > 0 else None,
        id="reasons",
        class_="small",
        open=told and len(rest) <= _AT_ONCE,
    )
