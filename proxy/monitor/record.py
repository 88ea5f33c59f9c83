"""How a slot becomes a row: the four ways in which a sampled request can end."""

from __future__ import annotations

from dataclasses import replace

from proxy.exchange import Exchange, ServedBy
from proxy.monitor.evaluate import Evaluation
from proxy.monitor.order import Slot
from proxy.monitor.plan import TurnedAway, stratum_of
from proxy.monitor.rows import LedgerRow
from scorers.records import Disposition, Reason, Stratum


def lost_row(slot: Slot, epoch: int, reason: str, exchange: Exchange | None = None) -> LedgerRow:
    """Sampled, and never known well enough to say which scores apply: coverage, not evidence."""
    return _row(slot, epoch, "lost", reason, None, exchange)


def of_closed_epoch(row: LedgerRow) -> LedgerRow:
    """The same exchange, ended after its epoch: its pair may be of arms that no epoch knows together."""
    return replace(row, disposition="lost", reason=Reason.EPOCH_CLOSED.value, stratum=None, scores=(), bodies=None)


def ineligible_row(slot: Slot, epoch: int, turned: TurnedAway, exchange: Exchange | None) -> LedgerRow:
    """Never meant to be scored."""
    stratum = stratum_of(turned.request) if turned.request is not None else None
    return _row(slot, epoch, "ineligible", turned.reason.value, stratum, exchange)


def scored_row(slot: Slot, epoch: int, evaluation: Evaluation, exchange: Exchange | None) -> LedgerRow:
    """Planned: every score that applies has a number or a reason for its loss."""
    return replace(
        _row(slot, epoch, "scored", None, evaluation.stratum, exchange),
        prompt_tokens=evaluation.prompt_tokens,
        reference_prompt_tokens=evaluation.reference_prompt_tokens,
        completion_tokens=evaluation.completion_tokens,
        reference_answer=evaluation.reference_answer,
        reference_tokens=evaluation.reference_tokens,
        scores=evaluation.scores,
        bodies=evaluation.bodies,
    )


def _row(
    slot: Slot,
    epoch: int,
    disposition: Disposition,
    reason: str | None,
    stratum: Stratum | None,
    exchange: Exchange | None,
) -> LedgerRow:
    row = LedgerRow(
        position=slot.position,
        epoch=epoch,
        id=slot.id,
        worker=slot.worker,
        sequence=slot.sequence,
        kind=slot.kind,
        sampled_unix_s=slot.sampled_unix_s,
        disposition=disposition,
        reason=reason,
        stratum=stratum,
    )
    if exchange is None:
        return row
    return replace(
        row,
        path=exchange.target.partition("?")[0],
        status=exchange.status,
        outcome=_outcome(exchange),
        duration_s=exchange.duration_s,
        first_byte_s=exchange.first_byte_s,
    )


def _outcome(exchange: Exchange) -> str:
    """How the reply to the client ended, and whose it was when it was not the candidate's: the times are that one's."""
    if exchange.served_by is ServedBy.CANDIDATE:
        return exchange.outcome.value
    return f"{exchange.outcome.value}/{exchange.served_by.value}"
