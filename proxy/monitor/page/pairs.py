"""The list of pairs to read, with its filter: a form that works by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.shown import Shown
from proxy.monitor.page.verdict import pair_link
from proxy.monitor.page.words import figure, moment, stratum_words

_SCORES_SHOWN = 4  # *choice*
_COLUMNS = ("Pair", "Off by", "Stratum", "Sampled")


def pairs_section(shown: Shown) -> Html:
    """The latest pairs that the filter chooses."""
    limits = {name: (budget.limit, budget.unit) for name, budget in shown.verdict.budgets.items()}
    chosen = shown.filter
    older: Part = None
    if shown.full and shown.pairs:
        query = urlencode(chosen.query(before=str(shown.pairs[-1]["position"])))
        older = tag("p", tag("a", "older pairs", href=f"/?{query}#pairs"))
    if shown.trouble is not None:
        body: Part = tag("p", shown.trouble, class_="chip bad")
    elif shown.pairs:
        head = tag("tr", [tag("th", name, scope="col") for name in _COLUMNS])
        rows = [_pair(shown, pair, limits) for pair in shown.pairs]
        table = tag("table", tag("thead", head), tag("tbody", rows), class_="stack")
        body = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="Pairs")
    else:
        body = tag("p", "No such pair is kept.", class_="dim")
    return tag("section", tag("h2", "Pairs to read"), _form(shown, sorted(limits)), body, older, id="pairs")


def _form(shown: Shown, scores: Sequence[str]) -> Html:
    chosen = shown.filter
    strata = sorted({*shown.verdict.coverage.strata, *([chosen.stratum] if chosen.stratum else [])} - {"unknown"})
    if chosen.score and chosen.score not in scores:
        scores = [*scores, chosen.score]
    return tag(
        "form",
        tag(
            "label",
            "over the limit of ",
            _select("score", "any budget", [(name, name) for name in scores], chosen.score),
        ),
        tag(
            "label",
            "stratum ",
            _select("stratum", "any stratum", [(s, stratum_words(s)) for s in strata], chosen.stratum),
        ),
        tag(
            "label",
            tag("input", type="checkbox", name="every", value="true", checked=chosen.every),
            " also those within",
        ),
        tag("button", "show"),
        tag("a", "clear", href="/#pairs") if chosen.query() else None,
        method="get",
        action="/#pairs",
        class_="filters small",
    )


def _select(name: str, every: str, options: Sequence[tuple[str, str]], chosen: str | None) -> Html:
    shown = [tag("option", every, value="")]
    shown += [tag("option", words, value=value, selected=value == chosen) for value, words in options]
    return tag("select", shown, name=name)


def _pair(shown: Shown, pair: Mapping[str, Any], limits: Mapping[str, tuple[float, str]]) -> Html:
    off = [s for s in pair["scores"] if s["arm"] == "candidate" and s["value"] and s["name"] in limits]
    off.sort(key=lambda s: limits[s["name"]][0] - s["value"])
    told = [_off(score, *limits[score["name"]]) for score in off[:_SCORES_SHOWN]]
    text = pair["id"] if pair["kind"] == "live" else f"{pair['id']} (needle)"
    cells: list[Part] = [
        tag("a", text, href=pair_link(pair, shown.filter), class_="name id"),
        tag("div", told or tag("span", "nothing that a budget looks at", class_="dim"), class_="small"),
        stratum_words(pair["stratum"] or "unknown"),
        tag("span", moment(pair["sampled_unix_s"]), class_="small off"),
    ]
    return tag("tr", [tag("td", cell, data_label=name) for cell, name in zip(cells, _COLUMNS, strict=True)])


def _off(score: Mapping[str, Any], limit: float, unit: str) -> Html:
    over = "chip bad" if score["value"] > limit else None
    return tag("div", score["name"], " ", tag("span", figure(score["value"], unit), class_=over), class_="off")
