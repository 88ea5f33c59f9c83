"""The sampling order: rows leave in the order of their marks, once each, whatever arrives in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.exchange import LossReason, Lost
from proxy.monitor.order import SamplingOrder, Slot
from proxy.monitor.rows import LedgerRow, PairBodies
from tests.unit.monitor_rig import exchange, mark, row

AT = 100.0


def order(**more: object) -> SamplingOrder:
    fields: dict[str, object] = {"next_position": 0, "late_after_s": 30.0, "skipped_after_s": 5.0}
    return SamplingOrder(**{**fields, **more})  # type: ignore[arg-type]


def closed(of: SamplingOrder, slot: Slot | None, **more: object) -> LedgerRow:
    assert slot is not None
    made = row(slot.position, id=slot.id, sequence=slot.sequence, worker=slot.worker, **more)
    assert of.close(slot, made)
    return made


def test_rows_leave_in_the_order_of_the_marks_not_of_completion() -> None:
    book = order()
    for sequence in range(3):
        book.mark(mark(sequence), 0.0)
    closed(book, book.claim(exchange(2), AT, 1.0))
    closed(book, book.claim(exchange(1), AT, 2.0))
    assert book.release() == []
    closed(book, book.claim(exchange(0), AT, 3.0))
    assert [r.id for r in book.release()] == ["w-0", "w-1", "w-2"]
    assert book.unreleased == 0


def test_workers_are_interleaved_as_their_marks_arrive() -> None:
    book = order(next_position=40)
    for name, sequence in (("a", 0), ("b", 0), ("a", 1)):
        slot = book.mark(mark(sequence, name), 0.0)
        closed(book, slot)
    assert [(r.position, r.id) for r in book.release()] == [(40, "a-0"), (41, "b-0"), (42, "a-1")]


def test_an_exchange_without_a_mark_gets_its_place_on_arrival() -> None:
    book = order()
    book.mark(mark(0), 0.0)
    slot = book.claim(exchange(1), AT, 0.0)
    assert slot is not None
    assert slot.position == 1


def test_what_the_feed_sends_again_is_ignored() -> None:
    book = order()
    book.mark(mark(0), 0.0)
    assert book.mark(mark(0), 0.0) is None
    slot = book.claim(exchange(0), AT, 0.0)
    assert book.claim(exchange(0), AT, 0.0) is None  # in work
    closed(book, slot)
    assert book.claim(exchange(0), AT, 0.0) is None  # closed
    book.release()
    assert book.claim(exchange(0), AT, 0.0) is None  # released
    assert book.mark(mark(0), 0.0) is None
    assert book.counts.duplicates == 5
    assert book.unreleased == 0


def test_what_the_ledger_holds_is_known_after_a_restart() -> None:
    book = order(next_position=7, remembered=[("w", 4), ("w", 3), ("w", 5)])
    assert book.mark(mark(5), 0.0) is None
    assert book.claim(exchange(3), AT, 0.0) is None
    fresh = book.claim(exchange(6), AT, 0.0)
    assert fresh is not None
    assert fresh.position == 7


def test_a_skipped_number_becomes_a_slot_that_is_lost_when_it_never_comes() -> None:
    book = order()
    book.mark(mark(0), 0.0)
    book.mark(mark(3), 0.0)
    late = book.overdue(5.0)
    assert [(s.worker, s.sequence, s.id) for s in late] == [("w", 1, ""), ("w", 2, "")]
    assert book.counts.skipped == 2


def test_numbers_swallowed_by_a_restart_are_missed() -> None:
    book = order(remembered=[("w", 10)])
    book.mark(mark(13), 0.0)
    assert [s.sequence for s in book.overdue(5.0)] == [11, 12]


def test_a_skipped_number_that_comes_after_all_takes_its_slot() -> None:
    book = order()
    book.mark(mark(0), 0.0)
    book.mark(mark(2), 0.0)
    slot = book.claim(Lost("w-1", "w", 1, LossReason.FEED_FULL), AT, 1.0)
    assert slot is not None
    assert (slot.position, slot.id) == (1, "w-1")
    assert book.overdue(5.0) == []  # it has the long deadline now
    assert slot in book.overdue(30.0)


def test_a_skipped_number_whose_mark_comes_after_all_waits_for_its_exchange() -> None:
    book = order()
    book.mark(mark(0), 0.0)
    book.mark(mark(2), 0.0)
    slot = book.mark(mark(1), 1.0)
    assert slot is not None
    assert (slot.position, slot.id) == (1, "w-1")
    assert book.overdue(29.0) == []
    assert book.mark(mark(1), 2.0) is None


def test_a_worker_that_is_first_seen_past_its_start_has_lost_what_came_before() -> None:
    book = order()
    book.mark(mark(5), 0.0)
    assert (book.unreleased, book.counts.skipped) == (6, 5)
    assert book.claim(exchange(4), AT, 0.0) is not None  # it may still come
    assert book.claim(exchange(4), AT, 0.0) is None
    assert [slot.sequence for slot in book.overdue(5.0)] == [0, 1, 2, 3]


def test_a_worker_that_the_ledger_remembers_goes_on_from_there() -> None:
    book = order(remembered=[("w", 900)])
    book.mark(mark(901), 0.0)
    assert (book.unreleased, book.counts.skipped) == (1, 0)
    assert book.claim(exchange(899), AT, 0.0) is not None  # out of turn, below the first that is remembered
    assert book.claim(exchange(899), AT, 0.0) is None


def test_what_a_worker_counted_and_never_told_of_is_missing() -> None:
    book = order(remembered=[("w", 10)])
    book.expect("w", 11, AT, 0.0)
    assert book.unreleased == 0
    book.expect("w", 14, AT, 0.0)
    book.expect("w", 14, AT, 0.0)
    book.expect("w", 12, AT, 0.0)
    assert (book.unreleased, book.counts.skipped) == (3, 3)
    assert book.claim(exchange(12), AT, 1.0) is not None  # its request was still under way
    assert [slot.sequence for slot in book.overdue(5.0)] == [11, 13]
    book.mark(mark(14), 6.0)
    assert book.counts.skipped == 3


def test_a_worker_that_has_sampled_nothing_owes_nothing() -> None:
    book = order()
    book.expect("w", 0, AT, 0.0)
    assert (book.unreleased, book.counts.skipped) == (0, 0)


def test_an_open_slot_is_overdue_once_and_a_later_row_is_turned_away() -> None:
    book = order()
    slot = book.mark(mark(0), 0.0)
    assert slot is not None
    assert book.overdue(29.9) == []
    assert book.overdue(30.0) == [slot]
    assert book.overdue(31.0) == []
    closed(book, slot)
    assert not book.close(slot, row(0))
    assert book.counts.late_rows == 1
    assert len(book.release()) == 1


def test_no_more_open_slots_than_the_bound_and_every_refusal_ends_in_a_row() -> None:
    book = order(max_open=2)
    slots = [book.mark(mark(sequence), 0.0) for sequence in range(5)]
    assert slots[2:] == [None, None, None]
    assert (book.unreleased, book.owed, book.counts.refused) == (2, 3, 3)
    assert book.settle_refused(AT, 1.0) == []
    assert book.claim(exchange(3), AT, 1.0) is None  # its loss is owed: it must not get a second row
    for slot in slots[:2]:
        closed(book, slot)
    book.release()
    owed = book.settle_refused(AT, 2.0)
    assert len(owed) == 2
    for slot in owed:
        book.close(slot, row(slot.position))
    book.release()
    assert len(book.settle_refused(AT, 3.0)) == 1
    assert book.owed == 0


def test_a_jump_beyond_reason_is_a_renumbering() -> None:
    book = order()
    book.mark(mark(0), 0.0)
    book.mark(mark(1 << 62), 0.0)
    assert book.counts.renumbered == 1
    assert book.unreleased == 2


def test_a_probe_follows_its_parent_and_is_no_sequence_number() -> None:
    book = order()
    parent = book.claim(exchange(0), AT, 0.0)
    assert parent is not None
    probe = book.open_probe(parent, 0.0)
    assert probe is not None
    assert (probe.position, probe.kind, probe.id) == (1, "probe", parent.id)
    closed(book, parent)
    assert len(book.release()) == 1
    closed(book, probe, kind="probe")
    assert [r.kind for r in book.release()] == ["probe"]


def test_held_bodies_are_bounded_and_the_row_stays() -> None:
    book = order(max_held_body_bytes=100)
    slots = [book.mark(mark(sequence), 0.0) for sequence in range(3)]
    for slot in reversed(slots):
        closed(book, slot, bodies=PairBodies(b"q" * 30, b"c" * 10, b"r" * 10))
    kept = book.release()
    assert [r.bodies is not None for r in kept] == [False, True, True]
    assert book.counts.stripped_bodies == 1
    closed(book, book.mark(mark(3), 0.0), bodies=PairBodies(b"q" * 90, b"", b""))
    assert book.release()[0].bodies is not None  # what left gave its room back


def test_a_released_row_is_not_held_by_the_schedule() -> None:
    book = order()
    slot = book.mark(mark(0), 0.0)
    closed(book, slot)
    book.release()
    assert slot is not None
    assert slot.row is None


EVENTS = st.lists(
    st.tuples(st.sampled_from(["mark", "exchange", "lost", "tick"]), st.sampled_from("ab"), st.integers(0, 12)),
    max_size=80,
)


@settings(deadline=None)
@given(EVENTS, st.integers(1, 6))
def test_every_number_ends_in_at_most_one_row_in_rising_position(
    events: list[tuple[str, str, int]], max_open: int
) -> None:
    book, now_s, rows, claimed = order(max_open=max_open), 0.0, [], []
    for kind, worker, sequence in events:
        now_s += 1.0
        if kind == "mark":
            book.mark(mark(sequence, worker), now_s)
        elif kind == "exchange":
            claimed.append(book.claim(exchange(sequence, worker=worker), AT, now_s))
        elif kind == "lost":
            claimed.append(book.claim(Lost("x", worker, sequence, LossReason.FEED_DOWN), AT, now_s))
        else:
            while claimed:
                slot = claimed.pop()
                if slot is not None:
                    book.close(slot, row(slot.position, worker=slot.worker, sequence=slot.sequence))
        for slot in (*book.overdue(now_s), *book.settle_refused(AT, now_s)):
            book.close(slot, row(slot.position, worker=slot.worker, sequence=slot.sequence))
        rows += book.release()
        assert book.unreleased <= max_open
    for slot in book.open_slots():
        book.close(slot, row(slot.position, worker=slot.worker, sequence=slot.sequence))
    rows += book.release()
    while owed := book.settle_refused(AT, now_s):
        for slot in owed:
            book.close(slot, row(slot.position, worker=slot.worker, sequence=slot.sequence))
        rows += book.release()
    assert [r.position for r in rows] == list(range(len(rows)))
    known = [(r.worker, r.sequence) for r in rows if r.worker]
    assert len(known) == len(set(known))
    seen = {(worker, sequence) for kind, worker, sequence in events if kind != "tick"}
    assert len(rows) >= len(seen)


def test_nothing_is_kept_of_what_was_released() -> None:
    """At 100 samples a second and 300 s to be late, deadlines of released slots alone were 30,000 slots."""
    book = order()
    for sequence in range(100):
        book.mark(mark(sequence), float(sequence) / 100)
    for sequence in range(1, 100):
        closed(book, book.claim(exchange(sequence), AT, 2.0))
    assert book.release() == []
    assert book.scheduled == 100
    closed(book, book.claim(exchange(0), AT, 3.0))
    assert len(book.release()) == 100
    assert book.scheduled == 0
