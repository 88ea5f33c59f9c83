"""The verdict as Prometheus families: every state present as 0 or 1, numbers absent while unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric

from proxy.monitor.tallies import gauge, one_of
from scorers.verdict import AXES, STAGES, BudgetVerdict, LaneVerdict, Verdict

STATES = ("pass", "fail", "inconclusive")

_BUDGET_FIGURES: tuple[tuple[str, str, Callable[[BudgetVerdict], float | None]], ...] = (
    ("limit", "The drop that the product accepts, in the score's own unit.", lambda b: b.limit),
    ("noise_limit", "What the measured noise floor allows: multiple times floor plus slack.", lambda b: b.noise_limit),
    ("value", "Mean of the score so far, in its own unit.", lambda b: b.value),
    ("bound", "Upper confidence bound of the mean, valid at every look.", lambda b: b.bound),
    ("noise", "The noise floor: mean of the reference against itself.", lambda b: b.noise),
    ("samples", "Pairs that gave the budget a number in this epoch.", lambda b: b.samples),
    ("noise_samples", "Noise pairs that gave it a number in this epoch.", lambda b: b.noise_samples),
    ("lost_samples", "Pairs that should have given it a number and did not.", lambda b: b.lane.lost),
    ("critical", "1 when this budget alone can fail the recipe.", lambda b: float(b.critical)),
    ("change_level", "The change detector after promotion; alarm at 1e5.", lambda b: b.lane.change_level),
)
_LANE_FIGURES: tuple[tuple[str, str, Callable[[LaneVerdict], float | None]], ...] = (
    ("value", "Mean of the score in one stratum.", lambda lane: lane.value),
    ("bound", "Upper confidence bound of the mean in one stratum.", lambda lane: lane.bound),
    ("noise", "The noise floor in one stratum.", lambda lane: lane.noise),
    ("samples", "Pairs in one stratum.", lambda lane: lane.samples),
)


def verdict_families(verdict: Verdict, recipe: str) -> Iterator[Metric]:
    """Every `parity_verdict*`, `parity_budget*`, `parity_coverage*` and `parity_diagnosis` family."""
    yield one_of("parity_verdict", "The recipe's verdict; exactly one is 1.", "state", STATES, verdict.state)
    yield one_of("parity_verdict_stage", "Which tests are at stake; exactly one is 1.", "stage", STAGES, verdict.stage)
    yield gauge("parity_recipe_info", "The recipe that is being judged.", ("recipe",), {(verdict.recipe or recipe,): 1})
    yield gauge("parity_verdict_samples", "Pairs behind the verdict.", (), {(): verdict.samples})
    yield gauge("parity_verdict_noise_samples", "Noise pairs behind it.", (), {(): verdict.noise_samples})
    coverage = verdict.coverage
    yield gauge("parity_coverage_ratio", "Scored over eligible samples of this epoch.", (), {(): coverage.ratio})
    recent = coverage.recent.ratio
    yield gauge("parity_coverage_recent_ratio", "The same of the last eligible samples.", (), {(): recent})
    yield gauge(
        "parity_coverage_unknown_exchanges", "Lost samples whose request nobody knows.", (), {(): coverage.unknown}
    )
    yield gauge(
        "parity_coverage_exchanges",
        "Sampled exchanges of this epoch by what became of them.",
        ("disposition",),
        {
            ("scored",): coverage.scored,
            ("ineligible",): sum(coverage.ineligible.values()),
            ("lost",): sum(coverage.lost.values()),
        },
    )
    yield gauge(
        "parity_coverage_stratum_exchanges",
        "Sampled exchanges of this epoch by stratum and what became of them.",
        ("stratum", "disposition"),
        {
            (name, kind): getattr(cell, kind)
            for name, cell in coverage.strata.items()
            for kind in ("scored", "ineligible", "dropped", "reference_error", "unpaired")
        },
    )
    axis = verdict.diagnosis.axis
    yield one_of("parity_diagnosis", "The suspect axis; exactly one is 1.", "axis", AXES, axis)
    yield from _budgets(verdict)


def _budgets(verdict: Verdict) -> Iterator[Metric]:
    budgets = verdict.budgets
    states = {(name, state): float(b.state == state) for name, b in budgets.items() for state in STATES}
    yield gauge("parity_budget_state", "Each budget's own verdict.", ("budget", "state"), states)
    for figure, help, read in _BUDGET_FIGURES:
        yield gauge(f"parity_budget_{figure}", help, ("budget",), {(name,): read(b) for name, b in budgets.items()})
    evidence: dict[tuple[str, ...], float | None] = {}
    for name, budget in budgets.items():
        evidence[(name, "promote")] = budget.lane.log10_e_promote
        evidence[(name, "rollback")] = budget.lane.log10_e_rollback
        evidence[(name, "noise")] = budget.lane.log10_e_noise
    yield gauge("parity_budget_log10_e_value", "Evidence by gate, log10 of the e-value.", ("budget", "gate"), evidence)
    thresholds: dict[tuple[str, ...], float | None] = {}
    for name, budget in budgets.items():
        thresholds[(name, "promote")] = thresholds[(name, "noise")] = budget.log10_threshold_promote
        thresholds[(name, "rollback")] = budget.log10_threshold_rollback
    yield gauge("parity_budget_log10_e_threshold", "Where that e-value decides.", ("budget", "gate"), thresholds)
    for figure, help, look in _LANE_FIGURES:
        lanes = {(name, where): look(lane) for name, b in budgets.items() for where, lane in b.strata.items()}
        yield gauge(f"parity_budget_stratum_{figure}", help, ("budget", "stratum"), lanes)
    over = {(name, where): float(where in b.over) for name, b in budgets.items() for where in b.strata}
    yield gauge(
        "parity_budget_stratum_over", "1 for the strata listed as beyond the limit.", ("budget", "stratum"), over
    )
