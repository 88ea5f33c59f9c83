"""Replies as vLLM 0.32 writes them, field for field: whole bodies.  Streams are in stream.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from backends.dialect.ask import Ask
from backends.dialect.words import Choice, P, Stamp, Step


def whole(ask: Ask[P], stamp: Stamp, choices: Sequence[Choice], prefills: Sequence[list[Step]]) -> bytes:
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


def finish_reason(ask: Ask[P], finish: str, *, called: bool) -> str:
    """OpenAI's word for how a choice ended: calls that were not forced by name end in "tool_calls"."""
    return "tool_calls" if called and finish == "stop" and ask.wish.tool_choice != "named" else finish


def chat_logprobs(ask: Ask[P], steps: Sequence[Step]) -> dict[str, Any] | None:
    """The logprobs object of a chat choice or delta; the chosen token stands first in its list."""
    if ask.logprobs is None:
        return None
    return {"content": [_chat_entry(ask, one) for one in steps]}


def completion_logprobs(ask: Ask[P], steps: Sequence[Step], offset: int) -> dict[str, Any] | None:
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


def written_length(ask: Ask[P], steps: Sequence[Step]) -> int:
    """How far these tokens move the next `text_offset`."""
    return sum(len(_written(ask, one.token)) for one in steps)


def _chat(ask: Ask[P], stamp: Stamp, choices: Sequence[Choice], prefills: Sequence[list[Step]]) -> dict[str, Any]:
    prompt_ids = choices[0].prompt_ids
    return {
        "id": stamp.id,
        "object": "chat.completion",
        "created": stamp.created,
        "model": ask.model,
        "choices": [_chat_choice(ask, stamp, index, choice) for index, choice in enumerate(choices)],
        "service_tier": None,
        "system_fingerprint": stamp.fingerprint,
        "usage": _usage(choices, ask.n),
        "prompt_logprobs": _prompt_logprobs(ask, prompt_ids, prefills[0]) if prefills else None,
        "prompt_token_ids": prompt_ids if ask.return_token_ids else None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _chat_choice(ask: Ask[P], stamp: Stamp, index: int, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if choice.calls:
        message["tool_calls"] = [
            {
                "id": tool_call_id(stamp, index, place),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for place, (name, arguments) in enumerate(choice.calls)
        ]
    message["reasoning"] = None
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(ask, choice.steps),
        "finish_reason": finish_reason(ask, choice.finish, called=bool(choice.calls)),
        "stop_reason": choice.stop_reason,
        "token_ids": choice.tokens if ask.return_token_ids else None,
        "routed_experts": None,
    }


def _completion(ask: Ask[P], stamp: Stamp, choices: Sequence[Choice], prefills: Sequence[list[Step]]) -> dict[str, Any]:
    return {
        "id": stamp.id,
        "object": "text_completion",
        "created": stamp.created,
        "model": ask.model,
        "choices": [
            {
                "index": index,
                "text": ask.tokenizer.decode(choice.prompt_ids) + choice.text if ask.echo else choice.text,
                "logprobs": _echoed_logprobs(ask, choice, prefills[index // ask.n] if prefills else []),
                "finish_reason": choice.finish,
                "stop_reason": choice.stop_reason,
                "token_ids": choice.tokens if ask.return_token_ids else None,
                "prompt_logprobs": (
                    _prompt_logprobs(ask, choice.prompt_ids, prefills[index // ask.n]) if prefills else None
                ),
                "prompt_token_ids": choice.prompt_ids if ask.return_token_ids else None,
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


def _echoed_logprobs(ask: Ask[P], choice: Choice, prefill: Sequence[Step]) -> dict[str, Any] | None:
    """The logprobs of the tokens in `text`; of an echoed prompt's first token nothing is known."""
    if not ask.echo or ask.logprobs is None or not choice.prompt_ids:
        return completion_logprobs(ask, choice.steps, 0)
    first = _written(ask, choice.prompt_ids[0])
    rest = completion_logprobs(ask, [*prefill, *choice.steps], len(first)) or {}
    heads = {"text_offset": 0, "token_logprobs": None, "tokens": first, "top_logprobs": None}
    return {name: [head, *rest[name]] for name, head in heads.items()}


def _usage(choices: Sequence[Choice], n: int) -> dict[str, Any]:
    prompts = sum(len(choice.prompt_ids) for choice in choices[::n])
    counts = usage(prompts, sum(len(choice.tokens) for choice in choices))
    return {**counts, "prompt_tokens_details": None, "completion_tokens_details": None}


def _prompt_logprobs(ask: Ask[P], ids: Sequence[int], steps: Sequence[Step]) -> list[dict[str, Any] | None]:
    """One entry per prompt token, the first null; the token that is there first, then the best ones by rank."""
    count = ask.prompt_logprobs or 0
    rows: list[dict[str, Any] | None] = [None] if ids else []
    for one in steps:
        row = {str(one.token): _ranked(ask, one.token, one.logprob, one.rank)}
        for rank, (token, logprob) in enumerate(one.top[:count], start=1):
            row.setdefault(str(token), _ranked(ask, token, logprob, rank))
        rows.append(row)
    return rows


def _ranked(ask: Ask[P], token: int, logprob: float, rank: int) -> dict[str, Any]:
    return {"logprob": logprob, "rank": rank, "decoded_token": ask.tokenizer.written(token)}


def _chat_entry(ask: Ask[P], one: Step) -> dict[str, Any]:
    top = ask.logprobs or 0
    return {
        "token": _written(ask, one.token),
        "logprob": one.logprob,
        "bytes": list(ask.tokenizer.spelled(one.token)),
        "top_logprobs": [
            {"token": text, "logprob": logprob, "bytes": list(text.encode())}
            for text, logprob in ((_written(ask, token), logprob) for token, logprob in _listed(one, top)[:top])
        ],
    }


def _listed(one: Step, count: int) -> list[tuple[int, float]]:
    """The chosen token, then the best `count` without it: one more in all where it is not among them."""
    return [(one.token, one.logprob), *(entry for entry in one.top[:count] if entry[0] != one.token)]


def _written(ask: Ask[P], token: int) -> str:
    return f"token_id:{token}" if ask.tokens_as_ids else ask.tokenizer.written(token)
