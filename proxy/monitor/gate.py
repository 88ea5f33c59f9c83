"""The verdict in the shapes that rollout tools ask for. Pure: a verdict in, JSON-ready values out.

Always a 200, also for fail and inconclusive: to Argo Rollouts a non-2xx is an error of the measurement, and aborts
like a fail (contracts.md).
"""

from __future__ import annotations

from typing import Any

from proxy.monitor.rows import MonitorView
from scorers.judge import Verdict

_BROKEN = "the monitor could not work out its verdict; its log says why"


def current(view: MonitorView, recipe: str) -> Verdict:
    """The monitor's verdict; inconclusive when it cannot be had, never an exception."""
    try:
        return view.verdict()
    except Exception:  # noqa: BLE001  whatever broke inside, a rollout must read "not now", not an HTTP error
        return Verdict(state="inconclusive", reasons=(_BROKEN,), recipe=recipe)


def plain(verdict: Verdict, asked_recipe: str | None) -> dict[str, Any]:
    """`/gate`: the whole verdict; inconclusive when another recipe than the monitored one was asked for."""
    answer = verdict.as_dict()
    if asked_recipe is None or asked_recipe == verdict.recipe:
        return answer
    reason = f'this monitor judges recipe "{verdict.recipe}"; it knows nothing of the one that was asked for'
    return {**answer, "verdict": "inconclusive", "reason": reason, "reasons": [reason]}


def argo(verdict: Verdict, asked_recipe: str | None) -> dict[str, Any]:
    """`/gate/v1/argo`: `{"data": ...}` with what a `web` metric's conditions and people read."""
    answer = plain(verdict, asked_recipe)
    budgets = {
        name: {key: budget[key] for key in ("verdict", "samples", "value", "limit", "noise", "critical")}
        for name, budget in answer["budgets"].items()
    }
    kept = ("verdict", "reason", "recipe", "epoch", "samples", "noise_samples")
    return {"data": {**{key: answer[key] for key in kept}, "budgets": budgets}}
