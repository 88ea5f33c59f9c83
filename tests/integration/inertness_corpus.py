"""200 raw requests, as clients of all kinds send them: streaming and not, in both framings, well-formed and not.

Each carries its number in `X-Case`, which crosses the relay and never enters a shadow call: so what the candidate
received for a client can be told from what the monitor asked.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import orjson

from backends.scripted.traffic import sent

CASES = 200
_ODD: tuple[tuple[bytes, bytes, bytes], ...] = (
    (b"GET", b"/v1/models", b""),
    (b"GET", b"/health", b""),
    (b"GET", b"/version", b""),
    (b"GET", b"/v1/models?x=%20y", b""),
    (b"GET", b"/v1/nothing", b""),
    (b"POST", b"/v1/chat/completions", b""),
    (b"POST", b"/v1/chat/completions", b'{"model": "m", "messages": [{"role"'),
    (b"POST", b"/v1/chat/completions", b"\xff\xfe\x00not utf-8\x80"),
    (b"POST", b"/v1/chat/completions", b'{"model": "another", "messages": [{"role": "user", "content": "hi"}]}'),
    (b"POST", b"/v1/chat/completions", b'{"model": "m", "messages": []}'),
    (b"POST", b"/v1/completions", b'{"model": "m", "prompt": ["a", "b"], "max_tokens": 3, "unknown": {"x": [1e400]}}'),
    (b"POST", b"/v1/completions", b'{"model": "m", "prompt": [3, 4, 5], "max_tokens": 4, "stream": true}'),
    (b"POST", b"/v1/embeddings", b'{"model": "m", "input": "hi"}'),
    (b"POST", b"/v1/chat/completions", b'[{"deep": ' * 3000 + b"1"),
)


def corpus() -> list[bytes]:
    """The requests, raw, in order; the same at every call."""
    traffic = list(islice(sent(20261123), CASES))
    requests = []
    for number in range(CASES):
        if number % 8 == 7:
            method, path, body = _ODD[number // 8 % len(_ODD)]
        else:
            one = traffic[number]
            method, path, body = b"POST", one.path.encode(), _written(number, {**one.body, "user": "ü-☃"})
        requests.append(_raw(number, method, path, body))
    return requests


def _written(number: int, body: dict[str, Any]) -> bytes:
    """The same JSON as different clients write it."""
    if number % 31 == 5:
        body = {**body, "metadata": {"padding": "x" * 300_000}}
    if number % 3 == 0:
        return json.dumps(body, indent=1).encode()
    if number % 3 == 1:
        return json.dumps(body, ensure_ascii=False, separators=(" , ", " :")).encode()
    return orjson.dumps(body)


def _raw(number: int, method: bytes, path: bytes, body: bytes) -> bytes:
    lines = [
        b"%b %b HTTP/1.1" % (method, path),
        b"Host: api.example.com",
        b"X-Case: %d" % number,
        b"Authorization: Bearer sk-client-%d" % number,
        b"cookie: a=1",
        b"X-Dup: one",
        b"x-dup:  two ",
        b"User-Agent: tester/1 \xe4",
    ]
    if number % 9 == 2:
        lines.append(b"x-parity-mirror: OFF")
    if number % 4 == 1:
        lines.append(b"Accept-Encoding: gzip, br")
    if method == b"GET":
        return b"\r\n".join([*lines, b"", b""])
    lines.append(b"Content-Type: application/json")
    if number % 5 == 3:
        pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", framed])
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
