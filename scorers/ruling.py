"""One budget's evidence into its verdict, with the sentences that a person reads.

Nothing is decided here that the lanes have not crossed; this room says which of it is needed, and why it is open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from scorers.betting import Mixture
from scorers.budgets import DISCIPLINE_MULTIPLE, EXCEEDANCE_LIMIT, WHOLE, Budget, GateRules
from scorers.discovery import e_bh
from scorers.evidence import FAILING, PASSING, BudgetEvidence, Lane, lane_count, ordered
from scorers.planning import upper_bound
from scorers.verdict import BudgetVerdict, LaneVerdict, State

REQUIRED_SHARE = 0.05
"""*choice*: a stratum with at least 5 % of a budget's samples must pass for the budget to pass. A smaller one is named
as not certified. Any stratum may fail."""


def rule(evidence: BudgetEvidence, rules: GateRules) -> BudgetVerdict:
    """The budget's verdict as its evidence stands."""
    budget = evidence.budget
    whole = sum(lane.samples + lane.lost for lane in evidence.lanes.values())
    parts = {name: _rule_lane(budget, evidence.lanes[name], rules, whole) for name in ordered(evidence)}
    lane = _pool(budget, parts, evidence.lanes) if budget.strata else parts[WHOLE]
    noise_limit = None if lane.noise is None else budget.noise_multiple * lane.noise + budget.slack
    return BudgetVerdict(
        name=budget.name,
        limit=budget.limit,
        critical=budget.critical,
        unit=budget.unit,
        noise_limit=noise_limit if budget.bounded else None,
        log10_threshold_promote=math.log10(evidence.thresholds.promote),
        log10_threshold_rollback=math.log10(evidence.thresholds.rollback),
        lane=lane,
        strata=parts if budget.strata else {},
        over=_over(evidence, parts, rules) if budget.strata else (),
    )


def with_lack(found: BudgetVerdict, lack: str | None) -> BudgetVerdict:
    """The verdict on a budget that no pair can give a number, while it is undecided: why, before all else."""
    if not lack or found.state != "inconclusive":
        return found
    return replace(found, lane=replace(found.lane, reasons=(lack, *found.lane.reasons)))


def _over(evidence: BudgetEvidence, parts: Mapping[str, LaneVerdict], rules: GateRules) -> tuple[str, ...]:
    """The strata that e-BH lists as beyond the limit, among all that the budget might have."""
    levels = {name: part.log10_e_rollback for name, part in parts.items() if part.log10_e_rollback is not None}
    return e_bh(levels, lane_count(evidence.budget), rules.alpha_rollback)


def remarks(budget: Budget, found: BudgetVerdict) -> Iterable[str]:
    """What a reader must know about a budget that neither holds nor fails the recipe."""
    if budget.noise_multiple > DISCIPLINE_MULTIPLE:
        yield (
            f"{budget.name}: the operator allows {budget.noise_multiple:g} times the noise floor, "
            f"above the discipline's {DISCIPLINE_MULTIPLE:g}"
        )
    if not budget.required and found.state == "inconclusive":
        known = "not certified" if found.samples else "no number yet"
        yield f"{budget.name}: {known}; it can hold a promotion, and none waits for it"
    for name, part in found.strata.items():
        if not part.required and part.state == "inconclusive":
            yield f"{budget.name} {name}: holds {part.share:.1%} of the samples: not certified"


def amount(budget: Budget, value: float) -> str:
    """A value for people: a bounded score in percent, any other in its unit."""
    if budget.bounded:
        return f"{100.0 * value:.3g} %"
    return f"{value:.3g} {budget.unit}".rstrip()


def _rule_lane(budget: Budget, lane: Lane, rules: GateRules, whole: int) -> LaneVerdict:
    count = lane.samples + lane.lost
    bound = upper_bound(count, lane.capped_total + lane.lost, rules.alpha_promote)
    state, first = _state(lane)
    share = count / whole if whole else 0.0
    return LaneVerdict(
        state=state,
        samples=lane.samples,
        lost=lane.lost,
        share=share,
        required=count > 0 and share >= REQUIRED_SHARE,
        value=lane.total / lane.samples if lane.samples else None,
        noise=lane.noise_total / lane.noise_samples if lane.noise_samples else None,
        noise_samples=lane.noise_samples,
        bound=bound if bound is None or budget.bounded else bound * budget.cap,
        log10_e_promote=_weakest(lane.promotion.log10(), *([lane.exceedance.log10()] if lane.exceedance else [])),
        log10_e_rollback=lane.rollback.log10(),
        log10_e_noise=lane.contrast.log10() if lane.contrast else None,
        first_crossed_position=first,
        change_level=lane.change.level if lane.change else None,
        changed_position=lane.alarm_position,
        crossed={test: at for test, at in lane.crossings() if at is not None},
        reasons=tuple(_sentences(budget, lane, rules, bound)),
    )


def _state(lane: Lane) -> tuple[State, int | None]:
    """The lane's state, and where it was reached."""
    against = [at for at in (lane.rollback_position, lane.alarm_position) if at is not None]
    if against:
        return "fail", min(against)
    if lane.promoted_position is not None:
        return "pass", lane.promoted_position
    return "inconclusive", None


