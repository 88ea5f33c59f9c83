"""The evidence of an epoch: folded from rows alone, and the same again from the ledger or its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from proxy.errors import LedgerError
from proxy.monitor.rows import LedgerRow, Opening, ScoreRow
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


def test_while_the_ledger_is_being_read_there_is_no_verdict_of_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read on another thread: whoever asks meanwhile must not see the evidence without what holds it."""
    ledger, of, told = MemoryLedger(), Standing("awq", evidence), []
    ledger.append([scored(n) for n in range(20)])

    def read(call: Callable[..., Any], *asked: Any) -> Any:
        told.append(of.verdict(()).reasons)
        return call(*asked)

    for name in ("observations", "epoch_openings", "prompt_token_mismatches", "prompts_agreed"):
        monkeypatch.setattr(ledger, name, partial(read, getattr(ledger, name)))
    of.resume(ledger, 1, {"recipe": "awq"})
    assert told == [("the monitor is reading its ledger",)] * 4
    assert of.verdict(()).coverage.sampled == 20


def test_holds_reach_the_verdict_until_the_next_epoch() -> None:
    of = standing(MemoryLedger())
    of.hold("the contract changed")
    assert "the contract changed" in of.verdict(()).reasons
    of.begin(Opening(2, 100.0, "engine_version"), {})
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


def test_the_verdict_says_which_contract_it_is_about_and_why_it_began() -> None:
    arm = {"model": "m", "engine_version": "0.32.0", "template": "t", "weights": "w"}
    contract = {"recipe": "awq", "gate": {"budgets": []}, "candidate": arm, "reference": {}, "prompt_tokens": "agree"}
    ledger = MemoryLedger()
    ledger.open_epoch(contract, "the first epoch of this ledger", 7.5)
    of = Standing("awq", evidence)
    assert of.verdict(()).contract == {}
    of.resume(ledger, 1, contract)
    told = of.verdict(()).as_dict()["contract"]
    assert told["candidate"] == {**arm, "max_model_len": None, "root": None, "system_fingerprint": None}
    assert set(told["reference"].values()) == {None}
    assert (told["prompt_tokens"], told["reason"]) == ("agree", "the first epoch of this ledger")
    assert told["opened_unix_s"] == 7.5
    assert "gate" not in told
    of.begin(Opening(2, 9.0, "candidate model: m became n"), {**contract, "prompt_tokens": "differ"})
    told = of.verdict(()).contract
    assert (told["prompt_tokens"], told["reason"], told["opened_unix_s"]) == (
        "differ",
        "candidate model: m became n",
        9.0,
    )


def test_arms_that_count_other_prompts_hold_at_the_row_that_shows_it_live_and_from_the_ledger() -> None:
    ledger = MemoryLedger()
    live = standing(ledger)
    rows = [scored(n, prompt_tokens=5, reference_prompt_tokens=5 + (n >= 50)) for n in range(54)]
    for one in rows:
        live.fold([one])
        ledger.append([one])
        verdict = live.verdict(())
        assert verdict.reasons[0].startswith("on 3 of the last 53 requests") == (one.position == 52)
        assert ("template" in verdict.reasons[0]) == (one.position >= 52)
        assert standing(ledger).verdict(()).as_dict() == verdict.as_dict()
    live.begin(Opening(2, 9.0, "prompt tokens"), {"prompt_tokens": "differ"})
    assert live.verdict(()).reasons[0].startswith("the arms count different prompt tokens")
    assert live.verdict(()).diagnosis.axis == "template"
    live.begin(Opening(3, 9.0, "prompt tokens"), {"prompt_tokens": "agree"})
    assert "template" not in live.verdict(()).reasons[0]


def test_what_pruned_rows_told_of_the_prompts_is_in_the_checkpoint() -> None:
    ledger = MemoryLedger()
    rows = [scored(n, prompt_tokens=5, reference_prompt_tokens=5 + (n % 25 == 0)) for n in range(60)]
    live = standing(ledger)
    live.fold(rows[:40])
    checkpoint = live.checkpoint()
    assert checkpoint is not None
    ledger.checkpoint(*checkpoint)
    live.fold(rows[40:])
    ledger.append(rows[40:])
    ledger.pruned_through = 39
    again = standing(ledger)
    assert again.verdict(()).as_dict() == live.verdict(()).as_dict()
    assert again.prompt_token_mismatches == live.prompt_token_mismatches == 3
    assert again.prompts.to_text() == live.prompts.to_text()


def test_a_row_that_cannot_be_folded_stops_passes_and_shows() -> None:
    of = standing(MemoryLedger())
    of.fold([scored(5), scored(4), scored(6)])
    assert of.folded == 2
    assert any("restart" in reason for reason in of.verdict(()).reasons)
    assert of.checkpoint() is None


