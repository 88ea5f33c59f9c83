"""Two ledgers of the same exchanges, completed in different orders: one verdict, one evidence, to the last bit.

The real order, writer, ledger and fold; what differs is which exchange ends when, and which rows are
written together.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.order import SamplingOrder, Slot
from proxy.monitor.record import lost_row
from proxy.monitor.rows import LedgerRow, Opening, ScoreRow
from proxy.monitor.standing import Standing
from proxy.monitor.watch import gate_of
from proxy.monitor.writer import LedgerWriter
from proxy.report.recompute import recompute
from proxy.settings import LedgerSettings
from scorers.judge import Budget, EvidenceState, GateRules
from scorers.records import Reason, Stratum
from tests.unit.monitor_rig import Metrics, mark
from tests.unit.monitor_samples import is_mismatch
from tests.unit.monitor_samples import row as sample

LATE_AFTER_S = 100.0
BUDGETS = (
    Budget("tool_call_mismatch", 0.2, bounded=True, critical=True, strata=("length", "tools"), slack=0.1),
    Budget("needle_recall_loss", 0.2, bounded=True, critical=False, slack=0.1),
    Budget("logprob_kl", 0.05, bounded=False, critical=False),
)
STRATA = (Stratum("<1k", False, True, True), Stratum("16k-64k", True, False, True))


@dataclass(frozen=True)
class End:
    """How one sampled exchange ends, whenever that is."""

    worker: str
    kind: str  # scored, unscored, ineligible, lost, or late: it never ends
    value: float
    noise: float
    stratum: Stratum
    probed: bool


ENDS = st.lists(
    st.builds(
        End,
        worker=st.sampled_from("ab"),
        kind=st.sampled_from(["scored"] * 6 + ["unscored", "ineligible", "lost", "late"]),
        value=st.sampled_from([0.0, 0.0, 1.0, 0.1 + 0.2, 1e-17]),
        noise=st.sampled_from([0.0, 0.0, 1.0]),
        stratum=st.sampled_from(STRATA),
        probed=st.booleans(),
    ),
    min_size=2,
    max_size=60,
)


@settings(max_examples=40)
@given(ENDS, st.integers(0, 2**32), st.integers(0, 2**32))
def test_the_order_of_completion_changes_nothing(ends: list[End], one: int, other: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = asyncio.run(_completed(Path(folder) / "one.sqlite", ends, random.Random(one)))
        second = asyncio.run(_completed(Path(folder) / "other.sqlite", ends, random.Random(other)))
    assert first == second


async def _completed(path: Path, ends: Sequence[End], chance: random.Random) -> tuple[Any, ...]:
    """Everything that can be told of a ledger whose exchanges ended in this order."""
    contract = {"recipe": "awq", "gate": gate_of(BUDGETS, GateRules())}
    ledger = SqliteLedger(LedgerSettings(path=path), is_mismatch=is_mismatch)
    ledger.open_epoch(contract, "first", 1.0)
    live = _fresh()
    live.begin(Opening(1, 1.0, "first"), contract)
    durable: list[LedgerRow] = []

    def told(rows: Sequence[LedgerRow]) -> None:
        live.fold(rows)
        durable.extend(rows)

    with ThreadPoolExecutor(1) as executor:
        writer = LedgerWriter(ledger, executor, told, Metrics())
        await _write(writer, ends, chance)
    kept = list(ledger.rows(1))
    ledger.close()

    alone = _fresh()
    alone.resume(ledger, 1, contract)
    assert alone.checkpoint() == live.checkpoint()
    verdict = orjson.dumps(recompute(path))
    assert verdict == orjson.dumps(live.verdict(()).as_dict())
    assert [row.position for row in durable] == [row.position for row in kept] == list(range(len(kept)))
    return verdict, alone.checkpoint(), kept


async def _write(writer: LedgerWriter, ends: Sequence[End], chance: random.Random) -> None:
    """The exchanges end in an order of chance, and are written in batches of chance."""
    order, open_slots, numbers = SamplingOrder(next_position=0, late_after_s=LATE_AFTER_S), [], {"a": 0, "b": 0}
    for end in ends:
        slot = order.mark(mark(numbers[end.worker], end.worker), 0.0)
        assert slot is not None
        numbers[end.worker] += 1
        if end.kind != "late":
            open_slots.append((slot, end))
        if end.probed:
            probe = order.open_probe(slot, 0.0)
            assert probe is not None
            open_slots.append((probe, end))
    chance.shuffle(open_slots)
    for slot, end in open_slots:
        order.close(slot, _row(slot, end))
        writer.put(order.release())
        if chance.random() < 0.2:
            await writer._write()
    for slot in order.overdue(LATE_AFTER_S):
        order.close(slot, lost_row(slot, 1, "late"))
    writer.put(order.release())
    writer.drain()
    await writer.run()


def _row(slot: Slot, end: End) -> LedgerRow:
    if slot.kind == "live" and end.kind in ("lost", "ineligible"):
        row = lost_row(slot, 1, "feed_full" if end.kind == "lost" else "bad_request")
        return row if end.kind == "lost" else _replace(row, disposition="ineligible", stratum=end.stratum)
    names = ("needle_recall_loss",) if slot.kind == "probe" else ("tool_call_mismatch", "logprob_kl")
    lost = Reason.REFERENCE_TIMEOUT if end.kind == "unscored" else None
    scores = [ScoreRow("candidate", name, None if lost else end.value, lost) for name in names]
    scores += [ScoreRow("noise", name, None if lost else end.noise, lost) for name in names[:1]]
    base = lost_row(slot, 1, "")
    return _replace(base, disposition="scored", reason=None, stratum=end.stratum, scores=tuple(scores))


def _replace(row: LedgerRow, **changes: Any) -> LedgerRow:
    fields = {"id": row.id, "worker": row.worker, "sequence": row.sequence, "kind": row.kind, "reason": row.reason}
    return sample(row.position, **{"prompt_tokens": 7, **fields, **changes})


def _fresh() -> Standing:
    return Standing("awq", lambda: EvidenceState(BUDGETS, GateRules()))
