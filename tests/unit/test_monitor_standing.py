"""The evidence of an epoch: folded from rows alone, and the same again from the ledger or its checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import LedgerError
from proxy.monitor.rows import LedgerRow, ScoreRow
from proxy.monitor.standing import Standing
from scorers.judge import Budget, EvidenceState, GateRules, start
from scorers.records import Stratum
from tests.unit.monitor_rig import MemoryLedger, row

CELL = Stratum("0-512", tools=True, stream=False, greedy=True)


def evidence(limit: float = 0.03) -> EvidenceState:
    return start((Budget("tool_call_mismatch", limit, bounded=True, critical=True),), GateRules())


def scored(position: int, **more: Any) -> LedgerRow:
    value = float(position % 7 == 0)
    scores = (
        ScoreRow("candidate", "tool_call_mismatch", value, None),
        ScoreRow("noise", "tool_call_mismatch", 0.0, None),
    )
    return row(position, **{"disposition": "scored", "reason": None, "stratum": CELL, "scores": scores, **more})


def standing(ledger: MemoryLedger, epoch: int = 1, limit: float = 0.03) -> Standing:
    made = Standing("awq", lambda: evidence(limit))
    made.resume(ledger, epoch, {"recipe": "awq"})
    return made


def test_folding_as_it_comes_and_folding_again_give_the_same_verdict() -> None:
    ledger, rows = MemoryLedger(), [scored(n) for n in range(90)]
    live = standing(ledger)
    for at in range(0, 90, 7):
        live.fold(rows[at : at + 7])
    ledger.append(rows)
    assert standing(ledger).verdict(()).as_dict() == live.verdict(()).as_dict()
    assert live.verdict(()).state == "fail"
    assert live.folded == 90


def test_rows_of_another_epoch_are_not_for_this_evidence() -> None:
    of = standing(MemoryLedger(), epoch=2)
    of.fold([scored(0), scored(1, epoch=2), scored(2)])
    assert of.verdict(()).coverage.sampled == 1


def test_before_the_ledger_was_read_there_is_no_verdict() -> None:
    verdict = Standing("awq", evidence).verdict(("hold",))
    assert (verdict.state, verdict.recipe) == ("inconclusive", "awq")


def test_holds_reach_the_verdict_until_the_next_epoch() -> None:
    of = standing(MemoryLedger())
    of.hold("the contract changed")
    assert "the contract changed" in of.verdict(()).reasons
    of.begin(2, {})
    assert "the contract changed" not in of.verdict(()).reasons
    assert of.verdict(()).epoch == 2
    assert "nothing can be written" in of.verdict(("nothing can be written",)).reasons


def test_pruned_rows_come_from_the_checkpoint_to_the_same_verdict() -> None:
    ledger, rows = MemoryLedger(), [scored(n) for n in range(60)]
    live = standing(ledger)
    live.fold(rows[:40])
    checkpoint = live.checkpoint()
    assert checkpoint is not None
    assert checkpoint[:2] == (1, 39)
    ledger.checkpoint(*checkpoint)
    live.fold(rows[40:])
    ledger.append(rows[40:])
    ledger.pruned_through = 39
    assert standing(ledger).verdict(()).as_dict() == live.verdict(()).as_dict()


def test_other_budgets_than_the_checkpoints_are_refused_with_the_fix() -> None:
    ledger = MemoryLedger()
    live = standing(ledger)
    live.fold([scored(0)])
    checkpoint = live.checkpoint()
    assert checkpoint is not None
    ledger.checkpoint(*checkpoint)
    ledger.pruned_through = 0
    with pytest.raises(LedgerError, match=r"ledger\.path"):
        standing(ledger, limit=0.05)
    ledger.checkpoints.clear()
    with pytest.raises(LedgerError, match="pruned"):
        standing(ledger)


def test_nothing_folded_is_nothing_to_keep() -> None:
    assert standing(MemoryLedger()).checkpoint() is None


def test_prompt_token_mismatches_are_counted_and_counted_again() -> None:
    ledger = MemoryLedger()
    rows = [
        scored(0, prompt_tokens=5, reference_prompt_tokens=6),
        scored(1, prompt_tokens=5, reference_prompt_tokens=5),
        scored(2, prompt_tokens=5, reference_prompt_tokens=None),
        scored(3, prompt_tokens=5, reference_prompt_tokens=6, kind="probe"),
    ]
    of = standing(ledger)
    of.fold(rows)
    ledger.append(rows)
    assert of.prompt_token_mismatches == standing(ledger).prompt_token_mismatches == 1
    assert "1 pairs" in of.alarms()[0]


def test_a_row_that_cannot_be_folded_stops_passes_and_shows() -> None:
    of = standing(MemoryLedger())
    of.fold([scored(5), scored(4), scored(6)])
    assert of.folded == 2
    assert any("restart" in reason for reason in of.verdict(()).reasons)
    assert of.checkpoint() is None
