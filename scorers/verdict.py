"""What the judge answers: values, JSON-ready, never NaN. Unknown is None.

Verdict          the recipe: pass, fail or inconclusive, with reasons
BudgetVerdict    one budget of it
LaneVerdict      one stratum of a budget that is kept apart by strata
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from scorers.coverage import Coverage

State: TypeAlias = Literal["pass", "fail", "inconclusive"]
Stage: TypeAlias = Literal["proving", "promoted", "rolled_back"]
STAGES: tuple[Stage, ...] = ("proving", "promoted", "rolled_back")
Axis: TypeAlias = Literal["weights", "activations", "kv_cache", "template", "kernel", "undetermined"]
AXES: tuple[Axis, ...] = ("weights", "activations", "kv_cache", "template", "kernel", "undetermined")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The suspect axis, the sentences that led there, and what to try."""

    axis: Axis = "undetermined"
    evidence: tuple[str, ...] = ()
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"axis": self.axis, "evidence": list(self.evidence), "fix": self.fix}


@dataclass(frozen=True, slots=True)
class LaneVerdict:
    """The evidence of one lane: a budget as a whole, or one stratum of it.

    `samples` are numbers that arrived, `lost` those that should have. `value` and `noise` are means of what arrived;
    `bound` is the upper confidence bound at alpha_promote with every lost one counted as the worst (for an
    unbounded score: of the score capped at 10 limits). `log10_e_*` are None where the e-value is 0 or no test runs.
    `first_crossed_position` is where the lane's own verdict was reached. `required` says that the lane's share
    of the samples is large enough to be needed for a pass. `change_level` is the change detector's, None before
    the lane's promotion; its alarm comes at 1e5 pairs, at `changed_position`. `crossed` says at which position each
    of its tests reached its threshold: limit, tail, noise, rollback, change; a test that has not is absent.
    """

    state: State
    samples: int
    lost: int
    share: float
    required: bool
    value: float | None
    noise: float | None
    noise_samples: int
    bound: float | None
    log10_e_promote: float | None
    log10_e_rollback: float | None
    log10_e_noise: float | None
    first_crossed_position: int | None
    change_level: float | None
    changed_position: int | None
    crossed: Mapping[str, int]
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        shown = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "state"}
        return {"verdict": self.state, **shown, "crossed": dict(self.crossed), "reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class BudgetVerdict:
    """One budget. `lane` pools its lanes: sums and means over all, the weakest e-value of those that must pass, the
    strongest of those that may fail. `strata` holds the lanes of a budget that is kept apart, and is empty otherwise;
    `over` lists those that lie beyond the limit, with a false discovery rate of at most alpha_rollback.
    `log10_threshold_*` is where the e-values of a lane decide: those of promotion and noise, and that of rollback.
    `noise_limit` is what the noise contrast allows at the measured floor: noise_multiple x noise + slack.
    """

    name: str
    limit: float
    critical: bool
    unit: str
    noise_limit: float | None
    log10_threshold_promote: float
    log10_threshold_rollback: float
    lane: LaneVerdict
    strata: Mapping[str, LaneVerdict] = field(default_factory=dict)
    over: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        return self.lane.state

    @property
    def samples(self) -> int:
        return self.lane.samples

    @property
    def value(self) -> float | None:
        return self.lane.value

    @property
    def noise(self) -> float | None:
        return self.lane.noise

    @property
    def noise_samples(self) -> int:
        return self.lane.noise_samples

    @property
    def bound(self) -> float | None:
        return self.lane.bound

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.lane.reasons

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, flat: the pooled lane's entries beside the budget's own."""
        lane = self.lane.as_dict()
        del lane["share"], lane["required"]
        return {
            **lane,
            "limit": self.limit,
            "noise_limit": self.noise_limit,
            "critical": self.critical,
            "unit": self.unit,
            "log10_threshold_promote": self.log10_threshold_promote,
            "log10_threshold_rollback": self.log10_threshold_rollback,
            "strata": {name: part.as_dict() for name, part in self.strata.items()},
            "strata_over": list(self.over),
        }


@dataclass(frozen=True, slots=True)
class VerdictContext:
    """What the verdict is about, which evidence alone cannot know.

    `holds` are sentences that forbid a pass at once, whatever the evidence says: the contract no longer holds, the
    ledger cannot be written. They never undo a fail. `prompt_token_mismatches` counts pairs whose arms counted
    different prompt tokens (another template or tokenizer). `mismatch` is the sentence when they do so as a rule: it
    forbids a pass, and is the first reason of whatever else is said. `contract` goes into the verdict as it is.
    `lacks` says of a budget why no pair can ever give it a number: it stays undecided, and says so first.
    """

    recipe: str = ""
    epoch: int | None = None
    holds: tuple[str, ...] = ()
    prompt_token_mismatches: int = 0
    mismatch: str = ""
    lacks: Mapping[str, str] = field(default_factory=dict)
    contract: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for a recipe. The first reason is the one-line one.

    `stage` says which tests are at stake: those that prove the recipe; once every required budget was certified, at
    `promoted_position`, the change detectors; after a fail none, for it stays until an operator's reset.
    """

    state: State
    reasons: tuple[str, ...]
    stage: Stage = "proving"
    promoted_position: int | None = None
    budgets: Mapping[str, BudgetVerdict] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    samples: int = 0
    noise_samples: int = 0
    epoch: int | None = None
    recipe: str = ""
    diagnosis: Diagnosis = Diagnosis()
    contract: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, as `/gate` and `parity verdict --json` answer it."""
        return {
            "verdict": self.state,
            "reason": self.reasons[0] if self.reasons else "",
            "reasons": list(self.reasons),
            "stage": self.stage,
            "promoted_position": self.promoted_position,
            "recipe": self.recipe,
            "epoch": self.epoch,
            "samples": self.samples,
            "noise_samples": self.noise_samples,
            "budgets": {name: budget.as_dict() for name, budget in self.budgets.items()},
            "coverage": self.coverage.as_dict(),
            "diagnosis": self.diagnosis.as_dict(),
            "contract": dict(self.contract),
        }
