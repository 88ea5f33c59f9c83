"""The verdict's families: complete in states, silent on what is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.monitor.verdict_families import verdict_families
from scorers.coverage import Coverage, StratumCoverage
from scorers.judge import Verdict
from scorers.verdict import Diagnosis
from tests.unit.monitor_samples import verdict


def samples(judged: Verdict) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in verdict_families(judged, "fallback")
        for sample in family.samples
    }


@pytest.mark.parametrize("state", ["pass", "fail", "inconclusive"])
def test_states_of_the_verdict_and_of_each_budget(state: Any) -> None:
    found = samples(verdict(state))
    for name in ("pass", "fail", "inconclusive"):
        assert found["parity_verdict", (name,)] == float(name == state)
        assert found["parity_budget_state", ("tool_call_mismatch", name)] == float(name == state)


def test_figures_of_a_budget() -> None:
    found = samples(verdict())
    assert found["parity_budget_value", ("tool_call_mismatch",)] == 0.004
    assert found["parity_budget_noise_limit", ("tool_call_mismatch",)] == 0.019
    assert found["parity_budget_critical", ("tool_call_mismatch",)] == 1
    assert found["parity_budget_lost_samples", ("tool_call_mismatch",)] == 3
    assert ("parity_budget_value", ("logprob_kl",)) not in found
    assert found["parity_budget_log10_e_value", ("tool_call_mismatch", "noise")] == 0.2


def test_coverage_and_diagnosis() -> None:
    coverage = Coverage(
        sampled=10,
        scored=6,
        ineligible={"path": 2},
        lost={"late": 2},
        unknown=1,
        recent=StratumCoverage(sampled=4, scored=1),
    )
    found = samples(verdict(coverage=coverage, diagnosis=Diagnosis("kv_cache")))
    assert found["parity_coverage_ratio", ()] == 0.75
    assert found["parity_coverage_exchanges", ("lost",)] == 2
    assert found["parity_coverage_recent_ratio", ()] == 0.25
    assert found["parity_coverage_unknown_exchanges", ()] == 1
    assert found["parity_diagnosis", ("kv_cache",)] == 1
    assert sum(v for (name, _), v in found.items() if name == "parity_diagnosis") == 1


def test_a_verdict_of_nothing() -> None:
    found = samples(Verdict("inconclusive", ()))
    assert found["parity_verdict", ("inconclusive",)] == 1
    assert found["parity_recipe_info", ("fallback",)] == 1
    assert not [name for name, _ in found if name.startswith("parity_budget")]
