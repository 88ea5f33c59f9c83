"""The page for people: server-rendered, no build step, nothing loaded from anywhere, whole without its one script.

html.py       elements that escape everything put into them;  words.py  numbers, moments, strata and reasons in words
style.py      the one style sheet, the frame, the policy that allows no more;  script.py  keys, and a fresh verdict
overview.py   `/`, of what shown.py holds:  verdict.py, budgets.py with chart.py, pairs.py, coverage.py, happened.py
pair.py       one pair, side by side:  steps.py to the next, differs.py where texts part, laid_out.py calls and places
"""

from __future__ import annotations

from proxy.monitor.page.happened import HISTORY_KINDS
from proxy.monitor.page.overview import overview
from proxy.monitor.page.pair import pair_page
from proxy.monitor.page.shown import Filter, Shown, broken, over_position, parts_of, worst_stratum
from proxy.monitor.page.steps import Steps
from proxy.monitor.page.style import CONTENT_SECURITY_POLICY, problem

__all__ = [
    "CONTENT_SECURITY_POLICY",
    "HISTORY_KINDS",
    "Filter",
    "Shown",
    "Steps",
    "broken",
    "over_position",
    "overview",
    "pair_page",
    "parts_of",
    "problem",
    "worst_stratum",
]
