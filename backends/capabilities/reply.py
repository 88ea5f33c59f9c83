"""What of a capability stands in a reply. Pure, and forgiving: a reply in another shape has nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from backends.base import Reply

MAX_WHY_CHARS = 160  # *choice*: for one line of a log or a page
_ID_KEY = "token_id:"  # vLLM 0.32, return_tokens_as_token_ids


def object_in(reply: Reply) -> dict[str, Any]:
    """The JSON object of a body; empty where there is none."""
    try:
        parsed = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def error_line(reply: Reply) -> str:
    """What an error reply says, one bounded line. It answers a fixed question of ours, so it holds nobody's prompt."""
    told = object_in(reply)
    error = told.get("error", told)
    message = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else None
    line = f"HTTP {reply.status}" + (f": {' '.join(message.split())}" if isinstance(message, str) else "")
    return line[:MAX_WHY_CHARS]


def about_the_model(reply: Reply) -> bool:
    """Whether a 404 says that the model is not there, rather than the endpoint.

    Source:  vLLM 0.32 (param "model"), OpenAI (code "model_not_found"), SGLang and llama.cpp (by the message).
    """
    error = object_in(reply).get("error")
    if not isinstance(error, dict):
        return False
    said = " ".join(str(error.get(key, "")) for key in ("message", "param", "code"))
    return "model" in said.lower()


def card_of(listing: dict[str, Any], model: str | None) -> dict[str, Any]:
    """A model's entry in GET /v1/models, the first for None; empty where it is not listed."""
    data = listing.get("data")
    cards = [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
    return next((card for card in cards if model is None or card.get("id") == model), {})


def choice_of(told: dict[str, Any]) -> dict[str, Any]:
    """The first choice; empty where there is none."""
    choices = told.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def entries_of(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """The logprob entries of a chat choice, or of a stream's delta."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return []
    return [one for one in content if isinstance(one, dict) and isinstance(one.get("logprob"), int | float)]


def list_length(entries: list[dict[str, Any]]) -> int:
    """Entries of the longest list: how many come at most. 0 without lists."""
    lists = (entry.get("top_logprobs") for entry in entries)
    return max((len(one) for one in lists if isinstance(one, list)), default=0)


def keyed_by_id(entries: list[dict[str, Any]]) -> bool:
    """Whether each entry names its token by id: as `token_id:N`, or in a field `id` of its own (llama.cpp)."""
    return bool(entries) and all(
        str(entry.get("token", "")).startswith(_ID_KEY) or type(entry.get("id")) is int for entry in entries
    )


def ids_in(value: object) -> tuple[int, ...]:
    """A list of token ids, or nothing."""
    return tuple(value) if isinstance(value, list) and all(type(one) is int for one in value) else ()


def prompt_ids(told: dict[str, Any]) -> tuple[int, ...]:
    """The prompt's token ids as a completion tells them, of the reply or of its first choice (vLLM: either)."""
    return ids_in(told.get("prompt_token_ids")) or ids_in(choice_of(told).get("prompt_token_ids"))


def prompt_count(told: dict[str, Any]) -> int | None:
    """usage.prompt_tokens."""
    usage = told.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if type(count) is int else None


def calls_in(told: dict[str, Any]) -> bool:
    """Whether the first choice calls a tool."""
    message = choice_of(told).get("message")
    return isinstance(message, dict) and bool(message.get("tool_calls"))


def events_in(reply: Reply) -> Iterator[dict[str, Any]]:
    """The JSON objects of an event stream."""
    for line in reply.body.splitlines():
        if line.startswith(b"data:") and b"[DONE]" not in line[:16]:
            try:
                event = orjson.loads(line[5:])
            except orjson.JSONDecodeError:
                continue
            if isinstance(event, dict):
                yield event
