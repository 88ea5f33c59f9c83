"""The tee's bounds and bookkeeping, without sockets."""

from __future__ import annotations

import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Exchange, LossReason, Lost, Outcome, Sampled
from proxy.metrics import RelayCounters
from proxy.relay.capture import Capture, Tee
from proxy.relay.head import RequestHead, parse_request
from tests.integration.relay_rig import Feed, settings_for


def tee_for(feed: Feed, **limits: int) -> Tee:
    sampling = {"rate": 1.0, "large_body_rate": 1.0}
    settings = settings_for("http://candidate:1", feed=limits, sampling=sampling)
    return Tee(settings, worker="w", feed=feed, counters=RelayCounters(), salt=b"salt")


def head_of(framing: bytes) -> RequestHead:
    raw = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nCookie: c\r\nAccept: x\r\n" + framing + b"\r\n"
    return parse_request(raw, authority=b"a", max_headers=100)


def opened(tee: Tee, framing: bytes = b"Content-Length: 3") -> Capture:
    capture = tee.open(head_of(framing), 100.0)
    assert capture is not None
    return capture


STEPS = st.lists(
    st.sampled_from(["request", "request_done", "reply_head", "reply", "close", "close again"]), max_size=12
)


@given(st.lists(STEPS, max_size=6), st.sampled_from([b"Content-Length: 3", b"Transfer-Encoding: chunked"]))
def test_every_capture_gives_back_what_it_held_and_ends_once(runs: list[list[str]], framing: bytes) -> None:
    feed = Feed()
    tee = tee_for(feed, max_request_bytes=40, max_response_bytes=40, max_capture_bytes=250)
    for run in runs:
        capture = opened(tee, framing)
        actions: dict[str, Any] = {
            "request": lambda capture=capture: capture.request(bytes(15)),
            "request_done": lambda capture=capture: capture.request_done(),
            "reply_head": lambda capture=capture: capture.reply_head(200, b"HTTP/1.1 200 OK"),
            "reply": lambda capture=capture: capture.reply(bytes(15)),
        }
        for step in run:
            action = actions.get(step)
            if action is None:
                capture.close(Outcome.COMPLETE, first_byte_s=None, ended_s=101.0)
            else:
                action()
            assert 0 <= tee.held_bytes <= 250
        capture.close(Outcome.CLIENT_CLOSED, first_byte_s=None, ended_s=101.0)
        assert tee.held_bytes == 0
    assert tee.counters.tee_failures == 0
    marks = [event.sequence for event in feed.events if isinstance(event, Sampled)]
    ends = [event.sequence for event in feed.events if isinstance(event, Exchange | Lost)]
    assert marks == ends == list(range(len(runs)))
    assert tee.counters.sampled == len(runs)


def test_times_are_relative_to_the_first_byte() -> None:
    feed = Feed()
    capture = opened(tee_for(feed))
    capture.close(Outcome.COMPLETE, first_byte_s=100.25, ended_s=101.5)
    assert (feed.exchanges[0].first_byte_s, feed.exchanges[0].duration_s) == (0.25, 1.5)


def test_credentials_are_never_captured() -> None:
    feed = Feed()
    capture = opened(tee_for(feed))
    capture.close(Outcome.COMPLETE, first_byte_s=None, ended_s=101.0)
    assert feed.exchanges[0].request_headers == ((b"accept", b"x"),)


def test_small_pieces_weigh_what_they_occupy() -> None:
    feed = Feed()
    tee = tee_for(feed, max_capture_bytes=10_000)
    capture = opened(tee)
    tracemalloc.start()
    for _ in range(10_000):
        capture.reply(b"x")
    occupied, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tee.held_bytes, feed.lost) == (10_000, [])
    assert occupied < 1.5 * tee.held_bytes  # a buffer grows by an eighth at a time
    capture.reply(b"x")
    assert [event.reason for event in feed.lost] == [LossReason.CAPTURE_MEMORY]
    assert tee.held_bytes == 0
