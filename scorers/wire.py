"""Typed reads of the wire's JSON, and token logprobs as both endpoints send them. Back room of decode.py.

Whatever an engine sends, the only error that leaves here is `DecodeError`, whose reason is a closed set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import chain
from typing import Any

import orjson

from scorers.grid import TOKEN_ID_PREFIX
from scorers.records import Json, TokenLogprobs, ToolCall

_MAX_CHOICES = 128  # OpenAI's own bound on n
_LOGPROB_TYPES = frozenset({float, int})  # exact types: a bool is no number
_STR_ONLY = frozenset({str})


class DecodeReason(StrEnum):
    """Why a body could not be read. A closed set: it labels metrics."""

    PATH = "path"  # neither chat completions nor completions
    NOT_JSON = "not_json"  # invalid UTF-8, NaN, an infinite number, too deep, not JSON at all
    WRONG_SHAPE = "wrong_shape"  # JSON, but not of the API's shape
    TRUNCATED = "truncated"  # a stream without its end
    ERROR_REPLY = "error_reply"  # an error object where an answer should be
    EMPTY = "empty"  # no choices


class DecodeError(Exception):
    """A body that cannot be read; `reason` is closed, `where` names the field and holds no content."""

    def __init__(self, reason: DecodeReason, where: str = "") -> None:
        super().__init__(f"{reason.value}: {where}" if where else reason.value)
        self.reason = reason
        self.where = where


def wrong(where: str) -> DecodeError:
    return DecodeError(DecodeReason.WRONG_SHAPE, where)


def parse_object(body: bytes | str, where: str) -> dict[str, Json]:
    """The JSON object in `body`. Raises: DecodeError."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DecodeError(DecodeReason.NOT_JSON, where) from error
    if type(value) is not dict:
        raise wrong(where)
    return value


def as_object(value: Json, where: str) -> dict[str, Json]:
    if type(value) is not dict:
        raise wrong(where)
    return value


def as_list(value: Json, where: str) -> list[Json]:
    """The list; null reads as empty."""
    if value is None:
        return []
    if type(value) is not list:
        raise wrong(where)
    return value


def as_text(value: Json, where: str) -> str:
    """The string; null reads as empty."""
    if value is None:
        return ""
    if type(value) is not str:
        raise wrong(where)
    return value


def optional_text(value: Json, where: str) -> str | None:
    return None if value is None else as_text(value, where)


def optional_count(value: Json, where: str) -> int | None:
    """A whole number that is not negative, or None."""
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise wrong(where)
    return value


def choice_index(value: Json) -> int:
    """The index of a choice; an absent one is the first. Units: 0 .. 127."""
    index = optional_count(value, "choices.index") or 0
    if index >= _MAX_CHOICES:
        raise wrong("choices.index")
    return index


def content_text(value: Json, where: str) -> str:
    """The text of a message's content: a string, null, or a list of parts whose text is joined."""
    if type(value) is not list:
        return as_text(value, where)
    parts = (as_object(part, where) for part in value)
    return "\n".join(as_text(part.get("text"), where) for part in parts if part.get("text") is not None)


