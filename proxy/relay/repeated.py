"""Heads that come again: the same bytes as the last on this connection, but for the digits of Content-Length.

A client sends one head over and over, and so does an engine; reading it anew is half of what the relay itself costs a
request. What llhttp and head.py accepted once is accepted again without them: nothing but the digits differs, and those
are checked here. Behind an ingress some lines have another value in each request: an id, a trace, the client's address.
Those that nothing here reads (`_FREE`) may differ too, once they were seen to, as long as their values are plain text.
"""

from __future__ import annotations

import re

from proxy.relay.head import LENGTH, ReplyHead, RequestHead

PATIENCE, SELDOM = 3, 16  # choice: after so many heads that did not come again, only each sixteenth is remembered
MAX_REMEMBERED_BYTES = 4096  # choice: an SDK's head has 600; each connection may hold one, and what is sent for it
_MAX_DIGITS = 18  # as head.py
_MAX_VALUE = 256  # choice: an API key has 164 characters, a traceparent 55
_FREE = (
    rb"[Xx]-(?i:request-id|correlation-id|amzn-trace-id|b3-(?:traceid|spanid|parentspanid|sampled)|forwarded-for|real-ip)|[Tt](?i:raceparent|racestate)|"
    rb"[Aa](?i:uthorization)|[Ii](?i:dempotency-key)"
)
"""Header names whose values head.py does not look at, and that a connection's requests often do not share."""
_PLAIN = re.compile(rb"[!-~]+(?: [!-~]+)*")
"""No control character, no tab, no space at either end: nothing that llhttp would refuse or read in another way."""
_GAP_LINE = re.compile(rb"(\r\n(?:([Cc]ontent-[Ll]ength)|" + _FREE + rb"): )([^\r]{1,256})(?=\r\n)")
_LENGTH_LINE = re.compile(rb"(\r\n[Cc]ontent-[Ll]ength: )([0-9]{1,18})(?=\r\n)")


class RepeatedRequest:
    """The last request head of one client's connection."""

    __slots__ = (
        "_after", "_before", "_changing", "_digits", "_forward_after", "_forward_before", "_head", "_misses", "_pieces",
        "_values",
    )  # fmt: skip

    def __init__(self) -> None:
        self._misses = 0
        self._values: dict[bytes, bytes] = {}  # of the free lines, as last read in full
        self._changing: set[bytes] = set()  # those of them that differed; of this head alone, so a head bounds them
        # Where some did: of each value whether it is the length, and what follows it as read and as sent on.
        self._pieces: tuple[tuple[bool, bytes, bytes], ...] = ()
        self._before = self._after = self._digits = self._forward_before = self._forward_after = b""
        self._head: RequestHead | None = None

    def read(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """The head that `data` begins with and what follows it, if it is the one remembered; else None."""
        last = self._head
        if last is None or not data.startswith(self._before):
            return None
        if self._pieces:
            return self._read_pieces(data, last)
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

    def _read_pieces(self, data: bytes, last: RequestHead) -> tuple[RequestHead, bytes] | None:
        """The same where more than the length may differ."""
        at = len(self._before)
        forward = [self._forward_before]
        digits = b""
        for is_length, piece, sent in self._pieces:
            end = data.find(b"\r", at, at + _MAX_VALUE + 1)
            if end < 0 or not data.startswith(piece, end):
                return None
            value = data[at:end]
            if is_length:
                digits = value
                if len(digits) > _MAX_DIGITS or not digits.isdigit():
                    return None
            elif _PLAIN.fullmatch(value) is None:
                return None
            forward += value, sent
            at = end + len(piece)
        self._misses = 0
        return RequestHead(
            last.method, last.target, last.path, last.http11, b"".join(forward), int(digits),
            False, last.keep_alive, last.expects_continue, last.opted_out,
        ), data[at:]  # fmt: skip

    def remember(self, raw: bytes, head: RequestHead, max_bytes: int) -> None:
        """Keeps an accepted head; `raw` is what was read, its blank line included. Longer ones are let go."""
        self._misses += 1
        if self._misses > PATIENCE and self._misses % SELDOM:
            return
        if head.chunked or len(raw) + _MAX_DIGITS > min(max_bytes, MAX_REMEMBERED_BYTES):
            return
        if self._changes(raw):
            self._remember_pieces(raw, head, max_bytes)
            return
        read, sent = _LENGTH_LINE.search(raw), _LENGTH_LINE.search(head.forward)
        if read is not None and sent is not None:
            self._before, self._digits, self._after = raw[: read.end(1)], read[2], raw[read.end() :]
            self._forward_before, self._forward_after = head.forward[: sent.end(1)], head.forward[sent.end() :]
            self._pieces = ()
            self._head = head

    def _changes(self, raw: bytes) -> bool:
        """Whether any free line of this head has had another value before, in heads that all had it."""
        last, self._values = self._values, {gap[1]: gap[3] for gap in _GAP_LINE.finditer(raw) if not gap[2]}
        changed = {line for line, value in self._values.items() if last.get(line, value) != value}
        self._changing = changed | (self._changing & self._values.keys())
        return bool(self._changing)

    def _remember_pieces(self, raw: bytes, head: RequestHead, max_bytes: int) -> None:
        read, passed = ([gap for gap in _GAP_LINE.finditer(text) if gap[2] or gap[1] in self._changing]
                        for text in (raw, head.forward))  # fmt: skip
        lengths = [gap[2] is not None for gap in read]
        alike = [gap[0] for gap in passed] == [gap[0] for gap in read]  # else a Connection line has taken one out
        grown = len(raw) + _MAX_VALUE * len(read)
        if sum(lengths) == 1 and alike and grown <= min(max_bytes, MAX_REMEMBERED_BYTES):
            self._before, *pieces = _between(raw, read)
            self._forward_before, *sent = _between(head.forward, passed)
            self._pieces = tuple(zip(lengths, pieces, sent, strict=True))
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


def _between(text: bytes, gaps: list[re.Match[bytes]]) -> list[bytes]:
    """What stands around the values of the lines."""
    starts = [0, *(gap.end() for gap in gaps)]
    return [text[start:end] for start, end in zip(starts, [*(gap.end(1) for gap in gaps), len(text)], strict=True)]