def reset_at(ledger: MemoryLedger, position: int, epoch: int = 1) -> None:
    ledger.event("reset", {"epoch": epoch, "position": position, "reason": "the parser was fixed"}, 1.0)


def test_a_reset_gives_the_same_evidence_live_and_from_the_ledger() -> None:
    """Rows sampled before it and written after it are history on both ways."""
    ledger, rows = MemoryLedger(), [scored(n, prompt_tokens=5, reference_prompt_tokens=6) for n in range(120)]
    live = standing(ledger)
    live.fold(rows[:60])
    assert live.verdict(()).state == "fail"
    reset_at(ledger, 69)
    live.reset(1, 69)
    assert live.checkpoint() is None  # nothing of the new evidence is in the ledger yet
    live.fold(rows[60:90])
    live.fold(rows[90:])
    ledger.append(rows)
    verdict = live.verdict(())
    assert verdict.samples == 50
    assert "evidence begins after position 69: an operator reset it" in verdict.reasons
    assert standing(ledger).verdict(()).as_dict() == verdict.as_dict()
    assert standing(ledger).prompt_token_mismatches == live.prompt_token_mismatches == 50


def test_the_latest_reset_counts_and_only_in_its_epoch() -> None:
    ledger = MemoryLedger()
    ledger.append([scored(n) for n in range(60)])
    for position in (9, 29):
        reset_at(ledger, position)
    reset_at(ledger, 49, epoch=2)
    assert standing(ledger).verdict(()).samples == 30
    live = standing(ledger)
    live.reset(2, 59)  # its epoch is over
    assert live.verdict(()).samples == 30


def test_a_reset_is_replayed_from_a_checkpoint_and_past_one() -> None:
    ledger, rows = MemoryLedger(), [scored(n) for n in range(90)]
    live = standing(ledger)
    live.fold(rows[:40])
    before = live.checkpoint()
    assert before is not None
    ledger.checkpoint(*before)
    reset_at(ledger, 49)
    live.reset(1, 49)
    live.fold(rows[40:70])
    ledger.append(rows[40:])
    ledger.pruned_through = 39  # the checkpoint from before the reset covers these
    whole = live.verdict(()).as_dict()
    ledger.rows = rows[40:70]
    assert standing(ledger).verdict(()).as_dict() == whole

    after = live.checkpoint()
    assert after is not None
    assert after[:2] == (1, 69)
    ledger.checkpoint(*after)
    ledger.rows, ledger.pruned_through = rows[70:], 69
    live.fold(rows[70:])
    assert standing(ledger).verdict(()).as_dict() == live.verdict(()).as_dict()
    blind = standing(MemoryLedger())
    blind.fold(rows[:70])
    unaware = blind.checkpoint()
    assert unaware is not None
    ledger.checkpoint(*unaware)
    with pytest.raises(LedgerError, match="pruned"):  # it would bring back what was put aside
        standing(ledger)


def test_a_checkpoint_that_cannot_be_read_is_one_line() -> None:
    ledger = MemoryLedger()
    ledger.pruned_through = 5
    for stored in ("{", "{}"):
        ledger.checkpoint(1, 5, stored)
        with pytest.raises(LedgerError, match=r"ledger\.path"):
            standing(ledger)


def test_the_log_tells_each_change_of_the_verdict_once(caplog: pytest.LogCaptureFixture) -> None:
    of = standing(MemoryLedger())
    with caplog.at_level(logging.INFO, logger="proxy.monitor.standing"):
        of.tell(of.verdict(()))
        of.tell(of.verdict(()))
        of.fold([scored(n) for n in range(90)])
        of.tell(of.verdict(()))
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["INFO", "WARNING"]
    assert "the verdict is fail" in told[1][1]
    assert "tool_call_mismatch" in told[1][1]


def test_while_a_pinned_contract_is_broken_not_even_a_fail_is_given_live_or_from_the_ledger() -> None:
    holds = {"recipe": "awq", "pin": {"file": "contract.toml", "seal": "s", "broken": {}}}
    broken = {**holds, "pin": {**holds["pin"], "broken": {"reference": ["reference engine x: 1 became 2"]}}}  # type: ignore[dict-item]
    ledger, rows = MemoryLedger(), [scored(n) for n in range(90)]
    ledger.append(rows)
    for contract, state in ((holds, "fail"), (broken, "inconclusive")):
        live = Standing("awq", evidence)
        live.resume(MemoryLedger(), 1, contract)
        live.fold(rows)
        again = Standing("awq", evidence)
        again.resume(ledger, 1, contract)
        assert live.verdict(()).state == state
        assert live.verdict(()).as_dict() == again.verdict(()).as_dict()
    assert live.verdict(("another",)).reasons[:2] == (
        "the pinned contract contract.toml does not hold: reference engine x: 1 became 2",
        "another",
    )
