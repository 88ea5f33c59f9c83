"""The reference's cost as a ledger tells it."""

from __future__ import annotations

from pathlib import Path

from proxy.monitor.costs import TokenCount
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.rows import LedgerRow
from proxy.report.reference_cost import cost_line, reference_cost
from proxy.settings import LedgerSettings
from tests.unit.monitor_samples import is_mismatch, row


def ledger(path: Path, *rows: LedgerRow) -> Path:
    file = path / "ledger.sqlite"
    written = SqliteLedger(LedgerSettings(path=file), is_mismatch=is_mismatch)
    written.open_epoch({}, "first", 1.0)
    written.open_epoch({"another": 1}, "second", 2.0)
    written.append(rows)
    written.close()
    return file


def test_tokens_are_summed_by_purpose_over_one_epoch(tmp_path: Path) -> None:
    file = ledger(
        tmp_path,
        row(0, reference_answer="verified", reference_tokens=(TokenCount("verify", 100, 1),)),
        row(1),  # regenerated/near_tie: pair 1200 and 31, verify 1230 and 1
        row(
            2,
            reference_answer="regenerated/coin",
            reference_tokens=(TokenCount("pair", 50, 9), TokenCount("noise", 50, 8)),
        ),
        row(3, reference_answer="", reference_tokens=()),
        row(4, epoch=2),
    )
    cost = reference_cost(file, 1)
    assert (cost.pairs, cost.verified) == (3, 1)
    assert cost.tokens == (TokenCount("noise", 50, 8), TokenCount("pair", 1250, 40), TokenCount("verify", 1330, 2))
    assert cost.per_pair(floor=False) == (2580 / 3, 42 / 3)
    assert cost.per_pair(floor=True) == (50 / 3, 8 / 3)
    assert cost_line(cost) == (
        "reference, tokens per pair: 860 read and 14.0 generated, and 17 and 2.7 for the noise floor; "
        "1 of 3 replies verified (coin 1, near_tie 1)"
    )


def test_without_verifying_there_is_nothing_to_say_of_it(tmp_path: Path) -> None:
    file = ledger(tmp_path, row(0, reference_answer="regenerated", reference_tokens=(TokenCount("pair", 10, 2),)))
    assert cost_line(reference_cost(file, 1)) == "reference, tokens per pair: 10 read and 2.0 generated"
    assert cost_line(reference_cost(file, 2)) == ""
