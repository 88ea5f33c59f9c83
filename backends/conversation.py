"""How an engine tokenizes a conversation: by vLLM's /tokenize, or by llama.cpp's template and then its tokenizer.

Source:  vLLM 0.32 `entrypoints/serve/tokenize`; llama.cpp `tools/server/README.md`, /apply-template and /tokenize.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import orjson

from backends.base import Reply

Asker: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[Reply]]


async def conversation_tokens(ask: Asker, model: str, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], Reply]:
    """The token ids of a conversation, empty where the engine does not tell them, and its reply to /tokenize.

    llama.cpp reads another field at /tokenize, and answers a conversation with no tokens at all.
    """
    reply = await ask("/tokenize", {"model": model, "messages": messages})
    ids = _ids(reply)
    if ids or not reply.ok:
        return ids, reply
    written = await ask("/apply-template", {"messages": messages})
    prompt = _object(written).get("prompt")
    if not written.ok or not isinstance(prompt, str):
        return [], reply
    return _ids(await ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})), reply


def _ids(reply: Reply) -> list[int]:
    tokens = _object(reply).get("tokens") if reply.ok else None
    return tokens if isinstance(tokens, list) and all(type(one) is int for one in tokens) else []


def _object(reply: Reply) -> dict[str, Any]:
    try:
        parsed = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
