"""A client's chunked body, read strictly.

httptools exposes neither llhttp's pause nor its position, so it cannot say where a chunked request ends and the
next pipelined one begins; this does. RefusedError where parsers are known to disagree: bare LF, space around the size,
sizes past 15 digits, over-long size lines and trailers. Extensions and trailers are dropped, as nginx does.
"""

from __future__ import annotations

import re

from proxy.relay.refusal import Refusal, RefusedError

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?")
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")
MAX_SIZE_LINE_BYTES = 1024  # choice: a size with a signature extension is under 200
MAX_TRAILER_BYTES = 8192  # choice

_AT_SIZE, _IN_DATA, _AT_DATA_END, _IN_TRAILER = range(4)


class ChunkedBody:
    """One body, fed as it arrives. `done` is True once its last byte was read."""

    __slots__ = ("_held", "_left", "_state", "_trailer_bytes", "done")

    def __init__(self) -> None:
        self.done = False
        self._state = _AT_SIZE
        self._left = 0
        self._held = b""
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The body bytes in `data`, and what follows the end of the body.

        Raises:  RefusedError.
        """
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        at = 0
        while not self.done:
            if self._state == _AT_SIZE:  # whole chunks at a glance: a body may come in very many
                while line := _PLAIN_SIZE.match(data, at):
                    start = line.end()
                    end = start + int(line[1], 16)
                    if end == start or data[end : end + 2] != b"\r\n":
                        break
                    pieces.append(data[start:end])
                    at = end + 2
            if self._state == _IN_DATA:
                piece = data[at : at + self._left]
                if piece:
                    pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._state = _AT_DATA_END
            end = self._line_end(data, at)
            if end < 0:
                self._held = data[at:]
                break
            self._take_line(data[at:end])
            at = end + 2
        return b"".join(pieces) if len(pieces) != 1 else pieces[0], data[at:] if self.done else b""

    def _line_end(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        length = (end if end >= 0 else len(data)) - at
        allowed = 1 if self._state == _AT_DATA_END else MAX_SIZE_LINE_BYTES
        if self._state == _IN_TRAILER:
            allowed = MAX_TRAILER_BYTES
        if length > allowed or (end < 0 and b"\n" in data[at:]):
            raise RefusedError(Refusal.BAD_BODY)
        return end

    def _take_line(self, line: bytes) -> None:
        if self._state == _AT_DATA_END:
            if line:
                raise RefusedError(Refusal.BAD_BODY)
            self._state = _AT_SIZE
        elif self._state == _AT_SIZE:
            size = _SIZE.fullmatch(line)
            if size is None:
                raise RefusedError(Refusal.BAD_BODY)
            self._left = int(size[1], 16)
            self._state = _IN_DATA if self._left else _IN_TRAILER
        elif not line:
            self.done = True
        else:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > MAX_TRAILER_BYTES or _TRAILER.fullmatch(line) is None:
                raise RefusedError(Refusal.BAD_BODY)
