"""Streams and whole bodies say the same: text, calls, logprobs, token ids, finish reasons, usage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import orjson
import pytest

from backends.dialect.reply import whole
from backends.dialect.words import Stamp
from backends.scripted.ask import Ask, read_ask
from backends.scripted.distribution import EXACT
from backends.scripted.generate import Generated, Run, generate
from backends.scripted.stream import DONE, events
from backends.scripted.traffic import TOOLS, sent

STAMP = Stamp("chatcmpl-0011223344556677", 5, "print")
CALLS = 'Get the weather forecast for "Øslo" over 3 days in celsius; Track the order OR-1009 and its status'


def made(body: dict[str, Any], *, chat: bool = True) -> tuple[Ask, list[Generated]]:
    ask = read_ask(chat, orjson.dumps({**body, "stream": True}), "application/json", "m", 32_768)
    run = Run(EXACT, frozenset(), noisy=False, fresh=False)
    return ask, [generate(ask, prompt, index, run, 9_999) for prompt in ask.prompts for index in range(ask.n)]


def parsed(ask: Ask, choices: Sequence[Generated]) -> list[dict[str, Any]]:
    written = [event for _, event in events(ask, STAMP, choices)]
    assert written[-1] == DONE
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in written)
    return [orjson.loads(event[6:]) for event in written[:-1]]


def merged(ask: Ask, chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choices as a client puts them together."""
    found: dict[int, dict[str, Any]] = {}
    for part in (part for one in chunks for part in one["choices"]):
        new: dict[str, Any] = {"text": "", "calls": {}, "logprobs": [], "ids": [], "finish": None}
        choice = found.setdefault(part["index"], new)
        delta = part.get("delta", {"content": part.get("text")})
        choice["text"] += delta.get("content") or ""
        for call in delta.get("tool_calls", []):
            known = choice["calls"].setdefault(call["index"], {"name": "", "arguments": "", "id": call.get("id")})
            for key, value in call["function"].items():
                known[key] += value
        logprobs = part["logprobs"] or {}
        choice["logprobs"] += logprobs.get("content", logprobs.get("tokens", []))
        choice["ids"] += part.get("token_ids") or []
        choice["finish"] = part["finish_reason"] or choice["finish"]
    return [found[index] for index in sorted(found)]


def expected(ask: Ask, body: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for choice in body["choices"]:
        message = choice.get("message", {"content": choice.get("text")})
        calls = {
            place: {"name": c["function"]["name"], "arguments": c["function"]["arguments"], "id": c["id"]}
            for place, c in enumerate(message.get("tool_calls", []))
        }
        logprobs = choice["logprobs"] or {}
        rows.append(
            {
                "text": message["content"] or "",
                "calls": calls,
                "logprobs": logprobs.get("content", logprobs.get("tokens", [])),
                "ids": list(choice["token_ids"] or []),
                "finish": choice["finish_reason"],
            }
        )
    return rows


@pytest.mark.parametrize(
    ("chat", "fields"),
    [
        (True, {"messages": [{"role": "user", "content": "Tell me about été 東京."}], "n": 3, "seed": 1}),
        (True, {"messages": [{"role": "user", "content": "été 東京"}], "max_tokens": 7, "temperature": 0}),
        (True, {"messages": [{"role": "user", "content": CALLS}], "tools": TOOLS, "temperature": 0}),
        (True, {"messages": [{"role": "user", "content": CALLS}], "tools": TOOLS, "tool_choice": "required"}),
        (True, {"messages": [{"role": "user", "content": CALLS}], "tools": TOOLS, "max_tokens": 30}),
        (True, {"messages": [{"role": "user", "content": "Lamps?"}], "stop": ["e"], "temperature": 0}),
        (False, {"prompt": "Été of 1234 and", "max_tokens": 40, "temperature": 0}),
        (False, {"prompt": ["one", "two"], "temperature": 0}),
    ],
)
@pytest.mark.parametrize("detail", [False, True])
def test_a_stream_put_together_is_the_whole_reply(chat: bool, fields: dict[str, Any], detail: bool) -> None:
    more: dict[str, Any] = {"return_token_ids": True, "return_tokens_as_token_ids": True} if detail else {}
    if detail:
        more |= {"logprobs": True, "top_logprobs": 3} if chat else {"logprobs": 3}
    ask, choices = made({"model": "m", **fields, **more}, chat=chat)
    chunks = parsed(ask, choices)
    assert merged(ask, chunks) == expected(ask, orjson.loads(whole(ask, STAMP, choices, [])))
    assert {chunk["id"] for chunk in chunks} == {STAMP.id}


def test_a_named_call_ends_in_stop_and_others_in_tool_calls() -> None:
    messages = [{"role": "user", "content": CALLS}]
    named = {"type": "function", "function": {"name": "track_order"}}
    for choice, finish in ((named, "stop"), ("auto", "tool_calls"), ("required", "tool_calls")):
        ask, choices = made({"messages": messages, "tools": TOOLS, "tool_choice": choice, "temperature": 0})
        assert merged(ask, parsed(ask, choices))[0]["finish"] == finish


def test_usage_is_the_last_chunk_and_counts_all_choices() -> None:
    body = {"messages": [{"role": "user", "content": "Lamps?"}], "n": 2, "stream_options": {"include_usage": True}}
    ask, choices = made(body)
    last = parsed(ask, choices)[-1]
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == len(choices[0].prompt.ids)
    assert last["usage"]["completion_tokens"] == sum(len(choice.tokens) for choice in choices)


def test_all_traffic_streams_as_it_stands() -> None:
    for one in islice(sent(3), 60):
        chat = "messages" in one.body
        ask, choices = made({**one.body, "return_token_ids": True}, chat=chat)
        assert merged(ask, parsed(ask, choices)) == expected(ask, orjson.loads(whole(ask, STAMP, choices, [])))
