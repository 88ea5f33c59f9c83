"""Heads that come again: the same bytes as the last on this connection, but for the digits of Content-Length.

A client sends one head over and over, and so does an engine; reading it anew is half of what the relay itself costs a
request. What llhttp and head.py accepted once is accepted again without them: nothing but the digits differs, and those
are checked here. A head with an id of its own in each request is simply read each time.
"""

from __future__ import annotations

import re

from proxy.relay.head import LENGTH, ReplyHead, RequestHead

PATIENCE, SELDOM = 3, 16  # choice: after so many heads that did not come again, only each sixteenth is remembered
MAX_REMEMBERED_BYTES = 4096  # choice: an SDK's head has 600; each connection may hold one, and what is sent for it
_MAX_DIGITS = 18  # as head.py
_LENGTH_LINE = re.compile(rb"(\r\n[Cc]ontent-[Ll]ength: )([0-9]{1,18})(?=\r\n)")


class RepeatedRequest:
    """The last request head of one client's connection."""

    __slots__ = ("_after", "_before", "_digits", "_forward_after", "_forward_before", "_head", "_misses")

    def __init__(self) -> None:
        self._misses = 0
        self._before = self._after = self._digits = self._forward_before = self._forward_after = b""
        self._head: RequestHead | None = None

    def read(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """The head that `data` begins with and what follows it, if it is the one remembered; else None."""
        last = self._head
        if last is None or not data.startswith(self._before):
            return None
        at = len(self._before)
        end = data.find(b"\r", at, at + _MAX_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return None
        digits = data[at:end]
        self._misses = 0
        if digits != self._digits:
            if not digits.isdigit():
                return None
            self._digits = digits
            self._head = last = RequestHead(
                last.method, last.target, last.path, last.http11,
                self._forward_before + digits + self._forward_after, int(digits),
                False, last.keep_alive, last.expects_continue, last.opted_out,
            )  # fmt: skip
        return last, data[end + len(self._after) :]

    def remember(self, raw: bytes, head: RequestHead, max_bytes: int) -> None:
        """Keeps an accepted head; `raw` is what was read, its blank line included. Longer ones are let go."""
        self._misses += 1
        if self._misses > PATIENCE and self._misses % SELDOM:
            return
        if head.chunked or len(raw) + _MAX_DIGITS > min(max_bytes, MAX_REMEMBERED_BYTES):
            return
        read, sent = _LENGTH_LINE.search(raw), _LENGTH_LINE.search(head.forward)
        if read is not None and sent is not None:
            self._before, self._digits, self._after = raw[: read.end(1)], read[2], raw[read.end() :]
            self._forward_before, self._forward_after = head.forward[: sent.end(1)], head.forward[sent.end() :]
            self._head = head


class RepeatedReply:
    """The last reply head of one connection to an engine: of replies with a length, to requests that want a body."""

    __slots__ = ("_after", "_before", "_kept_after", "_kept_before", "_misses", "_reusable", "_status")

    def __init__(self) -> None:
        self._misses = 0
        self._before = self._after = self._kept_before = self._kept_after = b""
        self._status = 0
        self._reusable = False

    def read(self, data: bytes) -> tuple[ReplyHead, bytes] | None:
        """As `RepeatedRequest.read`."""
        if not self._status or not data.startswith(self._before):
            return None
        at = len(self._before)
        end = data.find(b"\r", at, at + _MAX_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return None
        digits = data[at:end]
        if not digits.isdigit():
            return None
        self._misses = 0
        kept = self._kept_before + digits + self._kept_after
        return ReplyHead(self._status, kept, LENGTH, int(digits), self._reusable), data[end + len(self._after) :]

    def remember(self, raw: bytes, reply: ReplyHead) -> None:
        """Keeps an accepted head; `raw` is what was read, its blank line included."""
        self._misses += 1
        if self._misses > PATIENCE and self._misses % SELDOM:
            return
        if reply.framing != LENGTH or len(raw) > MAX_REMEMBERED_BYTES:
            return
        read, kept = _LENGTH_LINE.search(raw), _LENGTH_LINE.search(reply.kept + b"\r\n")
        if read is not None and kept is not None:
            self._before, self._after = raw[: read.end(1)], raw[read.end() :]
            self._kept_before, self._kept_after = reply.kept[: kept.end(1)], reply.kept[kept.end() :]
            self._status, self._reusable = reply.status, reply.reusable
