"""The pairs of the monitor's benchmark: a client's stream of 256 tokens with a tool call, and both arms with top 20.

As vLLM writes them: every token by its id with 20 alternatives and their bytes, each logprob a float32 in all its
digits, no two replies alike, the arms apart in the logprobs' last digits and, in a share of the pairs, in one argument
of the call.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from proxy.exchange import Exchange, Outcome

TOKENS, TOP = 256, 20
TOOL = {
    "type": "function",
    "function": {
        "name": "book_table",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "people": {"type": "integer"}, "outside": {"type": "boolean"}},
            "required": ["city", "people"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class PairBytes:
    """One request, what its client got, and what each arm's shadow call answers."""

    request: bytes
    served: bytes
    candidate: bytes
    reference: bytes


def pairs(number: int, *, body_bytes: int = 2048, seed: int = 3, differing: float = 0.05) -> list[PairBytes]:
    """So many different pairs."""
    draw = random.Random(seed)
    return [_pair(draw, body_bytes, draw.random() < differing) for _ in range(number)]


def exchange(pair: PairBytes, sequence: int, worker: str) -> Exchange:
    """The pair as a relay's worker hands it on."""
    return Exchange(
        id=f"{worker}{sequence:08x}",
        worker=worker,
        sequence=sequence,
        at_unix_s=time.time(),
        method="POST",
        target="/v1/chat/completions",
        request_headers=((b"content-type", b"application/json"),),
        request_body=pair.request,
        status=200,
        response_headers=((b"content-type", b"text/event-stream; charset=utf-8"),),
        response_body=pair.served,
        outcome=Outcome.COMPLETE,
        first_byte_s=0.1,
        duration_s=2.0,
    )


def _pair(draw: random.Random, body_bytes: int, differs: bool) -> PairBytes:
    city = f"City {draw.randrange(10**6)}"
    request = orjson.dumps(
        {
            "model": "bench",
            "messages": [{"role": "user", "content": f"A table for 4 in {city}. " + "lorem " * (body_bytes // 6)}],
            "tools": [TOOL],
            "temperature": 0,
            "stream": True,
            "max_tokens": 512,
        }
    )
    call = {"city": city, "people": 4, "outside": True}
    words = [f" w{draw.randrange(30_000)}" for _ in range(TOKENS - 16)]
    steps = [(draw.randrange(150_000), -draw.random() * 0.3) for _ in range(TOKENS)]
    theirs = {**call, "people": 5} if differs else call
    return PairBytes(
        request=request,
        served=_streamed(words, call),
        candidate=_whole(draw, words, call, steps, 0.0),
        reference=_whole(draw, words, theirs, steps, 0.01),
    )


def _streamed(words: list[str], call: dict[str, Any]) -> bytes:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "bench"}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    arguments = orjson.dumps(call).decode()
    function = {"name": "book_table", "arguments": ""}
    deltas.append({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]})
    deltas += [
        {"tool_calls": [{"index": 0, "function": {"arguments": arguments[at : at + 4]}}]}
        for at in range(0, len(arguments), 4)
    ]
    events = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    return b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events) + b"data: [DONE]\n\n"


def _whole(
    draw: random.Random, words: list[str], call: dict[str, Any], steps: list[tuple[int, float]], noise: float
) -> bytes:
    content = []
    for token, logprob in steps:
        top = [
            _entry((token + rank * 17) % 150_000, logprob - rank * 0.7 + draw.uniform(-noise, noise))
            for rank in range(TOP)
        ]
        content.append({**top[0], "top_logprobs": top})
    function = {"name": "book_table", "arguments": orjson.dumps(call).decode()}
    message = {
        "role": "assistant",
        "content": "".join(words),
        "tool_calls": [{"id": "call_9", "type": "function", "function": function}],
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": content},
        "finish_reason": "tool_calls",
        "token_ids": [token for token, _ in steps],
    }
    usage = {"prompt_tokens": 300, "completion_tokens": TOKENS, "total_tokens": 300 + TOKENS}
    return orjson.dumps(
        {
            "id": "chatcmpl-2",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "bench",
            "choices": [choice],
            "usage": usage,
            "prompt_token_ids": list(range(300)),
        }
    )


def _entry(token: int, logprob: float) -> dict[str, Any]:
    return {"token": f"token_id:{token}", "logprob": float(np.float32(logprob)), "bytes": [32, 119, 48]}
