"""Streamed replies as vLLM 0.32 writes them: one server-sent event per token that shows, in order of generation."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from backends.scripted.ask import Ask
from backends.scripted.generate import Generated
from backends.scripted.reply import (
    Stamp,
    chat_logprobs,
    completion_logprobs,
    finish_reason,
    tool_call_id,
    usage,
    written_length,
)
from backends.scripted.tokens import token_bytes

DONE = b"data: [DONE]\n\n"


def events(ask: Ask, stamp: Stamp, choices: Sequence[Generated]) -> Iterator[tuple[int, bytes]]:
    """(tokens generated so far by the longest choice, one event) for the whole reply, [DONE] included."""
    writers = [_Writer(ask, stamp, index, choice) for index, choice in enumerate(choices)]
    if ask.chat:
        for writer in writers:
            yield 0, writer.opening()
    longest = max(len(choice.tokens) for choice in choices)
    for place in range(longest):
        for writer in writers:
            event = writer.event(place)
            if event:
                yield place + 1, event
    if ask.include_usage:
        prompts = sum(len(choice.prompt.ids) for choice in choices[:: ask.n])
        counts = usage(prompts, sum(len(choice.tokens) for choice in choices))
        last = {**_head(ask, stamp), "choices": [], "usage": counts, "system_fingerprint": stamp.fingerprint}
        yield longest, _event(last)
    yield longest, DONE


class _Writer:
    """One choice's events. Text that a byte-level token leaves unfinished waits for the next one."""

    def __init__(self, ask: Ask, stamp: Stamp, index: int, choice: Generated) -> None:
        self._ask = ask
        self._stamp = stamp
        self._index = index
        self._choice = choice
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._left = choice.text
        self._calls = _CallDeltas(choice, stamp, index) if choice.whole and choice.said.calls and ask.chat else None
        self._offset = 0
        self._at = 0

    def opening(self) -> bytes:
        """The chat's first event: the role, and the prompt's token ids when asked for."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}
        ids = self._choice.prompt.ids if self._ask.return_token_ids else None
        counts = {"usage": self._usage(0)} if self._ask.continuous_usage else {}
        prompt = {"prompt_token_ids": ids, "prompt_text": None}
        return _event({**_head(self._ask, self._stamp), "choices": [choice], **counts, **prompt})

    def event(self, place: int) -> bytes:
        """The event of the token at a place; empty when nothing of it shows."""
        tokens = self._choice.tokens
        if place >= len(tokens):
            return b""
        piece = token_bytes(tokens[place])
        final = place == len(tokens) - 1
        start, self._at = self._at, self._at + len(piece)
        body = self._chat(place, piece, start, final) if self._ask.chat else self._completion(place, piece, final)
        if not body:
            return b""
        if self._ask.continuous_usage:
            body["usage"] = self._usage(place + 1)
        if final and not self._ask.include_usage:
            body["system_fingerprint"] = self._stamp.fingerprint
        return _event(body)

    def _chat(self, place: int, piece: bytes, start: int, final: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if self._calls is not None:
            calls = self._calls.upto(start, self._at)
            if calls:
                delta = {"content": None, "tool_calls": calls}
        else:
            text = self._text(piece, final)
            if text or final:
                delta = {"content": text}
        shows = delta or final or self._ask.logprobs is not None or self._ask.return_token_ids
        if not shows:
            return {}
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": chat_logprobs(self._ask, self._choice.steps[place : place + 1]),
            "finish_reason": finish_reason(self._ask, self._choice) if final else None,
        }
        if final:
            choice["stop_reason"] = self._choice.stop_reason
        choice["token_ids"] = self._choice.tokens[place : place + 1] if self._ask.return_token_ids else None
        return {**_head(self._ask, self._stamp), "choices": [choice]}

    def _completion(self, place: int, piece: bytes, final: bool) -> dict[str, Any]:
        steps = self._choice.steps[place : place + 1]
        with_ids = self._ask.return_token_ids
        choice = {
            "index": self._index,
            "text": self._text(piece, final),
            "logprobs": completion_logprobs(self._ask, steps, self._offset),
            "finish_reason": self._choice.finish if final else None,
            "stop_reason": self._choice.stop_reason if final else None,
            "prompt_token_ids": self._choice.prompt.ids if with_ids and place == 0 else None,
            "token_ids": self._choice.tokens[place : place + 1] if with_ids else None,
        }
        self._offset += written_length(self._ask, steps)
        return {**_head(self._ask, self._stamp), "choices": [choice]}

    def _usage(self, tokens: int) -> dict[str, Any]:
        counts = usage(len(self._choice.prompt.ids), tokens)
        return {**counts, "completion_tokens_details": None} if self._ask.chat else counts

    def _text(self, piece: bytes, final: bool) -> str:
        """What this token adds to the text: never more than the choice's text, which a stop string may have cut."""
        text = self._decoder.decode(piece, final)[: len(self._left)]
        self._left = self._left[len(text) :]
        return text


class _CallDeltas:
    """Tool-call deltas as the raw text grows: the name once it is whole, then the arguments piece by piece."""

    def __init__(self, choice: Generated, stamp: Stamp, index: int) -> None:
        self._raw = choice.said.text.encode("utf-8", "replace")
        self._stamp = stamp
        self._index = index
        self._spans: list[tuple[str, int, int]] = []
        self._named = 0
        self._decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in choice.said.calls]
        at = 0
        for name, arguments in choice.said.calls:
            opening = f'<tool_call>\n{{"name": "{name}", "arguments": '.encode("utf-8", "replace")
            start = at + len(opening)
            end = start + len(arguments.encode("utf-8", "replace"))
            self._spans.append((name, start, end))
            at = end + len("}\n</tool_call>\n")

    def upto(self, start: int, end: int) -> list[dict[str, Any]]:
        """The deltas of the bytes from start to end of the raw text."""
        deltas: list[dict[str, Any]] = []
        for place, (name, first, last) in enumerate(self._spans):
            if place == self._named and end >= first:
                self._named += 1
                head = {"id": tool_call_id(self._stamp, self._index, place), "type": "function", "index": place}
                deltas.append({**head, "function": {"name": name}})
            low, high = max(start, first), min(end, last)
            if low < high:
                text = self._decoders[place].decode(self._raw[low:high])
                if text:
                    deltas.append({"index": place, "function": {"arguments": text}})
        return deltas


def _head(ask: Ask, stamp: Stamp) -> dict[str, Any]:
    kind = "chat.completion.chunk" if ask.chat else "text_completion"
    return {"id": stamp.id, "object": kind, "created": stamp.created, "model": ask.model}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS) + b"\n\n"
