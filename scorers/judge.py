"""Evidence and budgets to a verdict: pass, fail or inconclusive, with reasons. No data never passes.

How the parts are combined, and who may decide:

- Any critical budget whose rollback test or change detector has crossed fails the recipe, and nothing outvotes it; it
  stays failed until an operator's `reset`. The alpha of rollback is shared by all lanes of the critical budgets.
- A budget that is not critical cannot fail the recipe: over its limit it holds the promotion. Its own test shares an
  alpha with the other budgets that are not critical.
- A pass needs every required budget (every bounded one, and an unbounded one that is critical) through its gates,
  each at the full alpha (intersection-union); enough coverage, evenly spread, of late too; fewer losses of requests
  that nobody knows than the smallest limit; and no hold from outside.
- Everything else is inconclusive, and says what is open.

The names that other rooms need are exported here; they live in budgets, coverage and verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scorers.budgets import EXCEEDANCE_LIMIT, Budget, GateRules, by_name
from scorers.coverage import UNKNOWN_STRATUM, Coverage, CoverageTally
from scorers.diagnose import FIXES, diagnose
from scorers.evidence import BudgetEvidence, LaneSums, Thresholds, lane_count, ordered
from scorers.pattern import PatternTally
from scorers.records import Observation, Reason, Stratum
from scorers.ruling import amount, remarks, rule, with_lack
from scorers.verdict import AXES, BudgetVerdict, Diagnosis, LaneVerdict, State, Verdict, VerdictContext

__all__ = [
    "AXES",
    "Budget",
    "BudgetVerdict",
    "Coverage",
    "Diagnosis",
    "EvidenceState",
    "GateRules",
    "LaneVerdict",
    "State",
    "Verdict",
    "VerdictContext",
    "start",
]

FORMAT = 4  # of to_json; a change of any formula or grid that evidence rests on raises it

STICKY = "a fail stays until an operator resets the evidence (POST /gate/reset) or a new epoch begins"

SUSPICION_LOG10 = 1.0  # *choice*: a rollback e-value of 10, which a recipe within limits ever meets once in ten times

PROBE_SCORES = frozenset({"needle_recall_loss"})
"""What a planted needle may feed. It is no client's request: its tool calls and KL belong in no budget on traffic."""


