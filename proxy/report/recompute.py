"""The verdict that a ledger alone gives: evidence folded anew from its rows."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from proxy.errors import LedgerError
from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.standing import Standing
from proxy.monitor.watch import read_gate
from scorers.judge import EvidenceState


def recompute(ledger: Path) -> dict[str, Any]:
    """The verdict of a ledger's latest epoch under that epoch's own budgets, in the shape of `/gate`.

    What holds a pass only while the monitor runs is in no ledger and not in here: a ledger that cannot be written,
    an arm not observed since the start, an epoch that could not be opened, a row that could not be folded.
    Raises:  LedgerError, also for an epoch from before budgets were part of the contract.
    """
    with closing(open_read_only(ledger)) as reader:
        latest = reader.latest_epoch()
        if latest is None:
            raise LedgerError(f"{ledger}: the ledger has no epoch yet, so there is nothing to judge")
        budgets, rules = read_gate(latest[1])
        standing = Standing(str(latest[1].get("recipe", "")), lambda: EvidenceState(budgets, rules))
        standing.resume(reader, *latest)
        return standing.verdict(()).as_dict()
