"""The reference's use for Prometheus: its tokens by what they were for, and how many replies it was spared.

Counted from durable rows, as the scores are, so that a sum over the ledger and a scrape agree.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from proxy.monitor.costs import PURPOSES, REGENERATED, VERIFIED
from proxy.monitor.rows import LedgerRow
from proxy.monitor.tallies import Counts
from scorers.proof import Unproven

KINDS = ("prefill", "decode")
ANSWERS = (VERIFIED, REGENERATED)


class ReferenceUse:
    """The running counts: closed sets, there from the start."""

    def __init__(self) -> None:
        self._tokens = Counts(
            "parity_reference_tokens",
            "The reference's tokens by its own count, read (prefill) or generated (decode), by what they were for.",
            ("kind", "purpose"),
            [(kind, purpose) for kind in KINDS for purpose in PURPOSES],
        )
        self._answers = Counts(
            "parity_reference_answers",
            "Pairs by how the reference's reply was come by; the reason: why mirror.mode = verify did not prove it.",
            ("answer", "reason"),
            [(VERIFIED, ""), (REGENERATED, ""), *((REGENERATED, reason.value) for reason in Unproven)],
        )

    def row(self, row: LedgerRow) -> None:
        """Counts one durable row."""
        for count in row.reference_tokens:
            self._tokens.add("prefill", count.purpose, by=count.prefill)
            self._tokens.add("decode", count.purpose, by=count.decode)
        if row.reference_answer:
            answer, _, reason = row.reference_answer.partition("/")
            self._answers.add(answer, reason)

    def families(self) -> Iterator[Metric]:
        """`parity_reference_tokens` and `parity_reference_answers`."""
        yield self._tokens.family()
        yield self._answers.family()