class EvidenceState:
    """The running evidence of one recipe in one epoch: O(1) per budget and stratum, whatever the number of rows.

    It only grows by `fold`, in rising position; everything that it knows came from observations, so folding the same
    rows anywhere gives the same state. Not safe for use from several threads.
    """

    def __init__(self, budgets: Sequence[Budget], rules: GateRules) -> None:
        self.budgets = tuple(budgets)
        self.rules = rules
        self.position = -1  # the last one folded
        self.reset_position: int | None = None
        self._named = by_name(self.budgets)
        self._begin()

    def _begin(self) -> None:
        """Evidence that has seen nothing."""
        sharing = dict.fromkeys((True, False), 0)
        for budget in self.budgets:
            sharing[budget.critical] += lane_count(budget)
        self.samples = 0  # planned rows that gave at least one number
        self.noise_samples = 0  # planned rows whose re-run did
        self._coverage = CoverageTally()
        self._pattern = PatternTally()
        self._places: dict[Stratum | None, _Place] = {}  # because finding one's names costs more than counting
        self._evidence = tuple(
            BudgetEvidence(
                budget, Thresholds(self.rules.alpha_promote, self.rules.alpha_rollback, sharing[budget.critical])
            )
            for budget in self.budgets
        )

    @property
    def coverage(self) -> Coverage:
        """What became of all live samples so far."""
        return self._coverage.coverage()

    def sums(self) -> dict[str, dict[str, LaneSums]]:
        """What each lane of each budget has counted: enough to draw its course, and cheap enough to ask for often."""
        return {
            evidence.budget.name: {name: evidence.lanes[name].sums() for name in ordered(evidence)}
            for evidence in self._evidence
        }

    def fold(self, observation: Observation) -> None:
        """Take in one observation.

        Raises:  ValueError when its position does not rise: nothing may be counted twice or out of order.
        """
        position = observation.position
        if position <= self.position:
            raise ValueError(f"position {position} after {self.position}: evidence is folded in sampling order")
        self.position = position
        stratum = observation.stratum
        place = self._places.get(stratum)
        if place is None:
            place = self._places[stratum] = _Place(stratum, self.budgets)
        live = observation.kind == "live"
        numbered = self._coverage.fold(observation, place.name) if live else False
        if observation.disposition != "scored":
            return
        candidate, noise = observation.candidate, observation.noise
        if not live:
            candidate = {name: value for name, value in candidate.items() if name in PROBE_SCORES}
            noise = {name: value for name, value in noise.items() if name in PROBE_SCORES}
            numbered = _any_number(candidate)
        may_promote = self.samples < self.rules.max_pairs
        if numbered:
            self.samples += 1
        if noise and _any_number(noise):
            self.noise_samples += 1
        for evidence, lane in zip(self._evidence, place.lanes, strict=True):
            evidence.fold(candidate, noise, lane, position, may_promote)
        self._pattern.fold(candidate, noise, stratum)

    def verdict(self, context: VerdictContext | None = None) -> Verdict:
        """The verdict as the evidence stands; looking changes nothing and costs no validity."""
        about = VerdictContext() if context is None else context
        ruled = {evidence.budget.name: rule(evidence, self.rules) for evidence in self._evidence}
        found = {name: with_lack(budget, about.lacks.get(name)) for name, budget in ruled.items()}
        coverage = self.coverage
        over = [name for name, budget in found.items() if self._is_over(budget)]
        state, reasons = self._decide(found, coverage, about)
        promoted = self._promoted_position(found)
        return Verdict(
            state=state,
            reasons=reasons,
            stage="rolled_back" if state == "fail" else "proving" if promoted is None else "promoted",
            promoted_position=promoted,
            budgets=found,
            coverage=coverage,
            samples=self.samples,
            noise_samples=self.noise_samples,
            epoch=about.epoch,
            recipe=about.recipe,
            diagnosis=self._diagnosis(over, about),
            contract=about.contract,
        )

    def _decide(
        self, found: Mapping[str, BudgetVerdict], coverage: Coverage, about: VerdictContext
    ) -> tuple[State, tuple[str, ...]]:
        """The recipe's state and its reasons, the deciding one first."""
        ranked = sorted(found.values(), key=lambda budget: not budget.critical)
        notes = [note for name, budget in found.items() for note in remarks(self._named[name], budget)]
        optional = [name for name, budget in found.items() if not self._named[name].required]
        notes += [
            f"{name}: {lack}" for name, lack in about.lacks.items() if name in optional and lack in found[name].reasons
        ]
        if self.reset_position is not None:
            notes.append(f"evidence begins after position {self.reset_position}: an operator reset it")
        failed = [budget for budget in ranked if budget.critical and budget.state == "fail"]
        holds = [*about.holds, *coverage.shortfalls(self.rules.min_coverage, self._most_unseen()), *self._open(ranked)]
        first = [about.mismatch] if about.mismatch else []
        if failed:
            said = [f"{budget.name}: {reason}" for budget in failed for reason in budget.reasons]
            return "fail", (*first, *said, STICKY, *holds, *notes)
        if first or holds:
            return "inconclusive", (*first, *holds, *notes)
        certified = ", ".join(_certified(self._named[b.name], b) for b in ranked if b.state == "pass")
        return "pass", (f"every required budget is certified: {certified}", *notes)

    def _diagnosis(self, over: Sequence[str], about: VerdictContext) -> Diagnosis:
        """The suspect axis; other tokens come before any weight, whatever else the pattern looks like."""
        found = diagnose(self._pattern, over, about.prompt_token_mismatches, self.samples)
        if not about.mismatch:
            return found
        more = found.evidence if found.axis == "template" else ()
        return Diagnosis("template", (about.mismatch, *more), FIXES["template"])

    def _promoted_position(self, found: Mapping[str, BudgetVerdict]) -> int | None:
        """Where the last required budget was certified; None while one is not. A later fail does not undo it."""
        reached = [_certified_at(self._named[name], budget) for name, budget in found.items()]
        needed = [at for name, at in zip(found, reached, strict=True) if self._named[name].required]
        known = [at for at in needed if at is not None]
        return max(known) if known and len(known) == len(needed) else None

    def _open(self, ranked: Sequence[BudgetVerdict]) -> list[str]:
        """Why the budgets do not let the recipe pass; empty when they do."""
        said = [
            f"{budget.name} is not critical and holds the promotion: {budget.reasons[0]}"
            for budget in ranked
            if budget.state == "fail" and not budget.critical
        ]
        waiting = [b for b in ranked if b.state == "inconclusive" and self._named[b.name].required]
        if waiting and self.samples >= self.rules.max_pairs:
            said.append(f"no promotion within max_pairs = {self.rules.max_pairs}; only a reset or a new recipe helps")
        return said + [f"{budget.name}: {reason}" for budget in waiting for reason in budget.reasons]

    def _most_unseen(self) -> float:
        """The share of samples that may be lost with nothing known of them: no more than what is to be ruled out.

        The smallest limit of the bounded budgets (*choice*); where only unbounded ones are needed,
        the share of requests that may lie above their cap.
        """
        limits = [budget.limit for budget in self.budgets if budget.bounded]  # each is required
        return min(limits, default=EXCEEDANCE_LIMIT)

    def _is_over(self, budget: BudgetVerdict) -> bool:
        """Beyond its limit by more than chance: failed, or well on the way."""
        level = budget.lane.log10_e_rollback
        return budget.state == "fail" or (level is not None and level >= SUSPICION_LOG10)

    def reset(self, position: int) -> None:
        """Begin anew after `position`: an operator's act, which gives every test its full alpha again.

        Raises:  ValueError when later rows were already folded.
        """
        if position < self.position:
            raise ValueError(f"reset at {position}, but position {self.position} was already folded")
        self.position = self.reset_position = position
        self._begin()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready and self-contained; floats survive exactly by their repr."""
        return {
            "format": FORMAT,
            "rules": self.rules.as_dict(),
            "budgets": [budget.as_dict() for budget in self.budgets],
            "position": self.position,
            "reset_position": self.reset_position,
            "samples": self.samples,
            "noise_samples": self.noise_samples,
            "coverage": self._coverage.to_json(),
            "pattern": self._pattern.to_json(),
            "evidence": {evidence.budget.name: evidence.to_json() for evidence in self._evidence},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvidenceState:
        """The state that `to_json` wrote: it folds on, to the last bit, as the original would.

        Raises:  ValueError when the data is of another format or is not evidence at all.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"evidence of format {data.get('format')!r}, this program reads {FORMAT}: fold anew")
        try:
            state = cls([Budget(**budget) for budget in data["budgets"]], GateRules(**data["rules"]))
            state.position = data["position"]
            state.reset_position = data["reset_position"]
            state.samples = data["samples"]
            state.noise_samples = data["noise_samples"]
            state._coverage = CoverageTally.from_json(data["coverage"])
            state._pattern = PatternTally.from_json(data["pattern"])
            for evidence in state._evidence:
                evidence.restore(data["evidence"][evidence.budget.name])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"stored evidence is damaged: {error!r}") from error
        return state