def _sentences(budget: Budget, lane: Lane, rules: GateRules, bound: float | None) -> Iterable[str]:
    limit = amount(budget, budget.limit)
    count = lane.samples + lane.lost
    value = amount(budget, lane.total / lane.samples) if lane.samples else "unknown"
    if lane.rollback_position is not None:
        yield (
            f"over its limit: {value} over {lane.samples} pairs against {limit}; "
            f"the rollback test crossed at position {lane.rollback_position}"
        )
    if lane.alarm_position is not None:
        yield (
            f"changed for the worse after its promotion: {value} over {lane.samples} pairs against {limit}; "
            f"the change detector alarmed at position {lane.alarm_position}"
        )
    if lane.rollback_position is None and lane.alarm_position is None:
        if not count:
            yield "no data: no pair was scored yet"
        elif lane.promoted_position is not None:
            yield f"within its limit: {value} over {lane.samples} pairs against {limit}{_bound(budget, bound)}"
        else:
            yield from _open_gates(budget, lane, rules, value, limit)
    if lane.lost:
        yield f"scores that never arrived and count against it: {lane.lost}"


def _open_gates(budget: Budget, lane: Lane, rules: GateRules, value: str, limit: str) -> Iterable[str]:
    """One sentence per gate that a pass still needs."""
    if lane.gate_position is None:
        what = "" if budget.bounded else f", capped at {amount(budget, budget.cap)}"
        yield f"not decided: {value} over {lane.samples} pairs against {limit}{what} ({_stands(lane.promotion, rules)})"
    if lane.exceedance is not None and lane.tail_position is None:
        yield (
            f"not decided: at most {EXCEEDANCE_LIMIT:.0%} may lie above {amount(budget, budget.cap)} "
            f"({_stands(lane.exceedance, rules)})"
        )
    if lane.contrast is not None and lane.contrast_position is None:
        rest = f"against {budget.noise_multiple:g} x the noise floor + {amount(budget, budget.slack)}"
        if not lane.noise_samples:
            yield f"not decided {rest}: no noise pair was scored yet"
        else:
            floor = amount(budget, lane.noise_total / lane.noise_samples)
            yield (
                f"not decided: {value} {rest}, floor {floor} over {lane.noise_samples} noise pairs "
                f"({_stands(lane.contrast, rules)})"
            )


def _stands(test: Mixture, rules: GateRules) -> str:
    level = test.log10()
    shown = "0" if level is None else f"{10.0**level:.3g}" if -3.0 < level < 6.0 else f"1e{level:.0f}"
    return f"e-value {shown} of {1.0 / rules.alpha_promote:g}"


def _bound(budget: Budget, bound: float | None) -> str:
    if bound is None:
        return ""
    return f", at most {amount(budget, bound if budget.bounded else bound * budget.cap)} by its bound"


def _pool(budget: Budget, parts: Mapping[str, LaneVerdict], lanes: Mapping[str, Lane]) -> LaneVerdict:
    """All lanes of a budget as one: the weakest of those that must pass, the strongest of those that may fail.

    Sums are exact, so that they do not depend on which lane was seen first.
    """
    needed = [part for part in parts.values() if part.required]
    failed = [part for part in parts.values() if part.state == "fail"]
    passed = bool(needed) and all(part.state == "pass" for part in needed)
    state: State = "fail" if failed else "pass" if passed else "inconclusive"
    crossed = [part.first_crossed_position for part in (failed or needed) if part.first_crossed_position is not None]
    samples = sum(part.samples for part in parts.values())
    noise_samples = sum(part.noise_samples for part in parts.values())
    alarms = [part.changed_position for part in parts.values() if part.changed_position is not None]
    levels = [part.change_level for part in parts.values() if part.change_level is not None]
    return LaneVerdict(
        state=state,
        samples=samples,
        lost=sum(part.lost for part in parts.values()),
        share=1.0 if parts else 0.0,
        required=bool(needed),
        value=math.fsum(lane.total for lane in lanes.values()) / samples if samples else None,
        noise=math.fsum(lane.noise_total for lane in lanes.values()) / noise_samples if noise_samples else None,
        noise_samples=noise_samples,
        bound=max((part.bound for part in needed if part.bound is not None), default=None),
        log10_e_promote=_weakest(*(part.log10_e_promote for part in needed)),
        log10_e_rollback=_strongest(part.log10_e_rollback for part in parts.values()),
        log10_e_noise=_weakest(*(part.log10_e_noise for part in needed)),
        first_crossed_position=(min(crossed) if failed else max(crossed))
        if crossed and state != "inconclusive"
        else None,
        change_level=max(levels, default=None),
        changed_position=min(alarms, default=None),
        crossed=_pooled_crossings(parts, needed),
        reasons=tuple(_pooled_sentences(parts, state)),
    )


def _pooled_crossings(parts: Mapping[str, LaneVerdict], needed: Sequence[LaneVerdict]) -> Mapping[str, int]:
    """Where the last lane that must pass passed each gate, and where the first of all turned against the recipe."""
    crossed: dict[str, int] = {}
    for gate in PASSING:
        reached = [part.crossed.get(gate) for part in needed]
        if reached and None not in reached:
            crossed[gate] = max(at for at in reached if at is not None)
    for alarm in FAILING:
        heard = [part.crossed[alarm] for part in parts.values() if alarm in part.crossed]
        if heard:
            crossed[alarm] = min(heard)
    return crossed


def _pooled_sentences(parts: Mapping[str, LaneVerdict], state: State) -> Iterable[str]:
    """The lanes' sentences under their names: those that made the state first, small undecided lanes not at all."""
    if not any(part.samples or part.lost for part in parts.values()):
        yield "no data: no pair was scored yet"
        return
    for name, part in sorted(parts.items(), key=lambda item: item[1].state != state):
        if part.required or part.state == "fail":
            yield from (f"{name}: {reason}" for reason in part.reasons)


def _weakest(*levels: float | None) -> float | None:
    """The least e-value; None when one of them is 0 or does not run, or none is given."""
    known = [level for level in levels if level is not None]
    return min(known) if known and len(known) == len(levels) else None


def _strongest(levels: Iterable[float | None]) -> float | None:
    return max((level for level in levels if level is not None), default=None)
