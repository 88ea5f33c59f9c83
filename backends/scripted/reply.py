"""Replies as vLLM 0.32 writes them, field for field: whole bodies.  Streams are in stream.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.scripted.ask import Ask
from backends.scripted.distribution import Step
from backends.scripted.generate import Generated
from backends.scripted.tokens import piece_text, special, token_bytes


@dataclass(frozen=True, slots=True)
class Stamp:
    """What identifies a reply: a pure function of the request, so that equal requests get equal bytes."""

    id: str
    created: int
    fingerprint: str


def whole(ask: Ask, stamp: Stamp, choices: Sequence[Generated], prefills: Sequence[list[Step]]) -> bytes:
    """The JSON body of a reply that is not streamed. `prefills` has one list per prompt when they were asked for."""
    body = _chat(ask, stamp, choices, prefills) if ask.chat else _completion(ask, stamp, choices, prefills)
    return orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Token counts as streams report them."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": completion_tokens}


def tool_call_id(stamp: Stamp, choice: int, index: int) -> str:
    """The id of one tool call."""
    return f"chatcmpl-tool-{stamp.id[-12:]}{choice:02x}{index:02x}"


def finish_reason(ask: Ask, choice: Generated) -> str:
    """OpenAI's word for how a choice ended: calls that were not forced by name end in "tool_calls"."""
    called = choice.whole and choice.said.calls and ask.wish.tool_choice != "named"
    return "tool_calls" if called else choice.finish


def chat_logprobs(ask: Ask, steps: Sequence[Step]) -> dict[str, Any] | None:
    """The logprobs object of a chat choice or delta; the chosen token stands first in its list."""
    if ask.logprobs is None:
        return None
    return {"content": [_chat_entry(ask, one) for one in steps]}


def completion_logprobs(ask: Ask, steps: Sequence[Step], offset: int) -> dict[str, Any] | None:
    """The logprobs object of a completion choice or chunk. Units: `offset` in characters of written tokens."""
    if ask.logprobs is None:
        return None
    written = [_written(ask, one.token) for one in steps]
    offsets: list[int] = []
    for text in written:
        offsets.append(offset)
        offset += len(text)
    return {
        "text_offset": offsets,
        "token_logprobs": [one.logprob for one in steps],
        "tokens": written,
        "top_logprobs": [
            {_written(ask, token): logprob for token, logprob in _listed(one, ask.logprobs)} for one in steps
        ],
    }


def written_length(ask: Ask, steps: Sequence[Step]) -> int:
    """How far these tokens move the next `text_offset`."""
    return sum(len(_written(ask, one.token)) for one in steps)


def _chat(ask: Ask, stamp: Stamp, choices: Sequence[Generated], prefills: Sequence[list[Step]]) -> dict[str, Any]:
    prompt = choices[0].prompt
    return {
        "id": stamp.id,
        "object": "chat.completion",
        "created": stamp.created,
        "model": ask.model,
        "choices": [_chat_choice(ask, stamp, index, choice) for index, choice in enumerate(choices)],
        "service_tier": None,
        "system_fingerprint": stamp.fingerprint,
        "usage": _usage(choices, ask.n),
        "prompt_logprobs": _prompt_logprobs(ask, prompt.ids, prefills[0]) if prefills else None,
        "prompt_token_ids": prompt.ids if ask.return_token_ids else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _chat_choice(ask: Ask, stamp: Stamp, index: int, choice: Generated) -> dict[str, Any]:
    called = choice.whole and bool(choice.said.calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if called else choice.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if called:
        message["tool_calls"] = [
            {
                "id": tool_call_id(stamp, index, place),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for place, (name, arguments) in enumerate(choice.said.calls)
        ]
    message["reasoning"] = None
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(ask, choice.steps),
        "finish_reason": finish_reason(ask, choice),
        "stop_reason": choice.stop_reason,
        "token_ids": choice.tokens if ask.return_token_ids else None,
        "routed_experts": None,
    }


def _completion(ask: Ask, stamp: Stamp, choices: Sequence[Generated], prefills: Sequence[list[Step]]) -> dict[str, Any]:
    return {
        "id": stamp.id,
        "object": "text_completion",
        "created": stamp.created,
        "model": ask.model,
        "choices": [
            {
                "index": index,
                "text": choice.text,
                "logprobs": completion_logprobs(ask, choice.steps, 0),
                "finish_reason": choice.finish,
                "stop_reason": choice.stop_reason,
                "token_ids": choice.tokens if ask.return_token_ids else None,
                "prompt_logprobs": (
                    _prompt_logprobs(ask, choice.prompt.ids, prefills[index // ask.n]) if prefills else None
                ),
                "prompt_token_ids": choice.prompt.ids if ask.return_token_ids else None,
                "routed_experts": None,
            }
            for index, choice in enumerate(choices)
        ],
        "service_tier": None,
        "system_fingerprint": stamp.fingerprint,
        "usage": _usage(choices, ask.n),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _usage(choices: Sequence[Generated], n: int) -> dict[str, Any]:
    prompts = sum(len(choice.prompt.ids) for choice in choices[::n])
    counts = usage(prompts, sum(len(choice.tokens) for choice in choices))
    return {**counts, "prompt_tokens_details": None, "completion_tokens_details": None}


def _prompt_logprobs(ask: Ask, ids: Sequence[int], steps: Sequence[Step]) -> list[dict[str, Any] | None]:
    """One entry per prompt token, the first null; the token that is there first, then the best ones by rank."""
    count = ask.prompt_logprobs or 0
    rows: list[dict[str, Any] | None] = [None] if ids else []
    for one in steps:
        row = {str(one.token): {"logprob": one.logprob, "rank": one.rank, "decoded_token": piece_text(one.token)}}
        for rank, (token, logprob) in enumerate(one.top[:count], start=1):
            row.setdefault(str(token), {"logprob": logprob, "rank": rank, "decoded_token": piece_text(token)})
        rows.append(row)
    return rows


def _chat_entry(ask: Ask, one: Step) -> dict[str, Any]:
    top = ask.logprobs or 0
    return {
        "token": _written(ask, one.token),
        "logprob": one.logprob,
        "bytes": list(special(one.token).encode() or token_bytes(one.token)),
        "top_logprobs": [
            {"token": text, "logprob": logprob, "bytes": list(text.encode())}
            for text, logprob in ((_written(ask, token), logprob) for token, logprob in _listed(one, top)[:top])
        ],
    }


def _listed(one: Step, count: int) -> list[tuple[int, float]]:
    """The chosen token, then the best `count` without it: one more in all where it is not among them."""
    return [(one.token, one.logprob), *(entry for entry in one.top[:count] if entry[0] != one.token)]


def _written(ask: Ask, token: int) -> str:
    return f"token_id:{token}" if ask.tokens_as_ids else piece_text(token)
