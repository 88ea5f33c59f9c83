"""Where the evidence stands: the current epoch, what was folded into it, and the verdict that it gives."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from backends.contract import Contract
from proxy.errors import LedgerError
from proxy.monitor.lacks import Lacks
from proxy.monitor.pinned import broken_in
from proxy.monitor.prompt_tokens import RECENT_ROWS, PromptTally, agreed, word_of
from proxy.monitor.rows import Checkpoint, LedgerRow, Opening
from proxy.monitor.trail import Course, Trail
from scorers.judge import EvidenceState, Verdict, VerdictContext
from scorers.records import Observation

_ARM = tuple(entry.name for entry in fields(Contract))

_log = logging.getLogger(__name__)


class MonitorMetrics(Protocol):
    """What the monitor tells its metrics; proxy/monitor/exposition.py implements it."""

    def shadow_call(self, arm: str, outcome: str, seconds: float) -> None: ...

    def row(self, row: LedgerRow) -> None: ...

    def relay_stats(self, worker: str, snapshot: Mapping[str, Any]) -> None: ...

    def relay_connection(self, worker: str, connected: bool) -> None: ...

    def ledger_write_error(self) -> None: ...

    def ledger_rows_dropped(self, count: int) -> None: ...


_PROMPTS = "prompts"  # beside the evidence in a checkpoint: what pruned rows told of the prompts
_TRAIL = "trail"  # likewise: the picture of how it came to stand where it does
_KEPT_NOTHING: Mapping[str, Any] = {"mismatches": 0, "recent": ""}


class Foldable(Protocol):
    """The part of a ledger that evidence is folded from; a read-only one has it too."""

    def observations(self, epoch: int, after: int = -1) -> Iterator[Observation]: ...

    def checkpoint_of(self, epoch: int) -> Checkpoint | None: ...

    def reset_position(self, epoch: int) -> int | None: ...

    def epoch_openings(self) -> Sequence[Opening]: ...

    def sampled_at(self, positions: Sequence[int]) -> Mapping[int, float]: ...

    def prompt_token_mismatches(self, epoch: int, after: int = -1) -> int: ...

    def prompts_agreed(self, epoch: int, after: int, limit: int) -> Sequence[bool]: ...


class Standing:
    """The evidence of the current epoch. It grows by durable rows only, so the ledger gives it again."""

    def __init__(self, recipe: str, evidence: Callable[[], EvidenceState]) -> None:
        self._recipe = recipe
        self._fresh = evidence
        self._evidence: EvidenceState | None = None
        self._epoch: int | None = None
        self._last_position = -1
        self._openings: list[Opening] = []
        self._hold = ""
        self._broken = ""
        self._told = ""
        self.contract: Mapping[str, Any] = {}
        self.prompts = PromptTally()
        self._trail = Trail()
        self.folded = 0
        self.prompt_token_mismatches = 0

    @property
    def epoch(self) -> int:
        """The current epoch. Only after `resume`."""
        return self._epoch if self._epoch is not None else 0

    def epoch_at(self, sampled_unix_s: float) -> int | None:
        """The epoch that was open at this time; None before the first."""
        return next((one.epoch for one in reversed(self._openings) if one.opened_unix_s <= sampled_unix_s), None)

    def resume(self, ledger: Foldable, epoch: int, contract: Mapping[str, Any]) -> None:
        """Folds the epoch's rows again, from the latest reset on. Blocks: run it off the loop.

        Rows that were pruned are in the ledger's checkpoint, which holds for the budgets that it was made under.
        Raises:  LedgerError when the ledger cannot be read, or the pruned rows cannot be had in any other way.
        """
        evidence, after, kept, trail = self._fresh(), -1, _KEPT_NOTHING, Trail()
        reset = ledger.reset_position(epoch)
        if reset is not None:
            evidence.reset(reset)
            after = reset
        try:
            last, folded = _fold_all(evidence, ledger, epoch, after, trail)
        except LedgerError as error:
            evidence, after, kept, trail = self._from_checkpoint(ledger, epoch, error)
            if evidence.reset_position != reset:  # it would bring back what the operator has put aside
                raise
            last, folded = _fold_all(evidence, ledger, epoch, after, trail)
            last = max(last, after)
        trail.date(ledger.sampled_at(trail.undated()))
        openings = [opening for opening in ledger.epoch_openings() if opening.epoch <= epoch]
        mismatches = kept["mismatches"] + ledger.prompt_token_mismatches(epoch, after)
        prompts = PromptTally.from_text(kept["recent"])
        for agreement in ledger.prompts_agreed(epoch, after, RECENT_ROWS):
            prompts.take(agreement)
        self._openings, self._epoch, self.contract, self._trail = openings, epoch, contract, trail
        self._last_position, self.folded = last, folded
        self.prompt_token_mismatches, self.prompts = mismatches, prompts
        self._evidence = evidence  # last: with it there is a verdict, and the loop may be asked for it at any moment

    def begin(self, opening: Opening, contract: Mapping[str, Any]) -> None:
        """An epoch without rows."""
        self._openings.append(opening)
        self._evidence, self._epoch, self.contract = self._fresh(), opening.epoch, contract
        self._forget_rows()
        self._hold = ""

    def reset(self, epoch: int, position: int) -> None:
        """The epoch's evidence begins anew after `position`. Rows up to it that come later are history."""
        if self._evidence is None or epoch != self._epoch:
            return  # a new epoch began meanwhile: its evidence is new already
        self._evidence.reset(position)
        self._forget_rows()

    def hold(self, sentence: str) -> None:
        """Forbids a pass until the next epoch begins, or until "" lifts it."""
        self._hold = sentence

    def fold(self, rows: Sequence[LedgerRow]) -> None:
        """Takes in rows that are durable, in rising position; those of another epoch are not for this evidence."""
        for row in rows:
            if row.epoch != self._epoch or self._evidence is None or _is_history(row, self._evidence):
                continue
            try:
                self._evidence.fold(row.observation())
            except Exception as error:  # noqa: BLE001  a defect of ours must stop passes and show, not stop the writing
                _log.exception("a row could not be folded")
                self._broken = f"evidence could not take in a row ({type(error).__name__}); restart to fold again"
                continue
            self._last_position = row.position
            self._trail.look(self._evidence, row.sampled_unix_s)
            self.folded += 1
            agreement = agreed(row)
            if agreement is not None:
                self.prompts.take(agreement)
                self.prompt_token_mismatches += not agreement

    def checkpoint(self) -> tuple[int, int, str] | None:
        """(epoch, position, evidence as JSON) for the ledger; None while there is nothing to keep."""
        if self._evidence is None or self._epoch is None or self._last_position < 0 or self._broken:
            return None
        kept = {"mismatches": self.prompt_token_mismatches, "recent": self.prompts.to_text()}
        state = {**self._evidence.to_json(), _PROMPTS: kept, _TRAIL: self._trail.to_json()}
        return self._epoch, self._last_position, json.dumps(state)

    def course(self, now_unix_s: float) -> Course:
        """How the evidence came to stand where it does; empty while the ledger is still being read."""
        return Course() if self._evidence is None else self._trail.course(self._evidence, now_unix_s)

    def verdict(self, holds: Sequence[str]) -> Verdict:
        """The verdict of this moment; inconclusive while the ledger is still being read."""
        if self._evidence is None:
            return Verdict("inconclusive", ("the monitor is reading its ledger",), recipe=self._recipe)
        broken = broken_in(self.contract)
        own = [sentence for sentence in (self._hold, self._broken) if sentence]
        context = VerdictContext(
            recipe=self._recipe,
            epoch=self._epoch,
            holds=(*([broken] if broken else ()), *holds, *own),
            mismatch=self.prompts.mismatch(self.contract),
            lacks=Lacks.of(self.contract).unscorable(budget.name for budget in self._evidence.budgets),
            contract=self._told_contract(),
            prompt_token_mismatches=self.prompt_token_mismatches,
        )
        # What a reference that is not the pinned one gave is no ground to fail a recipe either.
        return (self._fresh() if broken else self._evidence).verdict(context)

    def tell(self, verdict: Verdict) -> None:
        """Logs the verdict when it is another than the last one told: an incident is read in the log first."""
        if verdict.state != self._told:
            level = logging.WARNING if verdict.state == "fail" else logging.INFO
            _log.log(level, "the verdict is %s (epoch %s): %s", verdict.state, verdict.epoch, verdict.reasons[0])
            self._told = verdict.state

    def alarms(self) -> list[str]:
        """Sentences about what was folded that no budget would tell."""
        if not self.prompt_token_mismatches:
            return []
        return [f"{self.prompt_token_mismatches} pairs whose arms counted different prompt tokens"]

    def _told_contract(self) -> dict[str, Any]:
        """What the verdict is about, in one shape whatever is known. What is asked of the arms is in the budgets."""
        told: dict[str, Any] = {}
        for side in ("candidate", "reference"):
            arm = self.contract.get(side) or {}
            told[side] = {name: arm.get(name) for name in _ARM}
        told["prompt_tokens"] = word_of(self.contract)
        told["pin"] = self.contract.get("pin")
        told["lacks"] = self.contract.get("lacks", {})
        opening = next((one for one in reversed(self._openings) if one.epoch == self._epoch), None)
        told["reason"] = opening.reason if opening is not None else None
        told["opened_unix_s"] = opening.opened_unix_s if opening is not None else None
        return told

    def _forget_rows(self) -> None:
        """Nothing was folded yet."""
        self._last_position, self.folded, self.prompt_token_mismatches = -1, 0, 0
        self.prompts, self._trail = PromptTally(), Trail()

    def _from_checkpoint(
        self, ledger: Foldable, epoch: int, error: LedgerError
    ) -> tuple[EvidenceState, int, Mapping[str, Any], Trail]:
        checkpoint = ledger.checkpoint_of(epoch)
        if checkpoint is None:
            raise error
        try:
            state = json.loads(checkpoint.state_json)
            evidence, fresh, trail = EvidenceState.from_json(state), self._fresh(), Trail.from_json(state.get(_TRAIL))
        except ValueError as damage:
            raise LedgerError(
                f"the rows before position {checkpoint.position} were pruned, and their checkpoint cannot be read "
                f"({damage}); start with a new ledger (ledger.path)"
            ) from damage
        if evidence.budgets != fresh.budgets or evidence.rules != fresh.rules:
            raise LedgerError(
                "the budgets changed, and rows that the new ones would need were pruned; start with a new ledger "
                "(ledger.path), or restore the old [budgets] and [gate]"
            ) from error
        return evidence, checkpoint.position, state.get(_PROMPTS, _KEPT_NOTHING), trail


def _is_history(row: LedgerRow, evidence: EvidenceState) -> bool:
    """True for a row that was sampled before the evidence was reset, and written after."""
    return evidence.reset_position is not None and row.position <= evidence.reset_position


def _fold_all(evidence: EvidenceState, ledger: Foldable, epoch: int, after: int, trail: Trail) -> tuple[int, int]:
    """(last position or -1, how many) of the rows folded."""
    last, count = -1, 0
    for observation in ledger.observations(epoch, after):
        evidence.fold(observation)
        trail.look(evidence, None)
        last, count = observation.position, count + 1
    return last, count
