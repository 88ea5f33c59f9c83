"""A whole recorded event stream -> choices. Back room of decode.py.

Streams are merged by choice index (n > 1 comes interleaved), tool-call deltas by their own index.
A stream is whole only with `[DONE]` and a finish reason on every choice it began: anything less was cut.

Source:  WHATWG HTML, "server-sent events" (framing); vLLM 0.32 and the openai SDK (deltas are concatenated).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from scorers.records import Choice, DecodedReply, Json, TokenLogprobs, ToolCall
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
    joined,
    optional_count,
    optional_text,
    parse_object,
    token_ids,
    wrong,
)

_BOM = b"\xef\xbb\xbf"
_DONE = b"[DONE]"
_MAX_CALLS = 1024  # choice: an index beyond is garbage, not a call


@dataclass(slots=True)
class _Call:
    name: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Growing:
    """One choice while its chunks arrive."""

    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, _Call] = field(default_factory=dict)
    legacy: _Call | None = None
    ids: list[int] | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(slots=True)
class _Reply:
    choices: dict[int, _Growing] = field(default_factory=dict)
    model: str = ""
    fingerprint: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_ids: tuple[int, ...] | None = None


def event_data(body: bytes) -> Iterator[bytes]:
    """The data of each event in order. Comments, other fields and empty events are skipped.

    An event that no blank line ends was cut: it is left out, unless it is the `[DONE]` that some engines
    end with abruptly.
    """
    text = body.removeprefix(_BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *events, rest = text.split(b"\n\n")
    for event in events:
        data = _data_of(event)
        if data:
            yield data
    if _data_of(rest).strip() == _DONE:
        yield _DONE


def _data_of(event: bytes) -> bytes:
    lines = (line for line in event.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def decode_stream(kind: Literal["chat", "completion"], body: bytes) -> DecodedReply:
    """The reply that the stream adds up to.

    Raises:  DecodeError.
    """
    reply = _Reply()
    done = False
    for data in event_data(body):
        if data.strip() == _DONE:
            done = True
            break
        _add_chunk(reply, kind, _chunk(data))
    if not done:
        raise DecodeError(DecodeReason.TRUNCATED, "no [DONE]")
    if not reply.choices:
        raise DecodeError(DecodeReason.EMPTY, "no choices")
    if any(choice.finish_reason is None for choice in reply.choices.values()):
        raise DecodeError(DecodeReason.TRUNCATED, "no finish_reason")
    return DecodedReply(
        choices=tuple(_settled(index, choice) for index, choice in sorted(reply.choices.items())),
        model=reply.model,
        system_fingerprint=reply.fingerprint,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        prompt_token_ids=reply.prompt_ids,
    )


def _chunk(data: bytes) -> dict[str, Json]:
    chunk = parse_object(data, "chunk")
    if chunk.get("error") is not None:
        raise DecodeError(DecodeReason.ERROR_REPLY, "chunk")
    return chunk


def _add_chunk(reply: _Reply, kind: Literal["chat", "completion"], chunk: dict[str, Json]) -> None:
    reply.model = as_text(chunk.get("model"), "model") or reply.model
    reply.fingerprint = optional_text(chunk.get("system_fingerprint"), "system_fingerprint") or reply.fingerprint
    if chunk.get("usage") is not None:
        usage = as_object(chunk["usage"], "usage")
        reply.prompt_tokens = optional_count(usage.get("prompt_tokens"), "usage.prompt_tokens")
        reply.completion_tokens = optional_count(usage.get("completion_tokens"), "usage.completion_tokens")
    if chunk.get("prompt_token_ids") is not None:
        reply.prompt_ids = token_ids(chunk["prompt_token_ids"], "prompt_token_ids")
    for item in as_list(chunk.get("choices"), "choices"):
        part = as_object(item, "choices")
        if part.get("prompt_token_ids") is not None:
            reply.prompt_ids = token_ids(part["prompt_token_ids"], "prompt_token_ids")
        choice = reply.choices.setdefault(choice_index(part.get("index")), _Growing())
        _add_common(choice, part)
        if kind == "chat":
            _add_delta(choice, part)
        else:
            choice.text.append(as_text(part.get("text"), "choices.text"))
            _add_logprobs(choice, completion_logprobs(part.get("logprobs")))


def _add_common(choice: _Growing, part: dict[str, Json]) -> None:
    choice.finish_reason = optional_text(part.get("finish_reason"), "finish_reason") or choice.finish_reason
    ids = token_ids(part.get("token_ids"), "token_ids")
    if ids is not None:
        if choice.ids is None:
            choice.ids = []
        choice.ids.extend(ids)


def _add_logprobs(choice: _Growing, part: TokenLogprobs | None) -> None:
    if part is not None:
        choice.logprobs.append(part)


def _add_delta(choice: _Growing, part: dict[str, Json]) -> None:
    _add_logprobs(choice, chat_logprobs(part.get("logprobs")))
    delta = as_object(part.get("delta") or {}, "delta")
    if delta.get("content") is not None:
        choice.text.append(content_text(delta["content"], "delta.content"))
    if delta.get("refusal") is not None:
        choice.refusal.append(as_text(delta["refusal"], "delta.refusal"))
    reasoning = delta.get("reasoning")
    if reasoning is None:
        reasoning = delta.get("reasoning_content")
    if reasoning is not None:
        choice.reasoning.append(as_text(reasoning, "delta.reasoning"))
    for position, call in enumerate(as_list(delta.get("tool_calls"), "delta.tool_calls")):
        _add_call(choice, as_object(call, "delta.tool_calls"), position)
    if delta.get("function_call") is not None:
        choice.legacy = choice.legacy or _Call()
        _extend_call(choice.legacy, as_object(delta["function_call"], "delta.function_call"))


def _add_call(choice: _Growing, call: dict[str, Json], position: int) -> None:
    index = optional_count(call.get("index"), "tool_calls.index")
    index = position if index is None else index
    if index >= _MAX_CALLS:
        raise wrong("tool_calls.index")
    _extend_call(choice.calls.setdefault(index, _Call()), as_object(call.get("function") or {}, "tool_calls.function"))


def _extend_call(call: _Call, function: dict[str, Json]) -> None:
    call.name.append(as_text(function.get("name"), "tool_calls.name"))
    if function.get("arguments") is not None:
        call.arguments.append(as_text(function["arguments"], "tool_calls.arguments"))


def _settled(index: int, choice: _Growing) -> Choice:
    calls = [call for _, call in sorted(choice.calls.items())] or ([choice.legacy] if choice.legacy else [])
    return Choice(
        index=index,
        text="".join(choice.text),
        tool_calls=tuple(ToolCall("".join(call.name), "".join(call.arguments)) for call in calls),
        finish_reason=choice.finish_reason,
        refusal="".join(choice.refusal) if choice.refusal else None,
        reasoning="".join(choice.reasoning) if choice.reasoning else None,
        token_ids=None if choice.ids is None else tuple(choice.ids),
        logprobs=joined(choice.logprobs),
    )
