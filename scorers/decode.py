"""Raw bodies -> records: what was asked, what was answered, and the reference's view of the candidate's tokens.

Whole JSON and recorded event streams, chat and completions. Content codings (gzip, deflate) are the
caller's to undo or to refuse. Nothing here raises anything but `DecodeError`, whatever the bytes are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from scorers.grid import TokenGrid
from scorers.records import Choice, DecodedReply, DecodedRequest, Json, TeacherForced, ToolCall
from scorers.scan import cut_chat, scan_chat
from scorers.stream import decode_stream
from scorers.wire import (
    DecodeError,
    DecodeReason,
    as_list,
    as_object,
    as_text,
    chat_logprobs,
    choice_index,
    completion_logprobs,
    content_text,
    optional_count,
    optional_text,
    parse_object,
    prompt_step,
    token_ids,
    tool_call,
    wrong,
)

__all__ = [
    "DecodeError",
    "DecodeReason",
    "decode_reply",
    "decode_request",
    "decode_teacher_forced",
    "decode_verification",
]

Kind = Literal["chat", "completion"]


def decode_request(path: str, body: bytes) -> DecodedRequest:
    """What the client asked. `path` is the request target; a query string is ignored.

    Raises:  DecodeError (PATH, NOT_JSON, WRONG_SHAPE).
    """
    kind = _kind_of(path)
    data = parse_object(body, "request")
    temperature = data.get("temperature")
    if temperature is not None and type(temperature) not in (int, float):
        raise wrong("temperature")
    n = data.get("n")
    if n is not None and (type(n) is not int or n < 1):
        raise wrong("n")
    limit = data.get("max_completion_tokens")
    return DecodedRequest(
        kind=kind,
        model=as_text(data.get("model"), "model"),
        stream=_flag(data.get("stream"), "stream"),
        n=n or 1,
        greedy=temperature == 0,
        temperature=None if temperature is None else float(temperature),
        tools=_offered(data),
        tool_choice=data.get("tool_choice", data.get("function_call")),
        response_format=data.get("response_format"),
        max_tokens=optional_count(data.get("max_tokens") if limit is None else limit, "max_tokens"),
        prompt_text=_prompt_text(kind, data),
        body=data,
    )


def decode_reply(kind: Kind, content_type: str, body: bytes, *, logprobs: bool = True) -> DecodedReply:
    """One arm's answer, from a whole JSON body or from a recorded stream, told apart by the content type
    (and by a leading `data:` or comment where there is none).

    `logprobs` false says that nobody will look at a whole chat reply's logprobs: they may then be left unread
    (`Choice.logprobs` None), which is most of the cost of a reply with top 20.

    Raises:  DecodeError.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == "text/event-stream" or (not media and body.lstrip().startswith((b"data:", b":"))):
        return decode_stream(kind, body)
    data, grid = _whole(body, logprobs) if kind == "chat" else (parse_object(body, "reply"), None)
    if data.get("error") is not None:
        raise DecodeError(DecodeReason.ERROR_REPLY, "reply")
    items = [as_object(item, "choices") for item in as_list(data.get("choices"), "choices")]
    if not items:
        raise DecodeError(DecodeReason.EMPTY, "no choices")
    choices = sorted((_choice(kind, item) for item in items), key=lambda choice: choice.index)
    if len({choice.index for choice in choices}) != len(choices):
        raise wrong("choices.index repeats")
    if grid is not None:
        choices = [replace(choices[0], logprobs=grid)]
    usage = as_object(data.get("usage") or {}, "usage")
    prompt_ids = data.get("prompt_token_ids")
    return DecodedReply(
        choices=tuple(choices),
        model=as_text(data.get("model"), "model"),
        system_fingerprint=optional_text(data.get("system_fingerprint"), "system_fingerprint"),
        prompt_tokens=optional_count(usage.get("prompt_tokens"), "usage.prompt_tokens"),
        completion_tokens=optional_count(usage.get("completion_tokens"), "usage.completion_tokens"),
        prompt_token_ids=token_ids(
            items[0].get("prompt_token_ids") if prompt_ids is None else prompt_ids, "prompt_token_ids"
        ),
    )


def _whole(body: bytes, logprobs: bool) -> tuple[dict[str, Json], TokenGrid | None]:
    """A chat reply's JSON, and the only choice's logprobs where they could be read without it (scan.py)."""
    scanned = scan_chat(body) if logprobs else None
    rest = cut_chat(body) if not logprobs else scanned.rest if scanned else None
    if rest is not None:
        data = parse_object(rest, "reply")
        items: Json = data.get("choices")
        alone = type(items) is list and len(items) == 1 and type(items[0]) is dict
        if alone and items[0].get("logprobs") == {"content": []}:
            if scanned is None:
                items[0]["logprobs"] = None
            return data, scanned.grid if scanned else None
    return parse_object(body, "reply"), None


