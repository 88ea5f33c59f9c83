"""Rows to the ledger: in batches, in order, by one thread, and never lost without a row that says so.

While the ledger cannot be written the rows wait, within a bound; past it they shrink to holes (a range of positions),
which are written as lost rows when the ledger answers again. Whoever waits for a row hears of it once it is durable.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from proxy.errors import LedgerError
from proxy.monitor.rows import LedgerRow
from scorers.records import Reason

BATCH_ROWS = 50  # choice: enough to make a transaction cheap
MAX_BATCH_ROWS = 500  # choice: after a flood
BATCH_INTERVAL_S = 0.2  # choice: how old a row may get before it is written
MAX_WAITING_ROWS = 20_000  # choice: some 40 MB without bodies
MAX_WAITING_BODY_BYTES = 64 * 1024 * 1024  # choice
MAX_WAITING_EVENTS = 256  # choice
MAX_HOLE_WORKERS = 1_024  # choice: as many as the order knows
FIRST_RETRY_S, LAST_RETRY_S = 0.2, 5.0  # choice

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Written(Protocol):
    """The part of rows.Ledger that is written here."""

    def append(self, rows: Sequence[LedgerRow]) -> None: ...

    def event(self, kind: str, detail: Mapping[str, Any], at_unix_s: float) -> None: ...


class WriterMetrics(Protocol):
    """Where failed writes are counted."""

    def ledger_write_error(self) -> None: ...

    def ledger_rows_dropped(self, count: int) -> None: ...


@dataclass(slots=True)
class _Hole:
    """Positions whose rows had to be let go; `sample` says when and in which epoch.

    `numbers` are the last that each worker lost here, by position. Those are kept: from a worker's last number in the
    ledger a later monitor knows which are still to be counted.
    """

    sample: LedgerRow
    last: int
    numbers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, row: LedgerRow) -> None:
        """One more at its end."""
        self.last = row.position
        if row.worker in self.numbers or len(self.numbers) < MAX_HOLE_WORKERS:
            self.numbers[row.worker] = row.position, row.sequence

    def takes(self, row: LedgerRow) -> bool:
        """Whether the row is the next of the same epoch and kind."""
        same = self.sample.epoch == row.epoch and self.sample.kind == row.kind
        return same and self.last + 1 == row.position


class LedgerWriter:
    """The only writer. Everything but the ledger's own calls happens on the event loop.

    `on_durable` gets rows after they were written, in rising position.
    """

    def __init__(
        self,
        ledger: Written,
        executor: Executor,
        on_durable: Callable[[Sequence[LedgerRow]], None],
        metrics: WriterMetrics,
    ) -> None:
        self._ledger = ledger
        self._executor = executor
        self._on_durable = on_durable
        self._metrics = metrics
        self._waiting: deque[LedgerRow | _Hole] = deque()
        self._waiting_body_bytes = 0
        self._events: deque[tuple[str, Mapping[str, Any], float]] = deque()
        self._ready = asyncio.Event()
        self._draining = False
        self.last_error = ""
        self.errors = 0
        self.rows_written = 0
        self.rows_dropped = 0
        self.events_dropped = 0

    @property
    def failing(self) -> bool:
        """True from a failed write to the next that succeeds."""
        return bool(self.last_error)

    @property
    def waiting(self) -> int:
        """Rows and holes not yet durable."""
        return len(self._waiting)

    def state(self) -> Mapping[str, Any]:
        """JSON-ready, for people."""
        return {
            "failing": self.failing,
            "last_error": self.last_error,
            "errors": self.errors,
            "waiting_rows": self.waiting,
            "rows_written": self.rows_written,
            "rows_dropped": self.rows_dropped,
            "events_dropped": self.events_dropped,
        }

    def put(self, rows: Sequence[LedgerRow]) -> None:
        """Rows in rising position, to be written soon. Never blocks, never raises."""
        for row in rows:
            self._hold(row)
        if len(self._waiting) >= BATCH_ROWS:
            self._ready.set()

    def put_event(self, kind: str, detail: Mapping[str, Any], at_unix_s: float) -> None:
        """An operator's act, to be written with the next batch."""
        if len(self._events) >= MAX_WAITING_EVENTS:
            self.events_dropped += 1
            return
        self._events.append((kind, detail, at_unix_s))
        self._ready.set()

    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """What a ledger call returns, made on the writer's thread. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    async def run(self) -> None:
        """Writes until cancelled; after `drain` returns once everything is durable."""
        retry_s = FIRST_RETRY_S
        while True:
            if not self._draining:
                await self._wait(BATCH_INTERVAL_S)
            if not self._waiting and not self._events:
                if self._draining:
                    return
                continue
            if await self._write():
                retry_s = FIRST_RETRY_S
            else:
                await asyncio.sleep(retry_s)
                retry_s = min(2.0 * retry_s, LAST_RETRY_S)

    def drain(self) -> None:
        """From now on write without waiting, and let `run` return when all is written."""
        self._draining = True
        self._ready.set()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        except TimeoutError:
            pass  # the interval is over: write what there is
        self._ready.clear()

    async def _write(self) -> bool:
        """Whether one batch and all events went through."""
        batch = self._batch()
        events = list(self._events)
        try:
            if batch:
                await self.call(self._ledger.append, batch)
            self._forget(batch)
            for event in events:
                await self.call(self._ledger.event, *event)
                self._events.popleft()
        except LedgerError as error:
            self._failed(str(error))
            return False
        except Exception as error:  # noqa: BLE001  the writer must outlive any defect of a ledger; it is shown and retried
            _log.exception("the ledger raised outside its error tree")
            self._failed(type(error).__name__)
            return False
        self.last_error = ""
        return True

    def _failed(self, error: str) -> None:
        self.errors += 1
        self._metrics.ledger_write_error()
        if error != self.last_error:
            _log.error("ledger: %s", error)
        self.last_error = error

    def _batch(self) -> list[LedgerRow]:
        rows: list[LedgerRow] = []
        for entry in self._waiting:
            if isinstance(entry, _Hole):
                rows.extend(_lost_rows(entry, MAX_BATCH_ROWS - len(rows)))
            else:
                rows.append(entry)
            if len(rows) >= MAX_BATCH_ROWS:
                break
        return rows

    def _forget(self, batch: Sequence[LedgerRow]) -> None:
        """The batch is durable: it leaves the line and is told on."""
        if not batch:
            return
        last = batch[-1].position
        while self._waiting:
            entry = self._waiting[0]
            if isinstance(entry, _Hole):
                if entry.last > last:
                    if entry.sample.position <= last:
                        entry.sample = _moved(entry.sample, last + 1)
                    break
            elif entry.position > last:
                break
            else:
                self._waiting_body_bytes -= _body_bytes(entry)
            self._waiting.popleft()
        self.rows_written += len(batch)
        self._on_durable(batch)

    def _hold(self, row: LedgerRow) -> None:
        if len(self._waiting) >= MAX_WAITING_ROWS:
            self.rows_dropped += 1
            self._metrics.ledger_rows_dropped(1)
            tail = self._waiting[-1]
            if not (isinstance(tail, _Hole) and tail.takes(row)):
                tail = _Hole(_moved(row, row.position), row.position)
                self._waiting.append(tail)
            tail.add(row)
            return
        size = _body_bytes(row)
        if size and self._waiting_body_bytes + size > MAX_WAITING_BODY_BYTES:
            row = replace(row, bodies=None)
            size = 0
        self._waiting_body_bytes += size
        self._waiting.append(row)


def _lost_rows(hole: _Hole, limit: int) -> Iterator[LedgerRow]:
    first = hole.sample.position
    known = {position: (worker, sequence) for worker, (position, sequence) in hole.numbers.items()}
    for position in range(first, min(hole.last, first + limit - 1) + 1):
        yield _moved(hole.sample, position, *known.get(position, ("", -1)))


def _moved(row: LedgerRow, position: int, worker: str = "", sequence: int = -1) -> LedgerRow:
    """A lost row at another position: what is left of a row that could not wait."""
    return LedgerRow(
        position=position,
        epoch=row.epoch,
        id="",
        worker=worker,
        sequence=sequence,
        kind=row.kind,
        sampled_unix_s=row.sampled_unix_s,
        disposition="lost",
        reason=Reason.QUEUE_FULL.value,
        stratum=None,
    )


def _body_bytes(row: LedgerRow) -> int:
    bodies = row.bodies
    if bodies is None:
        return 0
    return len(bodies.request) + len(bodies.candidate) + len(bodies.reference) + len(bodies.control or b"")
