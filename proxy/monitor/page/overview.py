"""`/`: what is the verdict, since when and why, how far is each budget from its limit, which pairs to read."""

from __future__ import annotations

from proxy.monitor.page.budgets import budgets_section
from proxy.monitor.page.coverage import coverage_section
from proxy.monitor.page.happened import history_section, monitor_section, rollout_section
from proxy.monitor.page.html import Part, tag
from proxy.monitor.page.pairs import pairs_section
from proxy.monitor.page.shown import Shown
from proxy.monitor.page.style import frame
from proxy.monitor.page.verdict import verdict_section


def overview(shown: Shown) -> str:
    """The whole page."""
    verdict = shown.verdict
    about = f"recipe {verdict.recipe}" + ("" if verdict.epoch is None else f", epoch {verdict.epoch}")
    links: Part = [
        tag("a", "budgets", href="#budgets"),
        tag("a", "coverage", href="#coverage"),
        tag("a", "pairs", href="#pairs"),
        tag("a", "history", href="#history"),
        tag("a", "gate", href="/gate"),
        tag("a", "metrics", href="/metrics"),
        tag("a", "state", href="/state"),
        tag("a", "stop refreshing", href="/")
        if shown.refresh_s
        else tag("noscript", tag("a", "refresh every 10 s", href="/?refresh=10")),
    ]
    return frame(
        f"{verdict.state} - parity",
        about,
        verdict_section(shown),
        rollout_section(shown),
        budgets_section(shown),
        pairs_section(shown),
        coverage_section(verdict.coverage),
        history_section(shown),
        monitor_section(shown),
        refresh_s=shown.refresh_s,
        live=not shown.refresh_s,
        links=links,
    )
