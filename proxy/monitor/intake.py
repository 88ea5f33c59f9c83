"""Relay events to rows: each event finds its slot, each exchange a worker, each slot its row. All on the event loop.

Whatever happens to a job (done, turned away, late, cancelled, crashed), its slot is closed with a row and its bytes
are given back; `close_all` does so for everything that is still open when the monitor leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from proxy.exchange import Exchange, Lost, RelayEvent, Sampled
from proxy.monitor.jobs import Backlog, Job, Worker, ended
from proxy.monitor.order import SamplingOrder, Slot
from proxy.monitor.plan import Plan
from proxy.monitor.record import lost_row, of_closed_epoch
from proxy.monitor.rows import LedgerRow
from proxy.monitor.standing import Standing
from proxy.settings import MirrorSettings
from scorers.records import Reason

MAX_EARLY_EVENTS = 65_536  # choice: events that come while the ledger is being read
MAX_EARLY_COUNTS = 1_024  # choice: of relay workers, meanwhile

_log = logging.getLogger(__name__)


class Intake:
    """Takes events, keeps the sampling order, hands released rows to `put`. Events wait until `open` gives an order.

    `worker` makes the worker, given whom to tell of needles to plant.
    """

    def __init__(
        self,
        settings: MirrorSettings,
        worker: Callable[[Callable[[Job, Plan], None]], Worker],
        standing: Standing,
        put: Callable[[Sequence[LedgerRow]], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._max_early_bytes = settings.max_queue_bytes
        self._worker = worker(self._plant)
        self._standing = standing
        self._put = put
        self._clock = clock
        self._wall = wall
        self._order: SamplingOrder | None = None
        self._early: list[RelayEvent] = []
        self._early_bytes = 0
        self._early_dropped = 0
        self._early_counts: dict[str, int] = {}
        self._jobs: dict[int, Job] = {}
        self._leaving = False
        self.backlog = Backlog(max_jobs=settings.max_queue_exchanges, max_bytes=settings.max_queue_bytes)
        self.refusing: Reason | None = None  # while set, exchanges are not mirrored and lost by this reason

    @property
    def opened(self) -> bool:
        """True once there is an order to take events into."""
        return self._order is not None

    @property
    def last_position(self) -> int | None:
        """The latest position given out; None before there is an order."""
        return None if self._order is None else self._order.last_position

    def state(self) -> dict[str, Any]:
        """JSON-ready: what waits, what is in work, and the order's counts."""
        return {
            "queue": {
                "exchanges": self.backlog.waiting,
                "bytes": self.backlog.held_bytes,
                "in_work": self.backlog.held - self.backlog.waiting,
                "refused": self.backlog.refused,
                "oldest_s": round(self.backlog.oldest_s(self._clock()), 3),
            },
            "order": self._order.state(self._clock()) if self._order is not None else {},
            "early_dropped": self._early_dropped,
        }

    def open(self, order: SamplingOrder) -> None:
        """Events go into this order from now on, first those that came before it."""
        self._order = order
        early, self._early, self._early_bytes = self._early, [], 0
        for event in early:
            self.take(event)
        counts, self._early_counts = self._early_counts, {}
        for worker, sampled in counts.items():
            self.expect(worker, sampled)

    def take(self, event: RelayEvent) -> None:
        """One event of a relay. Never raises."""
        if self._leaving:
            return  # its number is missing in the ledger then, and the next monitor counts it as lost
        if self._order is None:
            self._keep_early(event)
            return
        try:
            self._take(self._order, event)
        except Exception:  # noqa: BLE001  an event that we cannot take costs itself, never the feed
            _log.exception("an event of the relay was not taken")

    def expect(self, worker: str, sampled: int) -> None:
        """A relay worker has sampled so many requests, and everything that it had to tell of them was acknowledged."""
        if self._leaving:
            return
        if self._order is not None:
            self._order.expect(worker, sampled, self._wall(), self._clock())
        elif worker in self._early_counts or len(self._early_counts) < MAX_EARLY_COUNTS:
            self._early_counts[worker] = sampled

    async def work(self) -> None:
        """One worker's life. Each job is a task of its own, so that lateness can end it alone."""
        while True:
            job = await self.backlog.take()
            try:
                if not job.slot.closed:
                    await self._done(job)
            finally:
                self.backlog.release(job)
                self._jobs.pop(job.slot.position, None)

    def tick(self) -> None:
        """What time brings: late slots are closed, and refused ones get their rows."""
        if self._order is None:
            return
        now_s = self._clock()
        for slot in self._order.overdue(now_s):
            self._close_late(self._order, slot)
        for slot in self._order.settle_refused(self._wall(), now_s):
            self._close(self._order, slot, lost_row(slot, self._standing.epoch, Reason.QUEUE_FULL.value))

    def leave(self) -> None:
        """No event is taken any more."""
        self._leaving = True

    def close_all(self) -> None:
        """Every open slot is closed with what is known of it."""
        self._leaving = True
        if self._order is not None:
            for slot in self._order.open_slots():
                self._close_late(self._order, slot)
        self.backlog.clear()

    async def _done(self, job: Job) -> None:
        job.task = asyncio.create_task(self._worker.row(job), name=f"job-{job.slot.position}")
        try:
            await asyncio.wait({job.task})
        finally:
            if not job.task.done():
                await ended([job.task])
        if job.task.cancelled():
            return  # it was late: whoever cancelled it has closed its slot
        error = job.task.exception()
        if error is not None:
            _log.error("a job ended in %s", type(error).__name__, exc_info=error)
        assert self._order is not None, "jobs come after the order"
        row = job.task.result() if error is None else self._without(job, Reason.SCORER_ERROR)
        self._close(self._order, job.slot, row)

    def _keep_early(self, event: RelayEvent) -> None:
        size = event.size_bytes if isinstance(event, Exchange) else 256
        if len(self._early) >= MAX_EARLY_EVENTS or self._early_bytes + size > self._max_early_bytes:
            self._early_dropped += 1  # its number is missing then, and becomes a lost row
            return
        self._early.append(event)
        self._early_bytes += size

    def _take(self, order: SamplingOrder, event: RelayEvent) -> None:
        now_s = self._clock()
        if isinstance(event, Sampled):
            order.mark(event, now_s)
            return
        at_unix_s = event.at_unix_s if isinstance(event, Exchange) else self._wall()
        slot = order.claim(event, at_unix_s, now_s)
        if slot is None:
            return
        epoch = self._standing.epoch_at(slot.sampled_unix_s)
        if isinstance(event, Lost):
            self._close(order, slot, self._unseen(slot, event.reason.value))
        elif epoch is None or epoch != self._standing.epoch:
            self._close(order, slot, self._unseen(slot, Reason.EPOCH_CLOSED.value, event))
        else:
            self._enqueue(order, Job(slot, epoch, event.size_bytes, exchange=event))

    def _plant(self, parent: Job, plan: Plan) -> None:
        """A place in the order for a planted needle, right after its parent was planned."""
        assert self._order is not None, "needles come after the order"
        slot = self._order.open_probe(parent.slot, self._clock())
        if slot is not None:  # a needle whose parent was lost is sought in vain or lost itself, but never forgotten
            self._enqueue(self._order, Job(slot, parent.epoch, 2 * len(plan.request_body) + 1024, plan=plan))

    def _enqueue(self, order: SamplingOrder, job: Job) -> None:
        job.queued_s = self._clock()
        refusing = Reason.LATE if self._leaving else self.refusing
        if refusing is Reason.EPOCH_CLOSED:
            self._close(order, job.slot, lost_row(job.slot, job.epoch, refusing.value, job.exchange))
        elif refusing is not None:
            self._close(order, job.slot, self._without(job, refusing))
        elif self.backlog.offer(job):
            self._jobs[job.slot.position] = job
        else:
            self._close(order, job.slot, self._without(job, Reason.QUEUE_FULL))

    def _close_late(self, order: SamplingOrder, slot: Slot) -> None:
        job = self._jobs.get(slot.position)
        if job is None:
            row = self._unseen(slot, Reason.LATE.value)
        else:
            row = self._without(job, Reason.LATE)
        self._close(order, slot, row)
        if job is not None and job.task is not None:
            job.task.cancel()

    def _without(self, job: Job, why: Reason) -> LedgerRow:
        """The row of a job whose work did not end. Never raises: a slot that stayed open would hold all others."""
        try:
            return self._worker.row_without(job, why)
        except Exception:  # noqa: BLE001  a request that breaks the planning costs its own scores, never the order
            _log.exception("the scores that a job lost could not be named")
            return lost_row(job.slot, job.epoch, why.value, job.exchange)

    def _unseen(self, slot: Slot, reason: str, exchange: Exchange | None = None) -> LedgerRow:
        """A lost row in the epoch in which the request was sampled; one from before them all is in the current one."""
        epoch = self._standing.epoch_at(slot.sampled_unix_s)
        if epoch is None:
            epoch, reason = self._standing.epoch, Reason.EPOCH_CLOSED.value
        return lost_row(slot, epoch, reason, exchange)

    def _close(self, order: SamplingOrder, slot: Slot, row: LedgerRow) -> None:
        if row.disposition == "scored" and row.epoch != self._standing.epoch:
            row = of_closed_epoch(row)
        order.close(slot, row)
        self._put(order.release())
