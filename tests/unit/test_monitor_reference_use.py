"""The reference's use as counters: every series from the start, rows added up."""

from __future__ import annotations

from prometheus_client.core import Metric

from proxy.monitor.costs import PURPOSES, TokenCount
from proxy.monitor.reference_use import KINDS, ReferenceUse
from scorers.proof import Unproven
from tests.unit.monitor_rig import row


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def test_every_series_is_there_from_the_start() -> None:
    tokens, answers = ReferenceUse().families()
    assert values(tokens) == {(kind, purpose): 0 for kind in KINDS for purpose in PURPOSES}
    assert values(answers).keys() == {
        ("verified", ""),
        ("regenerated", ""),
        *(("regenerated", reason.value) for reason in Unproven),
    }


def test_rows_are_added_up_and_rows_without_a_reply_are_not() -> None:
    use = ReferenceUse()
    use.row(row(0, reference_answer="verified", reference_tokens=(TokenCount("verify", 40, 1),)))
    use.row(
        row(
            1,
            reference_answer="regenerated/near_tie",
            reference_tokens=(TokenCount("pair", 30, 12), TokenCount("verify", 41, 1)),
        )
    )
    use.row(row(2))
    tokens, answers = (values(family) for family in use.families())
    assert (tokens["prefill", "verify"], tokens["decode", "verify"]) == (81, 2)
    assert (tokens["prefill", "pair"], tokens["decode", "pair"]) == (30, 12)
    assert (answers["verified", ""], answers["regenerated", "near_tie"], sum(answers.values())) == (1, 1, 2)
