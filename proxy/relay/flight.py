"""One request in flight: its body on the way to the candidate, the reply on the way back, and how it ends.

Nothing is sent to the client before the reply's head is whole. Once it is, a failure can only cut the reply short.

Latency added, counted once per request whose reply began: from the request's first byte read to its head leaving for
the candidate, plus from the reply's head read to its leaving for the client. Waiting for a new connection is in it, and
for a client that sends its head in pieces; what the kernel holds is not, nor the bodies, which pass at the same cost.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import Protocol

from proxy.exchange import Outcome, ServedBy
from proxy.metrics import route_of
from proxy.relay.arms import Arms, Spare
from proxy.relay.candidate import CandidateConnection, ConnectError
from proxy.relay.capture import Capture
from proxy.relay.chunked import ChunkedBody
from proxy.relay.head import CHUNKED, UNTIL_CLOSE, ReplyHead, RequestHead
from proxy.relay.refusal import Refusal, RefusedError
from proxy.relay.worker import Worker

COPY_BELOW_BYTES = 4096  # choice: below, one joined write is cheaper than a vector of three


class Owner(Protocol):
    """The client's connection, as seen from here."""

    transport: asyncio.Transport
    write_paused: bool

    def pace_reading(self) -> None: ...
    def hold(self, data: bytes) -> None: ...
    def flight_ended(self, now_s: float, *, close: bool, linger: bool) -> None: ...
    def flight_refused(self, refusal: Refusal, head: RequestHead, *, close: bool) -> None: ...
    def flight_cut(self, *, reset: bool) -> None: ...


