"""What a scripted engine cannot do: fields that it passes over or refuses, endpoints that it has not.

So that every sentence about an engine beside vLLM can be read over a real socket (backends/capabilities).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import orjson

from backends.dialect.ask import Refused
from backends.dialect.identity import COMPLETIONS, Route, Routes
from backends.dialect.wire import Request

How: TypeAlias = Literal["ignored", "refused", "missing"]

# What a body asks for by these fields; `stream_logprobs` and `top_logprobs` are further down.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "logprobs": ("logprobs", "top_logprobs"),
    "token_ids": ("return_token_ids",),
    "token_id_keys": ("return_tokens_as_token_ids",),
    "prompt_logprobs": ("prompt_logprobs",),
    "tools": ("tools", "tool_choice"),
    "tool_choice": ("tool_choice",),
    "seed": ("seed",),
}
_PATHS: Mapping[str, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "tokenize": "/tokenize",
    "version": "/version",
}
_OTHERS = frozenset({"top_logprobs", "stream_logprobs", "max_model_len"})
NAMES = frozenset({*_FIELDS, *_PATHS, *_OTHERS})


def checked(lacks: Mapping[str, str]) -> None:
    """Nothing. Raises: ValueError, with one line for a person, for what an engine cannot lack so."""
    for name, how in lacks.items():
        if name not in NAMES:
            raise ValueError(f'no capability "{name}"; there are {", ".join(sorted(NAMES))}')
        ways = ("missing", "ignored") if name == "tokenize" else ("missing",) if name in _PATHS else _WAYS
        if how not in ways:
            raise ValueError(f"lacks {name}: {how} is none of {', '.join(ways)}")


_WAYS = ("ignored", "refused")


def is_missing(lacks: Mapping[str, str], path: str) -> bool:
    """Whether there is no such endpoint."""
    return any(path == _PATHS.get(name) and how == "missing" for name, how in lacks.items())


def lessened(lacks: Mapping[str, str], most_top: int, request: Request) -> Request:
    """The request as an engine reads it that lacks these. Raises: Refused."""
    path = request.target.partition("?")[0]
    if not lacks or path not in COMPLETIONS:
        return request
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        return request
    if not isinstance(body, dict):
        return request
    _shorten(lacks, most_top, body, chat=COMPLETIONS[path])
    for name, how in lacks.items():
        fields = _FIELDS.get(name, ())
        if name == "stream_logprobs" and body.get("stream"):
            fields = _FIELDS["logprobs"]
        given = [field for field in fields if body.get(field) not in (None, False)]
        if name == "tool_choice" and not isinstance(body.get("tool_choice"), dict):
            given = []
        if given and how == "refused":
            raise Refused(400, f"Unrecognized request argument supplied: {given[0]}", "invalid_request_error", given[0])
        for field in given:
            del body[field]
    return replace(request, body=orjson.dumps(body))


def _shorten(lacks: Mapping[str, str], most: int, body: dict[str, Any], *, chat: bool) -> None:
    """Lists no longer than `most`: refused beyond it, or cut."""
    field, how = "top_logprobs" if chat else "logprobs", lacks.get("top_logprobs")
    asked = body.get(field)
    if how is None or type(asked) is not int or asked <= most:
        return
    if how == "refused":
        raise Refused(400, f"top_logprobs must be at most {most}, got {asked}", "invalid_request_error", field)
    body[field] = most


def without(lacks: Mapping[str, str], routes: Routes) -> Routes:
    """The routes, less what an engine does not say of itself."""
    kept = dict(routes)
    if lacks.get("tokenize") == "ignored":  # as llama.cpp: it reads another field, so a conversation has no tokens
        kept["/tokenize"] = {"POST": lambda request: (200, b'{"tokens":[]}')}
    if "max_model_len" in lacks:
        kept["/v1/models"] = {"GET": _without_length(routes["/v1/models"]["GET"])}
    return kept


def _without_length(models: Route) -> Route:
    def answer(request: Request) -> tuple[int, bytes]:
        status, body = models(request)
        listing = orjson.loads(body)
        for card in listing["data"]:
            del card["max_model_len"]
        return status, orjson.dumps(listing)

    return answer
