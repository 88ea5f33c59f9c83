"""A whole recorded event stream -> choices. Back room of decode.py.

Streams are merged by choice index (n > 1 comes interleaved), tool-call deltas by their own index.
A stream is whole only with `[DONE]` and a finish reason on every choice it began: anything less was cut.

Source:  WHATWG HTML, "server-sent events" (framing); vLLM 0.32 and the openai SDK (deltas are concatenated).
"""

from __future__ import annotations

import re
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
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')  # inside a JSON string, what stands for itself
_TEXT_EVENT = re.compile(rb'(.*?"content": ?")([^"\\]*)(".*)', re.DOTALL)
_MORE_THAN_TEXT = frozenset(
    {"usage", "prompt_token_ids", "finish_reason", "token_ids", "logprobs", "refusal", "reasoning", "reasoning_content",
     "tool_calls", "function_call", "error"}
)  # fmt: skip
_MAX_GUESSES = 8  # choice: the first event names the role, and escaped text may come before plain one
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
    if event.startswith(b"data: ") and b"\n" not in event:  # nearly every event is one such line
        return event[6:]
    lines = (line for line in event.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def decode_stream(kind: Literal["chat", "completion"], body: bytes) -> DecodedReply:
    """The reply that the stream adds up to.

    Raises:  DecodeError.
    """
    reply = _Reply()
    done = False
    usual: _Usual | None = None
    guesses = _MAX_GUESSES if kind == "chat" else 0
    for data in event_data(body):
        if usual is not None and usual.add(data):
            continue
        if data.strip() == _DONE:
            done = True
            break
        chunk = _chunk(data)
        _add_chunk(reply, kind, chunk)
        if guesses:
            guesses -= 1
            usual = _usual(reply, data, chunk) or usual
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


class _Usual:
    """An event that adds text to one choice and nothing else. Those that differ in the text alone need no JSON."""

    __slots__ = ("_after", "_before", "_fingerprint", "_model", "_reply", "_text")

    def __init__(
        self, reply: _Reply, before: bytes, after: bytes, text: list[str], model: str, fingerprint: str | None
    ) -> None:
        self._reply = reply
        self._before = before
        self._after = after
        self._text = text
        self._model = model
        self._fingerprint = fingerprint

    def add(self, data: bytes) -> bool:
        """Whether it is such an event, whose text is then added. Escaped text is left to the parser."""
        if not data.startswith(self._before) or not data.endswith(self._after):
            return False
        text = _PLAIN.fullmatch(data, len(self._before), len(data) - len(self._after))
        if text is None:
            return False
        try:
            self._text.append(text[0].decode())
        except UnicodeDecodeError:
            return False
        self._reply.model = self._model or self._reply.model
        self._reply.fingerprint = self._fingerprint or self._reply.fingerprint
        return True


def _usual(reply: _Reply, data: bytes, chunk: dict[str, Json]) -> _Usual | None:
    """The pattern of this event, if all that it did was to add text, so that it may be done again."""
    found, choices = _TEXT_EVENT.fullmatch(data), chunk.get("choices")
    if found is None or not isinstance(choices, list) or len(choices) != 1:
        return None
    part = as_object(choices[0], "choices")
    delta = as_object(part.get("delta") or {}, "delta")
    said = {key for fields in (chunk, part, delta) for key, value in fields.items() if value is not None}
    if said & _MORE_THAN_TEXT or not isinstance(delta.get("content"), str):
        return None
    # Another text in its place must change the content and nothing else: then the pattern cannot be mistaken.
    other = parse_object(found[1] + b"another text" + found[3], "chunk")
    if other != {**chunk, "choices": [{**part, "delta": {**delta, "content": "another text"}}]}:
        return None
    model, fingerprint = as_text(chunk.get("model"), "model"), optional_text(chunk.get("system_fingerprint"), "")
    return _Usual(reply, found[1], found[3], reply.choices[choice_index(part.get("index"))].text, model, fingerprint)


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
