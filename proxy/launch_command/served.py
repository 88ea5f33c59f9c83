"""A ready engine, asked whether it serves what the recipe says, as far as HTTP and its log show it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from backends.recipes.command_line import Command

ASK_TIMEOUT_S = 10.0  # *choice*: an idle engine answers in milliseconds
MAX_REPLY_BYTES = 8 << 20  # *choice*: /metrics of an idle engine is some 100 KB
MAX_LOG_BYTES = 8 << 20  # *choice*: a start writes some 20 KB
_CACHE = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_BACKEND = re.compile(r"Using (?:AttentionBackendEnum\.)?(\w+) (?:attention )?backend(?: out of|\.)")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one engine says of itself; None: it does not say."""

    side: str
    version: str | None
    name: str | None
    root: str | None
    max_model_len: int | None
    cache_dtype: str | None
    prefix_caching: str | None
    cached_tokens: int | None
    attention: str | None


async def see(command: Command, url: str, log: Path, http: httpx.AsyncClient) -> Seen:
    """What the engine says. An endpoint that it lacks tells nothing, and is no error."""
    version = await _json(http, f"{url}/version")
    models = await _json(http, f"{url}/v1/models")
    listed = models.get("data")
    card = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    match = _CACHE.search(await _text(http, f"{url}/metrics"))
    cache = dict(_LABEL.findall(match[1])) if match else {}
    length, tokens = card.get("max_model_len"), cache.get("kv_cache_size_tokens", "")
    return Seen(
        side=command.side,
        version=_word(version.get("version")),
        name=_word(card.get("id")),
        root=_word(card.get("root")),
        max_model_len=length if type(length) is int else None,
        cache_dtype=cache.get("cache_dtype"),
        prefix_caching=cache.get("enable_prefix_caching"),
        cached_tokens=int(tokens) if tokens.isdecimal() else None,
        attention=_attention(log),
    )


def warnings(commands: Sequence[Command], seen: Sequence[Seen]) -> Iterator[str]:
    """What an engine serves that was not asked for, and in what the arms differ that they should not; a line each."""
    for command, one in zip(commands, seen, strict=True):
        said = {flag.name: flag.values[0] for flag in command.flags if flag.values}
        for what, wanted, has in (
            ("the name", said.get("--served-model-name"), one.name),
            ("the model", command.model, one.root),
            ("max_model_len", said.get("--max-model-len"), one.max_model_len),
            ("the cache", said.get("--kv-cache-dtype"), one.cache_dtype),
            ("the attention backend", said.get("--attention-backend"), one.attention),
        ):
            if wanted is not None and has is not None and str(has) != wanted:
                yield f"the {one.side} serves {what} {has}, and was asked for {wanted}"
        context = one.max_model_len
        if one.cached_tokens is not None and context is not None and one.cached_tokens < context:
            yield f"the {one.side}'s cache holds {one.cached_tokens:,} tokens, less than one sequence of {context:,}"
    for what, values in (
        ("vLLM", {one.version for one in seen}),
        ("the attention backend", {one.attention for one in seen}),
    ):
        if len(values - {None}) > 1:
            told = ", ".join(f"{one.side} {getattr(one, 'version' if what == 'vLLM' else 'attention')}" for one in seen)
            yield f"the arms differ in {what}: {told}"


def _attention(log: Path) -> str | None:
    """The backend that vLLM's log names; None where it names none (a CPU has one only) or several."""
    try:
        with log.open("rb") as file:
            named = set(_BACKEND.findall(file.read(MAX_LOG_BYTES).decode(errors="replace")))
    except OSError:
        return None
    return named.pop() if len(named) == 1 else None


async def _json(http: httpx.AsyncClient, url: str) -> dict[str, object]:
    try:
        reply = await http.get(url, timeout=ASK_TIMEOUT_S)
        read = reply.json() if reply.status_code == 200 and len(reply.content) <= MAX_REPLY_BYTES else {}
    except (httpx.HTTPError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


async def _text(http: httpx.AsyncClient, url: str) -> str:
    try:
        reply = await http.get(url, timeout=ASK_TIMEOUT_S)
    except httpx.HTTPError:
        return ""
    return reply.text[:MAX_REPLY_BYTES] if reply.status_code == 200 else ""


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None
