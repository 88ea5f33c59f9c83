"""What pairs spend: in limits of the budget, by its own strata, never more than the worst pair can."""

from __future__ import annotations

from proxy.monitor.rows import LedgerRow, ScoreRow
from proxy.monitor.spending import Spending, worst_limits
from scorers.budgets import Budget
from scorers.records import Reason, Stratum
from tests.unit.monitor_samples import row

TOOLS = Budget("tool_call_mismatch", 0.04, bounded=True, critical=True)
KL = Budget("logprob_kl", 0.05, bounded=False, critical=False, strata=("length",))


def scored(name: str, value: float | None, arm: str = "candidate", length: str = "1k-4k") -> LedgerRow:
    score = ScoreRow(arm, name, value, None if value is not None else Reason.LATE)  # type: ignore[arg-type]
    return row(1, scores=(score,), stratum=Stratum(length, True, False, True))


def told(spending: Spending) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in spending.families()
        for sample in family.samples
    }


def test_a_pair_at_the_limit_spends_one() -> None:
    spending = Spending([TOOLS])
    for value in (0.0, 0.04, 1.0):
        spending.row(scored("tool_call_mismatch", value))
    found = told(spending)
    assert found["parity_budget_pairs_total", "tool_call_mismatch", "all"] == 3
    assert found["parity_budget_spent_limits_total", "tool_call_mismatch", "all"] == 26
    assert found["parity_budget_worst_limits", "tool_call_mismatch"] == 25


def test_an_unbounded_score_is_capped_and_kept_apart_by_the_budgets_own_strata() -> None:
    spending = Spending([KL])
    spending.row(scored("logprob_kl", 99.0))
    spending.row(scored("logprob_kl", 0.1, length="64k+"))
    found = told(spending)
    assert found["parity_budget_spent_limits_total", "logprob_kl", "1k-4k"] == 10 == worst_limits(KL)
    assert found["parity_budget_spent_limits_total", "logprob_kl", "64k+"] == 2


def test_noise_lost_scores_and_other_scores_spend_nothing_and_every_stratum_is_there_before_its_first_pair() -> None:
    spending = Spending([TOOLS, KL])
    for idle in (scored("logprob_kl", 1.0, "noise"), scored("logprob_kl", None), scored("exact_mismatch", 1.0)):
        spending.row(idle)
    counts = {key: value for key, value in told(spending).items() if key[0].endswith("_total")}
    lanes = {(budget.name, lane) for budget in (TOOLS, KL) for lane in budget.lane_names()}
    assert {key[1:] for key in counts} == lanes
    assert set(counts.values()) == {0}
