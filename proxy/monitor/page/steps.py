"""The way through the pairs: to the newer, to the older, back to the list; by links, and by keys beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from proxy.monitor.page.html import Html, tag
from proxy.monitor.page.shown import Filter
from proxy.monitor.page.verdict import pair_link
from proxy.monitor.page.words import stratum_words


class Steps(NamedTuple):
    """The way through the pairs: summaries of the neighbours, and which of the latest ones this is (None: older)."""

    filter: Filter = Filter()
    newer: Mapping[str, Any] | None = None
    older: Mapping[str, Any] | None = None
    number: int | None = None
    of: int = 0


def reader(steps: Steps) -> Html:
    """Newer, older, and back to the list: links, and keys beside them."""
    of = "pairs" if steps.filter.every else "failing pairs"
    chosen = [f" over the limit of {steps.filter.score}" if steps.filter.score else ""]
    chosen.append(f" with {stratum_words(steps.filter.stratum)}" if steps.filter.stratum else "")
    where = f"{steps.number} of the latest {steps.of} {of}" if steps.number else f"one of the older {of}"
    return tag(
        "nav",
        _step("prev", "\u2190 newer", "k", steps.newer, steps.filter, "the latest"),
        _step("next", "older \u2192", "j", steps.older, steps.filter, "the oldest"),
        tag("a", "list ", tag("kbd", "u"), href=f"/?{urlencode(steps.filter.query())}#pairs", rel="up"),
        tag("span", "".join((where, *chosen)), class_="dim small"),
        aria_label="Pairs",
        class_="reader",
    )


def _step(rel: str, word: str, key: str, pair: Mapping[str, Any] | None, chosen: Filter, end: str) -> Html:
    if pair is None:
        return tag("span", f"this is {end}", class_="end")
    return tag("a", word, " ", tag("kbd", key), href=pair_link(pair, chosen), rel=rel)
