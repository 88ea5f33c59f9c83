"""The candidate of the benchmark: one fixed reply of 1 KB, or a stream of events at a stated pace; to a shadow call a
reply with logprobs, as large as a reference's.

All streams of one pace take one step together, as a batching engine's do. A stream's content is the time at which the
event left, so that every client knows how long each was on its way whatever the proxy does to the event.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_STREAM = re.compile(rb'"stream": ?true')
_SHADOW = re.compile(rb'"logprobs": ?true')
_EVENTS = re.compile(rb"\"max_(?:completion_)?tokens\": ?([0-9]+)")
_PACE_MS = re.compile(rb'"seed": ?([0-9]+)')
REPLY_BYTES = 1024
TIME_CHARS = 17
STEERED_BYTES = 1024  # a proxy that writes the request anew adds fields of its own

_MESSAGE = (
    b'{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":9,"total_tokens":12}}'
)
_EVENT = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
)
_LAST_EVENT = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
)
_BODY = _MESSAGE % (b"x" * (REPLY_BYTES - len(_MESSAGE) + 2))
_SCORED_TOKENS, _TOP = 200, 20


def _scored() -> bytes:
    """A reply as a shadow call gets it from vLLM: every token with its alternatives."""
    alternatives = b",".join(
        b'{"token":"token_id:%d","logprob":-%d.%04d,"bytes":[32,116,111,107]}' % (n, n, 5000 + n) for n in range(_TOP)
    )
    tokens = b",".join(
        b'{"token":"token_id:%d","logprob":-0.5000,"bytes":[32,116,111,107],"top_logprobs":[%b]}' % (n, alternatives)
        for n in range(_SCORED_TOKENS)
    )
    ids = b",".join(b"%d" % n for n in range(_SCORED_TOKENS))
    return (
        b'{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench",'
        b'"prompt_token_ids":[1,2,3],"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},'
        b'"logprobs":{"content":[%b]},"token_ids":[%b],"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":3,"completion_tokens":%d,"total_tokens":%d}}'
    ) % (b"x" * 800, tokens, ids, _SCORED_TOKENS, _SCORED_TOKENS + 3)


def json_reply(body: bytes) -> bytes:
    """The whole message with that body."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


_REPLY = json_reply(_BODY)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_STREAM_END = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (_LAST_EVENT, b"data: [DONE]\n\n")) + b"0\r\n\r\n"
# What peers ask before they take an engine on.
_ASIDE = {
    b"/v1/models": b'{"object":"list","data":[{"id":"bench","object":"model","owned_by":"bench"}]}',
    b"/get_model_info": b'{"model_path":"bench","served_model_name":"bench","is_generation":true}',
    b"/get_server_info": b'{"model_path":"bench","served_model_name":"bench","dp_size":1}',
}


def asked_tokens(body: bytes) -> int:
    """The `max_tokens` of a request, by the end of its body; 0 without."""
    found = _EVENTS.search(body)
    return int(found[1]) if found else 0


class Canned:
    """One engine for many connections. `scored` are its replies to shadow calls, in turn."""

    def __init__(self, scored: Sequence[bytes] = ()) -> None:
        self.replies = [json_reply(body) for body in scored or (_scored(),)]
        self._in_turn = itertools.cycle(self.replies)
        self._beats: dict[int, list[_Connection]] = {}

    async def listen(self) -> tuple[asyncio.Server, int]:
        """The server, and its port on loopback."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=2048)
        return server, int(server.sockets[0].getsockname()[1])

    def reply(self, _body: bytes) -> bytes:
        """What a client gets that wants no stream, whatever it asked."""
        return _REPLY

    def shadow_reply(self, _body: bytes) -> bytes:
        """The next of them, whatever was asked."""
        return next(self._in_turn)

    def stream(self, connection: _Connection, pace_ms: int) -> None:
        """The connection takes part in the next step of its pace."""
        if pace_ms not in self._beats:
            self._beats[pace_ms] = []
            asyncio.get_running_loop().call_later(pace_ms / 1000, self._step, pace_ms)
        self._beats[pace_ms].append(connection)

    def _step(self, pace_ms: int) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        event = _EVENT % (b"%017.6f" % time.monotonic())
        piece = b"%x\r\n%b\r\n" % (len(event), event)
        going = [connection for connection in self._beats[pace_ms] if connection.event(piece)]
        if going:
            self._beats[pace_ms] = going
            loop.call_at(due_s + pace_ms / 1000, self._step, pace_ms)
        else:
            del self._beats[pace_ms]


async def listening(stack: AsyncExitStack, engine: Canned) -> int:
    """The port of an engine that serves until the stack is closed."""
    server, port = await engine.listen()
    stack.callback(server.close)
    return port


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, engine: Canned) -> None:
        self._engine = engine
        self._held = bytearray()
        self._whole = 0
        self._chunked = False
        self._events_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        held = self._held
        held += data
        if not self._whole:
            end = held.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(held, 0, end)
            self._whole = end + 4 + (int(length[1]) if length else 0)
            self._chunked = _CHUNKED.search(held, 0, end) is not None
        if self._chunked and not held.endswith(b"\r\n0\r\n\r\n"):
            return
        if self._chunked or len(held) >= self._whole:
            if self._chunked:
                self._whole = len(held)  # nobody pipelines here
            # The fields that steer come after the prompt, so that a large body is not searched.
            request, body = bytes(held[:200]), bytes(held[max(0, self._whole - STEERED_BYTES) : self._whole])
            del held[: self._whole]
            self._whole = 0
            self._answer(request, body)

    def _answer(self, request: bytes, body: bytes) -> None:
        if request.startswith(b"PRI "):  # a peer tries HTTP/2
            self.transport.abort()
        elif request.startswith(b"GET "):
            said = _ASIDE.get(request.split(b" ", 2)[1], b"{}")
            self.transport.write(json_reply(said))
        elif _STREAM.search(body):
            pace_ms = _PACE_MS.search(body)
            self._events_left = asked_tokens(body) or 1
            self.transport.write(_STREAM_HEAD)
            self._engine.stream(self, int(pace_ms[1]) if pace_ms else 5)
        else:
            self.transport.write(self._engine.shadow_reply(body) if _SHADOW.search(body) else self._engine.reply(body))

    def event(self, piece: bytes) -> bool:
        """Sends one event of the stream; False once it has ended."""
        if self.transport.is_closing():
            return False
        self.transport.write(piece)
        self._events_left -= 1
        if self._events_left:
            return True
        self.transport.write(_STREAM_END)
        return False
