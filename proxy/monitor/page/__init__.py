"""The page for people: server-rendered, no script, no build step, nothing loaded from anywhere.

html.py      elements that escape everything put into them
style.py     the one style sheet and the content security policy that allows it and nothing else
overview.py  `/`: the verdict and why, budgets, coverage, the latest pairs
pair.py      one pair, side by side
"""

from __future__ import annotations

from proxy.monitor.page.overview import overview
from proxy.monitor.page.pair import pair_page
from proxy.monitor.page.style import CONTENT_SECURITY_POLICY, problem

__all__ = ["CONTENT_SECURITY_POLICY", "overview", "pair_page", "problem"]