def token_ids(value: Json, where: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    ids = as_list(value, where)
    if not set(map(type, ids)) <= {int}:
        raise wrong(where)
    return tuple(ids)


def tool_call(value: Json, where: str) -> ToolCall:
    """One `{"name", "arguments"}` as the engine sent it; arguments stay an unparsed string."""
    function = as_object(value, where)
    return ToolCall(as_text(function.get("name"), where), as_text(function.get("arguments"), where))


def chat_logprobs(value: Json) -> TokenLogprobs | None:
    """`choice.logprobs` of a chat reply, or None where there is none."""
    entries = None if value is None else as_object(value, "logprobs").get("content")
    return None if entries is None else from_chat_entries(as_list(entries, "logprobs.content"))


def from_chat_entries(entries: list[Json]) -> TokenLogprobs:
    """Per-token entries of chat (whole, or of a stream's chunks in order).

    llama.cpp gives each entry its token's id, which it is named by then, as where vLLM is asked for ids.
    Raises:  DecodeError.
    """
    if entries and type(entries[0]) is dict and type(entries[0].get("id")) is int:
        entries = [_named_by_id(entry) for entry in entries]
    try:
        tokens = tuple([entry["token"] for entry in entries])
        chosen = tuple([entry["logprob"] for entry in entries])
        top = tuple([_top_of(entry.get("top_logprobs") or ()) for entry in entries])
    except (AttributeError, KeyError, TypeError) as error:
        raise wrong("logprobs.content") from error
    return _checked(tokens, chosen, top)


def _named_by_id(entry: Json) -> Json:
    """A chat entry of llama.cpp whose tokens are written `token_id:N`. Raises: DecodeError."""
    if type(entry) is not dict:
        raise wrong("logprobs.content")
    top = as_list(entry.get("top_logprobs"), "logprobs.top_logprobs")
    return {**_renamed(entry), "top_logprobs": [_renamed(one) for one in top]}


def _renamed(entry: Json) -> dict[str, Json]:
    number = entry.get("id") if type(entry) is dict else None
    if type(number) is not int or number < 0:
        raise wrong("logprobs: id")
    return {"token": f"{TOKEN_ID_PREFIX}{number}", "logprob": entry.get("logprob")}


def completion_logprobs(value: Json) -> TokenLogprobs | None:
    """`choice.logprobs` of a completion: parallel lists, or a chat's entries (llama.cpp); null where it has none."""
    if value is None:
        return None
    lists = as_object(value, "logprobs")
    if "content" in lists and "tokens" not in lists:
        return chat_logprobs(value)
    tokens = as_list(lists.get("tokens"), "logprobs.tokens")
    chosen = as_list(lists.get("token_logprobs"), "logprobs.token_logprobs")
    top = lists.get("top_logprobs")
    tops = [{}] * len(tokens) if top is None else [step or {} for step in as_list(top, "logprobs.top_logprobs")]
    return _checked(tuple(tokens), tuple(chosen), tuple(tops))


def joined(parts: list[TokenLogprobs]) -> TokenLogprobs | None:
    """A stream's parts one after the other; None when there were none."""
    if not parts:
        return None
    return TokenLogprobs(
        tokens=tuple(chain.from_iterable(part.tokens for part in parts)),
        chosen=tuple(chain.from_iterable(part.chosen for part in parts)),
        top=tuple(chain.from_iterable(part.top for part in parts)),
    )


def _top_of(entries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """One step's list by key. Keys that stand for two different tokens (byte fragments share the text
    U+FFFD, special tokens the empty text) are dropped: their mass is the tail's, which is always valid."""
    top = {entry["token"]: entry["logprob"] for entry in entries}
    return top if len(top) == len(entries) else _without_repeats(entries)  # type: ignore[arg-type]


def _without_repeats(entries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    top: dict[str, float] = {}
    repeated: set[str] = set()
    for entry in entries:
        key, logprob = entry["token"], entry["logprob"]
        if key in top and top[key] != logprob:
            repeated.add(key)
        top[key] = logprob
    return {key: logprob for key, logprob in top.items() if key not in repeated}


def _checked(tokens: tuple[Any, ...], chosen: tuple[Any, ...], top: tuple[Any, ...]) -> TokenLogprobs:
    if not len(tokens) == len(chosen) == len(top):
        raise wrong("logprobs: lists of unequal length")
    if not set(map(type, top)) <= {dict}:
        raise wrong("logprobs.top_logprobs")
    if not set(map(type, tokens)) | set(map(type, chain.from_iterable(top))) <= _STR_ONLY:
        raise wrong("logprobs: token")
    numbers = chain(chosen, chain.from_iterable(step.values() for step in top))
    if not set(map(type, numbers)) <= _LOGPROB_TYPES:
        raise wrong("logprobs: logprob")
    return TokenLogprobs(tokens=tokens, chosen=chosen, top=top)


_TOKEN_ID = re.compile(r"[0-9]{1,10}")


def prompt_step(value: Json) -> dict[str, float]:
    """One position of vLLM's `prompt_logprobs`: {"N": {"logprob": x, ...}} as {"token_id:N": x}."""
    step = as_object(value, "prompt_logprobs")
    result: dict[str, float] = {}
    for key, entry in step.items():
        logprob: Any = entry.get("logprob") if type(entry) is dict else None
        if type(logprob) not in _LOGPROB_TYPES or not _TOKEN_ID.fullmatch(key):
            raise wrong("prompt_logprobs")
        result[TOKEN_ID_PREFIX + key] = logprob
    return result