class Flight:
    """From an accepted head to the end of the reply. `over` is True once all that it held was given back."""

    over = False
    upload_paused = False
    _candidate: CandidateConnection | None = None
    _capture: Capture | None = None
    _connecting: asyncio.Task[None] | None = None
    _chunked: ChunkedBody | None = None
    _served_by = ServedBy.CANDIDATE
    _spare: Spare | None = None
    _unsent_bytes = _body_bytes = _status = 0
    _rechunk = _undelimited = _close_after = False
    _pending_head = b""
    _first_byte_s: float | None = None
    _sent_s = 0.0
    _first_byte_deadline_s = _body_deadline_s = inf

    def __init__(self, owner: Owner, worker: Worker, head: RequestHead, started_s: float) -> None:
        self._owner = owner
        self._worker = worker
        self._settings = worker.settings
        self._counters = worker.counters
        self._head = head
        self._pool = worker.pool
        self._started_s = started_s
        self._write = owner.transport.write
        self._unsent: list[bytes] = []
        self._left = head.length
        if head.chunked:
            self._chunked = ChunkedBody()
        self.body_whole = not head.chunked and not head.length
        worker.counters.in_flight += 1

    def start(self, rest: bytes) -> None:
        """Goes for a connection; `rest` are the bytes that came with the head."""
        now_s = time.monotonic()  # the head's first byte may be long past
        if self._worker.arms is not None:
            self._choose(self._worker.arms)
        elif len(rest) == self._left and self._chunked is None and not self._head.expects_continue:
            candidate = self._pool.take(now_s)
            if candidate is not None:
                self._start_whole(candidate, rest, now_s)
                return
        if not self.body_whole:
            self._body_deadline_s = now_s + self._settings.body_idle_timeout_s
            if self._head.expects_continue:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._chunked is not None:
            self._capture = self._worker.tee.open(self._head, self._started_s)
        # The body first: what came with the head also leaves with it, in one write.
        if self.body_whole:
            self._end_body(rest)
        elif rest:
            self.read_body(rest)
            if self.over:
                return
        self._go(now_s)
        if self._chunked is None:
            self._tee_late(rest[: self._head.length])

    def _start_whole(self, candidate: CandidateConnection, body: bytes, now_s: float) -> None:
        """The usual start in one piece: the whole body came with the head, and a connection is free."""
        head = self._head
        self.body_whole = True
        self._candidate = candidate
        self._first_byte_deadline_s = now_s + self._settings.first_byte_timeout_s
        candidate.begin(self, to_head_request=head.method == b"HEAD", to_http11=head.http11)
        if len(body) < COPY_BELOW_BYTES:
            try:
                candidate.transport.write(head.forward + body)
            except RuntimeError:
                pass  # as in _write_together
        else:
            _write_together(candidate.transport, (head.forward, body))
        self._sent_s = time.monotonic()
        if self._owner.write_paused:
            candidate.pause_reading()
        self._tee_late(body)

    def _choose(self, arms: Arms) -> None:
        self._served_by = arms.choose(self._head)
        if self._served_by is ServedBy.REFERENCE:
            self._pool = arms.reference
        self._spare = arms.spare(self._served_by)

    def _go(self, now_s: float) -> None:
        candidate = self._pool.take(now_s)
        if candidate is not None:
            self._attach(candidate, now_s)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._bound_unsent()

    def _tee_late(self, body: bytes) -> None:
        """Opens the capture once the candidate has the request: watching begins when it delays nothing.

        A chunked body cannot wait for that: its pieces are only told apart as they are read.
        """
        capture = self._worker.tee.open(self._head, self._started_s)
        if capture is not None:
            if body:
                capture.request(body)
            if self.body_whole:
                capture.request_done()
            self._capture = capture

    async def _connect(self) -> None:
        try:
            candidate = await self._pool.connect()
        except ConnectError as error:
            self._connecting = None
            self.candidate_failed(error.refusal)
        else:
            self._connecting = None
            self._attach(candidate, time.monotonic())

    def _attach(self, candidate: CandidateConnection, now_s: float) -> None:
        head = self._head
        self._candidate = candidate
        self._first_byte_deadline_s = now_s + self._settings.first_byte_timeout_s
        unsent, self._unsent = self._unsent, []
        if self.upload_paused:
            self.resume_upload()
        candidate.begin(self, to_head_request=head.method == b"HEAD", to_http11=head.http11)
        if self._spare is not None:
            self._spare.add(*unsent)
        self._to_candidate(head.forward, *unsent)
        self._sent_s = time.monotonic()
        if self._owner.write_paused:  # the client has not read the reply before this one yet
            candidate.pause_reading()

    # the body, to the candidate

    def read_body(self, data: bytes) -> None:
        """Takes bytes of the client's body; what follows its end is held by the owner."""
        if self._chunked is None:
            left = self._left
            body, rest = (data, b"") if len(data) <= left else (data[:left], data[left:])
            self._left -= len(body)
            whole = not self._left
        else:
            try:
                body, rest = self._chunked.feed(data)
            except RefusedError as refused:
                self.fail(refused.refusal, Outcome.CLIENT_CLOSED)
                return
            whole = self._chunked.done
        self._body_bytes += len(body)
        if self._body_bytes > self._settings.max_body_bytes:
            self.fail(Refusal.LARGE_BODY, Outcome.CLIENT_CLOSED)
            return
        if not whole:
            self._body_deadline_s = time.monotonic() + self._settings.body_idle_timeout_s
        if body:
            self._upload(body if self._chunked is None else b"%x\r\n%b\r\n" % (len(body), body))
            if self._capture is not None:
                self._capture.request(body)
        if whole:
            if self._chunked is not None:
                self._upload(b"0\r\n\r\n")
            self._end_body(rest)

    def _upload(self, data: bytes) -> None:
        if self._candidate is not None:
            if not self._status:
                self._first_byte_deadline_s = time.monotonic() + self._settings.first_byte_timeout_s
            if self._spare is not None:
                self._spare.add(data)
            self._to_candidate(data)
            return
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        self._bound_unsent()

    def _to_candidate(self, *parts: bytes) -> None:
        if self._candidate is not None:
            _write_together(self._candidate.transport, parts)

    def _bound_unsent(self) -> None:
        if self._connecting is not None and self._unsent_bytes > self._settings.write_buffer_bytes:
            self.pause_upload()

    def _end_body(self, rest: bytes) -> None:
        self.body_whole = True
        self._body_deadline_s = inf
        self.resume_upload()  # from here on reading serves to see the client leave
        if self._capture is not None:
            self._capture.request_done()
        if rest:
            self._owner.hold(rest)

    def pause_upload(self) -> None:
        if not self.body_whole and not self.upload_paused:
            self.upload_paused = True
            self._body_deadline_s = inf  # the client is not to blame now
            self._owner.pace_reading()

    def resume_upload(self) -> None:
        if self.upload_paused:
            self.upload_paused = False
            if not self.body_whole:
                self._body_deadline_s = time.monotonic() + self._settings.body_idle_timeout_s
            self._owner.pace_reading()

    # the reply, to the client

    def reply_head(self, reply: ReplyHead) -> None:
        assert self._candidate is not None, "a reply comes from a candidate"
        self._first_byte_s = first_byte_s = self._candidate.read_s
        self._first_byte_deadline_s = inf
        self._counters.observe_first_byte(first_byte_s - self._started_s)
        self._status = reply.status
        if self._spare is not None:
            self._drop_spare(self._spare)
        http11 = self._head.http11
        close = self._worker.draining or not self._head.keep_alive or not self.body_whole
        ending = b"\r\n\r\n"
        if reply.framing in (CHUNKED, UNTIL_CLOSE):
            if http11:
                self._rechunk = True
                if reply.framing == UNTIL_CLOSE:
                    ending = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
            else:
                self._undelimited = close = True
        if close:
            ending = b"\r\nConnection: close" + ending
        elif not http11:
            ending = b"\r\nConnection: keep-alive" + ending
        self._close_after = close
        self._pending_head = reply.kept + ending

    def reply_body(self, data: bytes) -> None:
        if self._pending_head or len(data) >= COPY_BELOW_BYTES:
            self._write_all(data, b"\r\n" if self._rechunk else b"")
        else:
            try:
                self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._rechunk else data)
            except RuntimeError:
                pass  # uvloop's word for a transport just closed: connection_lost is on its way
        self._counters.bytes_out += len(data)
        if self._capture is not None:
            self._capture.reply(data)

    def reply_flush(self) -> None:
        """Nothing came with the reply's head: it goes out alone."""
        if self._pending_head:
            self._write_all(b"", b"")

    def _write_all(self, data: bytes, ending: bytes) -> None:
        """One write of whatever waits: the head, this piece of the body, the end of its chunk or of all chunks."""
        framed = self._rechunk and data
        head, self._pending_head = self._pending_head, b""
        if not framed and len(data) < COPY_BELOW_BYTES:
            try:
                self._write(head + data + ending)
            except RuntimeError:
                pass  # as above
        else:
            _write_together(self._owner.transport, (head, b"%x\r\n" % len(data) if framed else b"", data, ending))
        if not head:
            return
        self._counters.bytes_out += len(head)
        if self._first_byte_s is not None:
            before, after = self._sent_s - self._started_s, time.monotonic() - self._first_byte_s
            self._counters.observe_latency_added(before + after)
        if self._capture is not None:
            self._capture.reply_head(self._status, head)

    def reply_end(self, data: bytes) -> None:
        """The reply is whole; `data` is the last of it."""
        last = b"" if not self._rechunk else b"\r\n0\r\n\r\n" if data else b"0\r\n\r\n"
        self._write_all(data, last)
        if data:
            self._counters.bytes_out += len(data)
            if self._capture is not None:
                self._capture.reply(data)
        now_s = self._finish(Outcome.COMPLETE, self._status)
        self._owner.flight_ended(now_s, close=self._close_after, linger=not self.body_whole)

    def pause_reply(self) -> None:
        if self._candidate is not None:
            self._candidate.pause_reading()

    def resume_reply(self) -> None:
        if self._candidate is not None:
            self._candidate.resume_reading()

    # endings

    def candidate_failed(self, refusal: Refusal) -> None:
        sent = None if self._spare is None or self.over else self._spare.use(refusal)
        if sent is None:
            self.fail(refusal, Outcome.CANDIDATE_FAILED)
        else:
            self._counters.errors[refusal.counter] += 1
            self._fail_over(sent)

    def _fail_over(self, sent: list[bytes]) -> None:
        """The reference answers instead, once: the client has seen nothing, and its body so far is still here."""
        assert self._worker.arms is not None, "a spare comes from the arms"
        now_s = time.monotonic()
        self._spare = None
        self._served_by = ServedBy.FAILOVER
        self._pool = self._worker.arms.reference
        self._first_byte_deadline_s = inf
        if self._candidate is not None:
            self._candidate.release(now_s, reuse=False)
            self._candidate = None
        self._unsent = sent + self._unsent
        self._unsent_bytes = sum(map(len, self._unsent))
        self._go(now_s)

    def fail(self, refusal: Refusal, outcome: Outcome) -> None:
        """It cannot be served: an answer of ours, or a reply that is visibly cut short."""
        if self.over:
            return
        self._counters.errors[refusal.counter] += 1
        if self._status and not self._pending_head:
            self._finish(outcome, 0)
            # A missing length or last chunk shows the cut; to HTTP/1.0 without a length only a reset does.
            self._owner.flight_cut(reset=self._undelimited)
        else:
            self._pending_head = b""
            self._finish(outcome, refusal.status)
            self._owner.flight_refused(refusal, self._head, close=not self.body_whole)

    def client_gone(self) -> None:
        """The client left: the candidate must stop generating at once."""
        if not self.over:
            self._counters.client_disconnects += 1
            self._finish(Outcome.CLIENT_CLOSED, 0)

    def _drop_spare(self, spare: Spare) -> None:
        spare.drop()
        self._spare = None

    def sweep(self, now_s: float) -> None:
        if self._first_byte_deadline_s <= now_s:
            self.fail(Refusal.FIRST_BYTE_TIMEOUT, Outcome.CANDIDATE_FAILED)
        elif self._body_deadline_s <= now_s:
            self.fail(Refusal.SLOW_BODY, Outcome.CLIENT_CLOSED)

    def _finish(self, outcome: Outcome, status: int) -> float:
        """The one way out of flight, and its time; all that the request holds is given back here."""
        now_s = time.monotonic()
        self.over = True
        self.upload_paused = False
        self._counters.in_flight -= 1
        self._counters.count_request(route_of(self._head.path), status)
        self._unsent = []
        if self._spare is not None:
            self._drop_spare(self._spare)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._candidate is not None:
            self._candidate.release(now_s, reuse=outcome is Outcome.COMPLETE and self.body_whole)
            self._candidate = None
        if self._capture is not None:
            self._capture.close(outcome, first_byte_s=self._first_byte_s, ended_s=now_s, served_by=self._served_by)
            self._capture = None
        return now_s


def _write_together(transport: asyncio.Transport, parts: tuple[bytes, ...]) -> None:
    """One write, so one system call, for all parts."""
    try:
        if len(parts) == 1:
            transport.write(parts[0])
        elif sum(map(len, parts)) < COPY_BELOW_BYTES:
            transport.write(b"".join(parts))
        else:
            transport.writelines([part for part in parts if part])
    except RuntimeError:
        pass  # uvloop's word for a transport just closed: connection_lost is on its way
