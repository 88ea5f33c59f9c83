"""The verdict in the shapes that rollout tools ask for. Pure: a verdict in, JSON-ready values or a status code out.

/gate                     the whole verdict, for `parity gate` and people
/gate/v1/argo             always a 200: to Argo Rollouts a non-2xx is an error of the measurement, and aborts as a
                          fail does
/gate/v1/flagger/{hook}   the status code is the answer; refusals are 409, for Flagger retries a 5xx or 429 and then
                          drops the body, and with it the reason

Source:  argo-rollouts 9f8d111 metricproviders/webmetric, flagger 15bd6ad pkg/controller/webhook.go and
scheduler_hooks.go, go-retryablehttp 0.7.8.
"""

from __future__ import annotations

import math
from typing import Any

from proxy.monitor.rows import MonitorView
from scorers.judge import Verdict

AGREED, REFUSED = 200, 409

MAX_LINE_CHARS = 500  # *choice*: it stands in a Kubernetes event, behind Flagger's own words

_CHECKS = ("pre-rollout", "rollout")
_AGREES: dict[str, frozenset[str]] = {
    "confirm-rollout": frozenset({"pass"}),
    "confirm-traffic-increase": frozenset({"pass"}),
    "confirm-promotion": frozenset({"pass"}),
    **dict.fromkeys(_CHECKS, frozenset({"pass", "inconclusive"})),  # what they refuse counts towards a rollback
    "rollback": frozenset({"fail"}),  # inverted: here a 2xx is the order to roll back
    "post-rollout": frozenset({"pass", "fail", "inconclusive"}),
    "event": frozenset({"pass", "fail", "inconclusive"}),
}
FLAGGER_HOOKS = tuple(_AGREES)
FLAGGER_NOTICES = frozenset({"post-rollout", "event"})
"""Hooks that tell and do not ask."""

_BROKEN = "the monitor could not work out its verdict; its log says why"
_FIGURES = ("value", "bound", "limit", "noise")


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
    """`/gate/v1/argo`: `{"data": ...}` with what a `web` metric's conditions and people read.

    `verdict` is the three-state answer, `passed` and `failed` the same as booleans. A figure is a finite number or
    None. Small, because Argo keeps it with every measurement: no strata, one line of reason.
    """
    answer = plain(verdict, asked_recipe)
    budgets = {
        name: {
            **{key: budget[key] for key in ("verdict", "samples", "critical")},
            **{key: _finite(budget[key]) for key in _FIGURES},
        }
        for name, budget in answer["budgets"].items()
    }
    kept = ("verdict", "recipe", "epoch", "samples", "noise_samples")
    return {
        "data": {
            **{key: answer[key] for key in kept},
            "passed": answer["verdict"] == "pass",
            "failed": answer["verdict"] == "fail",
            "reason": _one_line(answer["reason"]),
            "coverage": _finite(answer["coverage"]["ratio"]),
            "budgets": budgets,
        }
    }


def flagger(hook: str, verdict: Verdict, asked_recipe: str | None, refuse_inconclusive: bool) -> tuple[int, str]:
    """`/gate/v1/flagger/{hook}`: the status and one line saying why. `hook` is one of FLAGGER_HOOKS.

    `refuse_inconclusive` makes the checks, pre-rollout and rollout, refuse what is not decided yet.
    """
    answer = plain(verdict, asked_recipe)
    state = answer["verdict"]
    agreed = state in _AGREES[hook] and not (refuse_inconclusive and state == "inconclusive" and hook in _CHECKS)
    return AGREED if agreed else REFUSED, _one_line(f"{state}: {answer['reason']}")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_LINE_CHARS else line[: MAX_LINE_CHARS - 3] + "..."


def _finite(figure: float | None) -> float | None:
    return figure if figure is not None and math.isfinite(figure) else None