class _Place:
    """Where rows of one stratum are counted: its name, and its lane in each budget."""

    __slots__ = ("lanes", "name")

    def __init__(self, stratum: Stratum | None, budgets: Sequence[Budget]) -> None:
        self.name = UNKNOWN_STRATUM if stratum is None else str(stratum)
        self.lanes = tuple(budget.lane_of(stratum) for budget in budgets)


def start(budgets: Sequence[Budget], rules: GateRules) -> EvidenceState:
    """Evidence that has seen nothing.

    Raises:  ValueError when no budget is given or two share a name.
    """
    return EvidenceState(budgets, rules)


def _any_number(scores: Mapping[str, float | Reason]) -> bool:
    for value in scores.values():  # noqa: SIM110 - a generator costs twice as much, once per row
        if not isinstance(value, Reason):
            return True
    return False


def _certified_at(budget: Budget, found: BudgetVerdict) -> int | None:
    """Where the last gate of the budget was passed in all strata that it needs."""
    gates = [found.lane.crossed.get(gate) for gate in ("limit", "noise" if budget.bounded else "tail")]
    known = [at for at in gates if at is not None]
    return max(known) if len(known) == len(gates) else None


def _certified(budget: Budget, found: BudgetVerdict) -> str:
    value = "unknown" if found.value is None else amount(budget, found.value)
    return f"{budget.name} {value} against {amount(budget, budget.limit)} over {found.samples} pairs"