def decode_teacher_forced(body: bytes, n_prompt: int, n_completion: int) -> TeacherForced:
    """The reference's top-k at each of the candidate's tokens, from `/v1/completions` with `prompt_logprobs`
    over prompt ids + completion ids.

    Shapes:  top has n_completion entries.
    Units:   nats.
    Raises:  DecodeError; also when the reply covers another number of positions than the two counts say.
    """
    return TeacherForced(top=_forced(_scored(body), n_prompt, n_completion))


def decode_verification(
    body: bytes, n_prompt: int, n_completion: int
) -> tuple[tuple[Mapping[str, float], ...], Choice]:
    """The reference's top-k at each of the given tokens, and the token of its own that comes after them.

    Shapes:  one list per given token.
    Units:   nats.
    Raises:  DecodeError, as `decode_teacher_forced`.
    """
    item = _scored(body)
    return _forced(item, n_prompt, n_completion), _choice("completion", item)


def _scored(body: bytes) -> dict[str, Json]:
    """The first choice of a scoring call's reply."""
    data = parse_object(body, "reply")
    if data.get("error") is not None:
        raise DecodeError(DecodeReason.ERROR_REPLY, "reply")
    items = as_list(data.get("choices"), "choices")
    if not items:
        raise DecodeError(DecodeReason.EMPTY, "no choices")
    return as_object(items[0], "choices")


def _forced(item: dict[str, Json], n_prompt: int, n_completion: int) -> tuple[Mapping[str, float], ...]:
    steps = as_list(item.get("prompt_logprobs"), "prompt_logprobs")
    if n_prompt < 1 or n_completion < 0 or len(steps) != n_prompt + n_completion:
        raise wrong("prompt_logprobs: number of positions")
    return tuple([prompt_step(step) for step in steps[n_prompt:]])


def _kind_of(path: str) -> Kind:
    plain = path.partition("?")[0]
    if plain == "/v1/chat/completions":
        return "chat"
    if plain == "/v1/completions":
        return "completion"
    raise DecodeError(DecodeReason.PATH)


def _flag(value: Json, where: str) -> bool:
    if value is None:
        return False
    if type(value) is not bool:
        raise wrong(where)
    return value


def _offered(data: dict[str, Json]) -> dict[str, Json]:
    """Offered functions by name with their schema; a function without parameters takes an object."""
    functions = [
        as_object(tool.get("function"), "tools.function")
        for tool in (as_object(item, "tools") for item in as_list(data.get("tools"), "tools"))
        if tool.get("type", "function") == "function"
    ]
    functions += [as_object(item, "functions") for item in as_list(data.get("functions"), "functions")]
    offered: dict[str, Json] = {}
    for function in functions:
        name, schema = function.get("name"), function.get("parameters")
        if type(name) is not str or not name:
            raise wrong("tools.function.name")
        offered[name] = {"type": "object"} if schema is None else schema
    return offered


def _prompt_text(kind: Kind, data: dict[str, Json]) -> str:
    if kind == "completion":
        prompt = data.get("prompt")
        if type(prompt) is not list:
            return as_text(prompt, "prompt")
        return "\n".join(item for item in prompt if type(item) is str)
    messages = [as_object(item, "messages") for item in as_list(data.get("messages"), "messages")]
    if not messages:
        raise wrong("messages")
    return "\n".join(text for text in (content_text(m.get("content"), "messages.content") for m in messages) if text)


def _choice(kind: Kind, item: dict[str, Json]) -> Choice:
    index = choice_index(item.get("index"))
    finish_reason = optional_text(item.get("finish_reason"), "finish_reason")
    ids = token_ids(item.get("token_ids"), "token_ids")
    if kind == "completion":
        return Choice(
            index=index,
            text=as_text(item.get("text"), "choices.text"),
            finish_reason=finish_reason,
            token_ids=ids,
            logprobs=completion_logprobs(item.get("logprobs")),
        )
    message = as_object(item.get("message"), "choices.message")
    reasoning = message.get("reasoning")
    return Choice(
        index=index,
        text=content_text(message.get("content"), "message.content"),
        tool_calls=_calls(message),
        finish_reason=finish_reason,
        refusal=optional_text(message.get("refusal"), "message.refusal"),
        reasoning=optional_text(message.get("reasoning_content") if reasoning is None else reasoning, "reasoning"),
        token_ids=ids,
        logprobs=chat_logprobs(item.get("logprobs")),
    )


def _calls(message: dict[str, Json]) -> tuple[ToolCall, ...]:
    calls = as_list(message.get("tool_calls"), "tool_calls")
    if calls:
        return tuple(tool_call(as_object(call, "tool_calls").get("function"), "tool_calls.function") for call in calls)
    legacy = message.get("function_call")
    return () if legacy is None else (tool_call(legacy, "function_call"),)
