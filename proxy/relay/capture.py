"""The tee: copies of sampled exchanges, bounded each and in total, handed to the feed when they end.

Whatever fails in here must never reach the client: every entry is `_guarded`, the one seam where that holds.

When the coin falls for a body of declared length, `Sampled` is offered at once. A chunked body's size is known only
at its end, so there the mark waits for the end of the request (or of the exchange): grown past `large_body_bytes` it
must also win at the rate of large bodies, or it was never sampled.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from proxy.exchange import Exchange, Headers, LossReason, Lost, Outcome, Sampled, ServedBy
from proxy.feed import FeedSink
from proxy.metrics import RelayCounters
from proxy.relay.head import RequestHead, pick_headers
from proxy.sampling import Sampler
from proxy.settings import Settings

_log = logging.getLogger(__name__)
_REQUEST_HEADERS = frozenset({b"content-type", b"content-encoding", b"x-request-id", b"accept"})
_REPLY_HEADERS = frozenset({b"content-type", b"content-encoding", b"x-request-id"})
LOOK_AHEAD = 32  # choice: some tens of microseconds, once in so many requests


class _Counting(Protocol):
    counters: RelayCounters


_P = ParamSpec("_P")
_C = TypeVar("_C", bound=_Counting)
_R = TypeVar("_R")


def _guarded(method: Callable[Concatenate[_C, _P], _R]) -> Callable[Concatenate[_C, _P], _R | None]:
    @wraps(method)
    def guard(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        try:
            return method(self, *args, **kwargs)
        except Exception:  # noqa: BLE001  a fault of the monitor's side must leave the client untouched
            self.counters.tee_failures += 1
            _log.exception("the tee failed in %s; the client is unaffected", method.__name__)
            return None

    return guard


class Tee:
    """Opens captures for one worker, numbers them, and bounds what they hold together."""

    def __init__(
        self, settings: Settings, *, worker: str, feed: FeedSink, counters: RelayCounters, salt: bytes
    ) -> None:
        sampling = settings.sampling
        self.sampler = Sampler(salt, sampling.rate, sampling.large_body_rate, sampling.large_body_bytes)
        self.worker = worker
        self.feed = feed
        self.counters = counters
        self.limits = settings.feed
        self.held_bytes = 0
        self.sequence = 0
        self._request_headers = _REQUEST_HEADERS | {name.encode() for name in settings.mirror.forward_headers}
        self._off = sampling.rate <= 0.0 and sampling.large_body_rate <= 0.0
        self._prefix = os.urandom(8).hex()
        self._count = 0
        self._large_body_bytes = sampling.large_body_bytes
        self._looked_to = 0  # up to this number the coins of small bodies are known: those that fall are in _falling
        self._falling: frozenset[int] = frozenset()

    def _id(self, number: int) -> str:
        return f"{self._prefix}{number:08x}"

    def _look_ahead(self) -> None:
        """The coins of the next requests at once: in one loop each costs less than alone, between two system calls."""
        first, self._looked_to = self._looked_to + 1, self._looked_to + LOOK_AHEAD
        decide = self.sampler.decide
        self._falling = frozenset(n for n in range(first, self._looked_to + 1) if decide(self._id(n), 0))

    @_guarded
    def open(self, head: RequestHead, started_s: float) -> Capture | None:
        """The capture of a request that is sampled, or may turn out to be; None for all others."""
        if head.opted_out:
            self.counters.opted_out += 1
            return None
        if self._off or head.method != b"POST" or not head.path.startswith(b"/v1/"):
            self.counters.not_sampled += 1
            return None
        self._count = count = self._count + 1
        if head.chunked or head.length > self._large_body_bytes:
            falls = self.sampler.decide(self._id(count), head.length)
        else:
            if count > self._looked_to:
                self._look_ahead()
            falls = count in self._falling
        if not falls:
            self.counters.not_sampled += 1
            return None
        request_id = self._id(count)
        capture = Capture(self, request_id, head, pick_headers(head.forward, self._request_headers), started_s)
        if not head.chunked:
            capture.mark()
            if head.length > self.limits.max_request_bytes:
                capture.lose(LossReason.REQUEST_TOO_LARGE)
        return capture


class Capture:
    """One exchange as it is copied. Ends in one of: `close`, lost past a bound, never sampled after all."""

    def __init__(self, tee: Tee, request_id: str, head: RequestHead, headers: Headers, started_s: float) -> None:
        self.counters = tee.counters
        self._tee = tee
        self._id = request_id
        self._head = head
        self._request_headers = headers
        self._started_s = started_s
        self._at_unix_s = time.time()
        self._sequence = -1
        # One buffer each: a stream comes in hundreds of pieces, and to keep every piece costs more than to copy it.
        self._request = bytearray()
        self._reply = bytearray()
        self._request_bytes = 0
        self._max_reply_bytes = tee.limits.max_response_bytes
        self._max_held_bytes = tee.limits.max_capture_bytes
        self._held_bytes = 0
        self._status = 0
        self._reply_headers: Headers = ()
        self._ended = False

    def mark(self) -> None:
        """The decision is final: the request is sampled."""
        tee = self._tee
        self._sequence = tee.sequence
        tee.sequence += 1
        self.counters.sampled += 1
        tee.feed.offer(Sampled(self._id, tee.worker, self._sequence, self._at_unix_s))

    @_guarded
    def request(self, data: bytes) -> None:
        """Copies a piece of the request body, transfer coding removed."""
        if self._ended:
            return
        self._request_bytes += len(data)
        if self._sequence < 0 and not self._still_wins():
            self._drop()
        elif self._request_bytes > self._tee.limits.max_request_bytes:
            self.lose(LossReason.REQUEST_TOO_LARGE)
        elif self._tee.held_bytes + len(data) > self._max_held_bytes:
            self.lose(LossReason.CAPTURE_MEMORY)
        else:
            self._request += data
            self._tee.held_bytes += len(data)
            self._held_bytes += len(data)

    @_guarded
    def request_done(self) -> None:
        """The request body is whole: a pending decision is final now."""
        if not self._ended and self._sequence < 0:
            self.mark()

    @_guarded
    def reply_head(self, status: int, head: bytes) -> None:
        """Notes the reply's status and its allow-listed headers."""
        if not self._ended:
            self._status = status
            self._reply_headers = pick_headers(head, _REPLY_HEADERS)

    def reply(self, data: bytes) -> None:
        """Copies a piece of the reply body, transfer coding removed.

        Called for every token of a stream, so the guard and the bounds are written out here.
        """
        try:
            if self._ended:
                return
            size, tee = len(data), self._tee
            if len(self._reply) + size > self._max_reply_bytes:
                self.lose(LossReason.RESPONSE_TOO_LARGE)
            elif tee.held_bytes + size > self._max_held_bytes:
                self.lose(LossReason.CAPTURE_MEMORY)
            else:
                self._reply += data
                tee.held_bytes += size
                self._held_bytes += size
        except Exception:  # noqa: BLE001  as in _guarded
            self.counters.tee_failures += 1
            _log.exception("the tee failed in reply; the client is unaffected")

    @_guarded
    def close(
        self,
        outcome: Outcome,
        *,
        first_byte_s: float | None,
        ended_s: float,
        served_by: ServedBy = ServedBy.CANDIDATE,
    ) -> None:
        """Hands the exchange to the feed, which counts it itself when it cannot take it."""
        if self._ended:
            return
        if self._sequence < 0:
            self.mark()
        head = self._head
        exchange = Exchange(
            id=self._id,
            worker=self._tee.worker,
            sequence=self._sequence,
            at_unix_s=self._at_unix_s,
            method=head.method.decode("latin-1"),
            target=head.target.decode("latin-1"),
            request_headers=self._request_headers,
            request_body=bytes(self._request),
            status=self._status,
            response_headers=self._reply_headers,
            response_body=bytes(self._reply),
            outcome=outcome,
            first_byte_s=None if first_byte_s is None else first_byte_s - self._started_s,
            duration_s=ended_s - self._started_s,
            served_by=served_by,
        )
        self._release()
        self._tee.feed.offer(exchange)

    def lose(self, reason: LossReason) -> None:
        """Abandons the capture; the monitor hears of it at once."""
        if self._sequence < 0:
            self.mark()
        self._release()
        self.counters.lost[reason.value] += 1
        self._tee.feed.offer(Lost(self._id, self._tee.worker, self._sequence, reason))

    def _still_wins(self) -> bool:
        return self._tee.sampler.decide(self._id, self._request_bytes)

    def _drop(self) -> None:
        self._release()
        self.counters.not_sampled += 1

    def _release(self) -> None:
        self._ended = True
        self._tee.held_bytes -= self._held_bytes
        self._held_bytes = 0
        self._request = bytearray()
        self._reply = bytearray()
