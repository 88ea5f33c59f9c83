"""Sampling order: every sampled request gets a place when it becomes known, and rows leave in that order.

Evidence must be consumed in the order in which requests were sampled (metrology 4): in the order of completion,
short requests would decide first. A relay worker numbers its sampled requests; a number that was skipped was lost
on the way, so it gets a place too, and each number ends in exactly one row:

    mark or exchange arrives --> slot opened --> claimed --> closed with its row --> released in order
     number skipped, or told --> slot opened --> not claimed in time --> closed as lost by the caller

Pure bookkeeping: no I/O, and the time is passed in.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from proxy.exchange import Exchange, Lost, Sampled
from proxy.monitor.rows import LedgerRow

MAX_OPEN_SLOTS = 65_536  # choice: 218 sampled requests per second for late_after_s = 300
MAX_HELD_BODY_BYTES = 64 * 1024 * 1024  # choice
SKIPPED_AFTER_S = 10.0  # choice: the feed keeps its order, so what was skipped comes within a reconnect or never
MAX_SKIPPED = 1_000_000  # choice: a larger jump is a renumbering, not a loss
MAX_WORKERS = 1_024  # choice: a name is one life's, so they pile up over restarts; those of the ledger and as many new


@dataclass(slots=True, eq=False)
class Slot:
    """One place in the sampling order. Made and changed by `SamplingOrder` only.

    Units:  opened_s and due_s on the caller's monotonic clock.
    """

    position: int
    kind: Literal["live", "probe"]
    id: str
    worker: str
    sequence: int
    sampled_unix_s: float
    opened_s: float
    due_s: float
    claimed: bool = False
    closed: bool = False
    row: LedgerRow | None = None  # from closing to release only


@dataclass(slots=True)
class OrderCounts:
    """What was turned away, since the start. Units: events."""

    duplicates: int = 0  # the feed sent it again, or it came after its slot was closed
    skipped: int = 0  # a worker's number that was not seen in its turn
    refused: int = 0  # no room for another open slot; each becomes a lost row later
    renumbered: int = 0  # a jump too large to be a loss
    late_rows: int = 0  # a row offered after its slot had been closed
    stripped_bodies: int = 0  # bodies let go because too many were held


class SamplingOrder:
    """Gives out positions, holds them open, and releases closed rows strictly in position order.

    `remembered` are the (worker, sequence) pairs that the ledger already holds, in any order: what the feed
    sends again after a restart is then known to be old, and what a restart swallowed is known to be missing.
    """

    def __init__(
        self,
        *,
        next_position: int,
        late_after_s: float,
        remembered: Iterable[tuple[str, int]] = (),
        max_open: int = MAX_OPEN_SLOTS,
        max_held_body_bytes: int = MAX_HELD_BODY_BYTES,
        skipped_after_s: float = SKIPPED_AFTER_S,
    ) -> None:
        self._next_position = next_position
        self._late_after_s = late_after_s
        self._max_open = max_open
        self._max_held_body_bytes = max_held_body_bytes
        self._skipped_after_s = min(skipped_after_s, late_after_s)
        self._unreleased: deque[Slot] = deque()
        self._due: list[tuple[float, int, Slot]] = []
        self._live: dict[tuple[str, int], Slot] = {}
        self._workers: OrderedDict[str, _Numbers] = OrderedDict()
        self._owed = 0
        self._held_body_bytes = 0
        self.counts = OrderCounts()
        for worker, sequence in sorted(remembered):
            self._numbers(worker, sequence).remember(sequence)

    @property
    def last_position(self) -> int:
        """The latest position given out, or -1."""
        return self._next_position - 1

    @property
    def unreleased(self) -> int:
        """Slots that have not left yet, open or waiting behind an open one."""
        return len(self._unreleased)

    @property
    def scheduled(self) -> int:
        """Deadlines that are kept: of open slots, and of closed ones behind an open one."""
        return len(self._due)

    @property
    def owed(self) -> int:
        """Sampled requests that were refused a slot and still have no row."""
        return self._owed

    def mark(self, mark: Sampled, now_s: float) -> Slot | None:
        """The slot of a mark; None when it is known already or there is no room."""
        slot = self._live.get((mark.worker, mark.sequence))
        if slot is not None and not slot.id:  # its number had been skipped
            slot.id, slot.sampled_unix_s = mark.id, mark.at_unix_s
            self._schedule(slot, slot.opened_s + self._late_after_s)
            return slot
        if not self._take_number(mark.worker, mark.sequence, mark.at_unix_s, now_s):
            self.counts.duplicates += 1
            return None
        return self._open_live(mark.id, mark.worker, mark.sequence, mark.at_unix_s, now_s, self._late_after_s)

    def claim(self, event: Exchange | Lost, at_unix_s: float, now_s: float) -> Slot | None:
        """The slot that this event closes, opened now when no mark came before it.

        None for a duplicate, for one whose slot was closed already, and when there is no room.
        """
        key = (event.worker, event.sequence)
        slot = self._live.get(key)
        if slot is None:
            if not self._take_number(event.worker, event.sequence, at_unix_s, now_s):
                self.counts.duplicates += 1
                return None
            slot = self._open_live(event.id, event.worker, event.sequence, at_unix_s, now_s, self._late_after_s)
            if slot is None:
                return None
        if slot.claimed:
            self.counts.duplicates += 1
            return None
        slot.claimed = True
        slot.id = event.id  # a skipped number's slot was opened without one
        if slot.due_s != slot.opened_s + self._late_after_s:
            self._schedule(slot, slot.opened_s + self._late_after_s)
        return slot

    def expect(self, worker: str, count: int, at_unix_s: float, now_s: float) -> None:
        """A worker has numbered `count` requests and has told of all: those that were never seen get slots too.

        It told a monitor that was killed before it wrote them, and no later number may come to show that they are
        missing. Their exchanges may still be under way.
        """
        if not self._numbers(worker, 0).skipped_before(count):
            return
        self._take_number(worker, count - 1, at_unix_s, now_s)
        self.counts.skipped += 1
        self._open_live("", worker, count - 1, at_unix_s, now_s, self._skipped_after_s)

    def open_probe(self, parent: Slot, now_s: float) -> Slot | None:
        """A claimed slot of its own for a planted needle; None when there is no room."""
        if len(self._unreleased) >= self._max_open:
            return None
        slot = self._append("probe", parent.id, parent.worker, parent.sequence, parent.sampled_unix_s, now_s)
        slot.claimed = True
        self._schedule(slot, now_s + self._late_after_s)
        return slot

    def close(self, slot: Slot, row: LedgerRow) -> bool:
        """Whether the row was taken; False when the slot had been closed before (it came too late)."""
        if slot.closed:
            self.counts.late_rows += 1
            return False
        slot.closed = True
        slot.row = self._bounded(row)
        if slot.kind == "live":
            self._live.pop((slot.worker, slot.sequence), None)
        return True

    def overdue(self, now_s: float) -> list[Slot]:
        """Open slots past their time, oldest deadline first; the caller closes each with what is known of it."""
        slots: list[Slot] = []
        while self._due and self._due[0][0] <= now_s:
            due_s, _, slot = heapq.heappop(self._due)
            if not slot.closed and due_s == slot.due_s:
                slots.append(slot)
        return slots

    def open_slots(self) -> list[Slot]:
        """Every open slot in position order: what a shutdown still has to close."""
        return [slot for slot in self._unreleased if not slot.closed]

    def settle_refused(self, at_unix_s: float, now_s: float) -> list[Slot]:
        """Slots for sampled requests that were refused one, as far as there is room; to be closed as lost at once."""
        slots: list[Slot] = []
        while self._owed and len(self._unreleased) < self._max_open:
            self._owed -= 1
            slots.append(self._append("live", "", "", -1, at_unix_s, now_s))
        return slots

    def release(self) -> list[LedgerRow]:
        """The closed rows at the head, in rising position without a hole; empty while the head is open."""
        rows: list[LedgerRow] = []
        while self._unreleased and (row := self._unreleased[0].row) is not None:
            self._unreleased.popleft().row = None
            self._held_body_bytes -= _body_bytes(row)
            rows.append(row)
        # Deadlines rise with positions, nearly: what was released is at the head, and need not wait to be due.
        while self._due and self._due[0][2].closed:
            heapq.heappop(self._due)
        return rows

    def oldest_open_s(self, now_s: float) -> float:
        """How long the head has been holding the others back. Units: seconds."""
        return now_s - self._unreleased[0].opened_s if self._unreleased else 0.0

    def state(self, now_s: float) -> dict[str, int | float]:
        """JSON-ready, for people."""
        return {
            **asdict(self.counts),
            "unreleased": len(self._unreleased),
            "owed": self._owed,
            "oldest_open_s": round(self.oldest_open_s(now_s), 3),
        }

    def _take_number(self, worker: str, sequence: int, at_unix_s: float, now_s: float) -> bool:
        """Whether the number is new; slots are opened for those that it skips."""
        numbers = self._numbers(worker, 0)  # a worker counts from 0: what came before its first event here was lost
        skipped = numbers.skipped_before(sequence)
        if len(skipped) > MAX_SKIPPED:
            self.counts.renumbered += 1
            skipped = range(0)
        if not numbers.remember(sequence):
            return False
        for missing in skipped:
            self.counts.skipped += 1
            self._open_live("", worker, missing, at_unix_s, now_s, self._skipped_after_s)
        return True

    def _numbers(self, worker: str, first: int) -> _Numbers:
        numbers = self._workers.get(worker)
        if numbers is None:
            numbers = self._workers[worker] = _Numbers(first)
            if len(self._workers) > MAX_WORKERS:
                self._workers.popitem(last=False)
        self._workers.move_to_end(worker)
        return numbers

    def _open_live(
        self, id: str, worker: str, sequence: int, at_unix_s: float, now_s: float, within_s: float
    ) -> Slot | None:
        if len(self._unreleased) >= self._max_open:
            self.counts.refused += 1
            self._owed += 1
            return None
        slot = self._append("live", id, worker, sequence, at_unix_s, now_s)
        self._live[(worker, sequence)] = slot
        self._schedule(slot, now_s + within_s)
        return slot

    def _append(
        self, kind: Literal["live", "probe"], id: str, worker: str, sequence: int, at_unix_s: float, now_s: float
    ) -> Slot:
        slot = Slot(self._next_position, kind, id, worker, sequence, at_unix_s, now_s, now_s)
        self._next_position += 1
        self._unreleased.append(slot)
        return slot

    def _schedule(self, slot: Slot, due_s: float) -> None:
        slot.due_s = due_s
        heapq.heappush(self._due, (due_s, slot.position, slot))

    def _bounded(self, row: LedgerRow) -> LedgerRow:
        size = _body_bytes(row)
        if size and self._held_body_bytes + size > self._max_held_body_bytes:
            self.counts.stripped_bodies += 1
            return replace(row, bodies=None)
        self._held_body_bytes += size
        return row


class _Numbers:
    """Which of one worker's numbers are known: all up to the highest, from the first one seen on.

    Below the first one seen, arrivals out of turn are still taken once each.
    """

    __slots__ = ("_below", "_first", "_highest")

    MAX_BELOW = 4_096  # choice: past it, an older number is taken for a duplicate

    def __init__(self, first: int) -> None:
        self._first = first
        self._highest = first - 1
        self._below: set[int] = set()

    def skipped_before(self, sequence: int) -> range:
        return range(self._highest + 1, sequence)

    def remember(self, sequence: int) -> bool:
        """Whether it was new."""
        if sequence > self._highest:
            self._highest = sequence
            return True
        if sequence >= self._first or sequence in self._below or len(self._below) >= self.MAX_BELOW:
            return False
        self._below.add(sequence)
        return True


def _body_bytes(row: LedgerRow) -> int:
    bodies = row.bodies
    if bodies is None:
        return 0
    return len(bodies.request) + len(bodies.candidate) + len(bodies.reference) + len(bodies.control or b"")
