"""What the relay answers in its own name, in OpenAI's error shape. An upstream's 4xx and 5xx is none of these.

    RefusedError(Refusal)   raised by the pure rooms (head, chunked), caught by the client's side

The bodies are constants, so that no JSON is built while serving.
"""

from __future__ import annotations

from enum import Enum

_BODY = b'{"error":{"message":"%b","type":"%b","param":null,"code":"%b"}}'
_HEAD = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"


class Refusal(Enum):
    """One reason to answer ourselves: status line, type, code, message, and the key of RelayCounters.errors."""

    BAD_HEAD = (400, b"Bad Request", b"bad_request", b"The request head is malformed.", "refused_head")
    BAD_FRAMING = (400, b"Bad Request", b"bad_framing", b"The length of the body is ambiguous.", "refused_head")
    BAD_HOST = (400, b"Bad Request", b"bad_host", b"One valid Host header is required.", "refused_head")
    BAD_TARGET = (400, b"Bad Request", b"bad_target", b"The request target is malformed.", "refused_head")
    BAD_BODY = (400, b"Bad Request", b"bad_chunk", b"The chunked body is malformed.", "refused_body")
    UNKNOWN_PATH = (
        404,
        b"Not Found",
        b"unknown_path",
        b"This path is not served; /v1/ is, and relay.allow_paths.",
        "unknown_path",
    )
    BAD_METHOD = (405, b"Method Not Allowed", b"bad_method", b"This method is not served.", "refused_head")
    SLOW_HEAD = (408, b"Request Timeout", b"head_timeout", b"The request head took too long.", "client_timeout")
    SLOW_BODY = (408, b"Request Timeout", b"body_timeout", b"The request body stalled.", "client_timeout")
    LARGE_BODY = (413, b"Payload Too Large", b"body_too_large", b"The request body is too large.", "refused_body")
    LARGE_HEAD = (
        431,
        b"Request Header Fields Too Large",
        b"head_too_large",
        b"The request head is too large.",
        "refused_head",
    )
    BAD_CODING = (501, b"Not Implemented", b"bad_coding", b"Only the chunked coding is known.", "refused_head")
    CONNECT = (502, b"Bad Gateway", b"candidate_unreachable", b"The model server cannot be reached.", "connect")
    CUT = (502, b"Bad Gateway", b"candidate_closed", b"The model server closed before it replied.", "cut")
    BAD_REPLY = (502, b"Bad Gateway", b"candidate_garbled", b"The model server sent no valid reply.", "bad_reply")
    OVERLOAD = (503, b"Service Unavailable", b"overloaded", b"Too many requests in flight; retry later.", "overload")
    CONNECT_TIMEOUT = (
        504,
        b"Gateway Timeout",
        b"candidate_connect_timeout",
        b"The model server did not accept a connection in time.",
        "connect",
    )
    FIRST_BYTE_TIMEOUT = (
        504,
        b"Gateway Timeout",
        b"candidate_timeout",
        b"The model server did not begin a reply in time.",
        "first_byte_timeout",
    )

    def __init__(self, status: int, reason: bytes, code: bytes, message: bytes, counter: str) -> None:
        self.status = status
        self.counter = counter
        kind = b"invalid_request_error" if status < 500 else b"server_error"
        self._line = b"%d %b" % (status, reason)
        self._body = _BODY % (message, kind, code)

    def reply(self, *, retry_after_s: int, close: bool, head_only: bool) -> bytes:
        """The whole reply. `retry_after_s` is told on 503 only."""
        extra = b"Retry-After: %d\r\n" % retry_after_s if self.status == 503 else b""
        if close:
            extra += b"Connection: close\r\n"
        head = _HEAD % (self._line, len(self._body), extra)
        return head if head_only else head + self._body


class RefusedError(Exception):
    """The request cannot be served; `refusal` is what the client is told."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.name)
        self.refusal = refusal
