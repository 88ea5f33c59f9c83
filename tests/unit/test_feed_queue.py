"""The line between relay and monitor: its bounds, what is dropped, and counts that always add up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.errors import FeedError
from proxy.exchange import Exchange, LossReason, Lost, Outcome, RelayEvent, Sampled
from proxy.feed.queue import MARKS_PER_EXCHANGE, FeedQueue
from proxy.feed.sink import FeedCounters
from proxy.settings import FeedSettings

FULL, DOWN = LossReason.FEED_FULL, LossReason.FEED_DOWN


def exchange(sequence: int, body_bytes: int = 10) -> Exchange:
    body = b"x" * body_bytes
    return Exchange(
        f"id{sequence}", "w", sequence, 0.0, "POST", "/v1", (), body, 200, (), b"", Outcome.COMPLETE, 0.1, 0.2
    )


def mark(sequence: int) -> Sampled:
    return Sampled(f"id{sequence}", "w", sequence, 0.0)


def queue(**bounds: int) -> tuple[FeedQueue, FeedCounters]:
    counters = FeedCounters()
    return FeedQueue(FeedSettings(socket=Path("s"), **bounds), counters), counters


def taken(line: FeedQueue) -> list[RelayEvent]:
    found = []
    while (entry := line.take()) is not None:
        found.append(entry.event)
    return found


def test_the_newest_exchange_is_dropped_and_leaves_its_loss_in_its_place() -> None:
    line, counters = queue(max_queue_exchanges=2)
    assert [line.offer(exchange(n), FULL) for n in range(3)] == [True, True, False]
    assert taken(line) == [exchange(0), exchange(1), Lost("id2", "w", 2, FULL)]
    assert counters.dropped == {FULL: 1}
    assert counters.notices == 1


def test_exchanges_are_bounded_in_bytes_and_the_bound_frees_with_acknowledgement() -> None:
    size = exchange(0, 5000).size_bytes
    line, counters = queue(max_queue_bytes=2 * size)
    assert [line.offer(exchange(n, 5000), DOWN) for n in range(3)] == [True, True, False]
    assert counters.queue_bytes == 2 * size
    assert counters.dropped == {DOWN: 1}
    line.take()
    assert not line.offer(exchange(3, 5000), FULL)  # written is not yet released
    line.acknowledge(1)
    assert line.offer(exchange(4, 5000), FULL)


def test_a_line_full_of_exchanges_still_takes_marks_up_to_their_own_bound() -> None:
    line, counters = queue(max_queue_exchanges=1)
    assert line.offer(exchange(0), FULL)
    assert [line.offer(mark(n), FULL) for n in range(MARKS_PER_EXCHANGE + 1)] == [True] * MARKS_PER_EXCHANGE + [False]
    assert counters.dropped_marks == 1
    assert not line.offer(exchange(99), FULL)
    assert (counters.notices, counters.notices_dropped) == (1, 1)  # not even the loss fits: it is counted


def test_what_was_not_acknowledged_comes_again_in_order() -> None:
    line, counters = queue()
    for n in range(4):
        line.offer(mark(n), FULL)
    for _ in range(3):
        line.take()
    line.acknowledge(1)
    line.rewind()
    assert taken(line) == [mark(1), mark(2), mark(3)]
    assert counters.sent == 1


def test_acknowledging_more_than_was_written_is_refused() -> None:
    line, _ = queue()
    line.offer(mark(0), FULL)
    with pytest.raises(FeedError, match="acknowledged 1 events of 0"):
        line.acknowledge(1)


def test_an_event_that_no_frame_holds_is_dropped_as_too_large_and_never_raises() -> None:
    line, counters = queue(max_request_bytes=1, max_response_bytes=1, max_queue_bytes=1 << 30)
    assert not line.offer(exchange(0, 2 * 1024 * 1024), FULL)
    assert not line.offer(mark(2**64), FULL)
    assert counters.dropped == {LossReason.REQUEST_TOO_LARGE: 2}


def test_giving_up_the_oldest_leaves_its_loss_at_the_end() -> None:
    line, counters = queue()
    line.offer(exchange(0), FULL)
    line.offer(mark(1), FULL)
    line.drop_oldest(DOWN)
    assert taken(line) == [mark(1), Lost("id0", "w", 0, DOWN)]
    assert counters.dropped == {DOWN: 1}


class Balance(RuleBasedStateMachine):
    """Whatever happens in whatever order, nothing is lost uncounted and no bound is passed."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.counters = queue(max_queue_exchanges=3, max_queue_bytes=8000)
        self.sequence = 0

    @rule(body_bytes=st.integers(0, 5000), reason=st.sampled_from([FULL, DOWN]))
    def offer_exchange(self, body_bytes: int, reason: LossReason) -> None:
        self.sequence += 1
        self.line.offer(exchange(self.sequence, body_bytes), reason)

    @rule(count=st.integers(1, 12))
    def offer_marks(self, count: int) -> None:
        for _ in range(count):
            self.sequence += 1
            self.line.offer(mark(self.sequence), FULL)

    @rule()
    def write(self) -> None:
        self.line.take()

    @precondition(lambda self: self.line.unacknowledged)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        self.line.acknowledge(data.draw(st.integers(1, self.line.unacknowledged)))

    @rule()
    def lose_connection(self) -> None:
        self.line.rewind()

    @precondition(lambda self: not self.line.unacknowledged)
    @rule()
    def give_up_one(self) -> None:
        self.line.drop_oldest(DOWN)

    @rule()
    def give_up_all(self) -> None:
        self.line.drop_all(DOWN)
        assert len(self.line) == 0

    @invariant()
    def nothing_is_lost_uncounted(self) -> None:
        counters = self.counters
        assert counters.offered == counters.sent + sum(counters.dropped.values()) + counters.queued
        assert counters.notices == counters.notices_sent + counters.notices_dropped + counters.queued_notices
        assert len(self.line) == counters.queued + counters.queued_notices

    @invariant()
    def no_bound_is_passed(self) -> None:
        assert 0 <= self.counters.queue_exchanges <= 3
        assert 0 <= self.counters.queue_bytes <= 8000
        assert len(self.line) <= 3 + 3 * MARKS_PER_EXCHANGE


Balance.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
test_balance = Balance.TestCase
