"""Streamed replies as vLLM 0.32 writes them: one server-sent event per token that shows, in order of generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

import orjson

from backends.dialect.ask import Ask
from backends.dialect.reply import chat_logprobs, completion_logprobs, finish_reason, usage, written_length
from backends.dialect.words import P, Stamp, Step

DONE = b"data: [DONE]\n\n"


class ChoiceStream(Generic[P]):
    """One choice's events, token by token; whoever makes the tokens also says what of them shows."""

    def __init__(self, ask: Ask[P], stamp: Stamp, index: int, prompt_ids: Sequence[int]) -> None:
        self._ask = ask
        self._stamp = stamp
        self._index = index
        self._prompt_ids = prompt_ids
        self._offset = 0
        self._tokens = 0

    def opening(self) -> bytes:
        """The chat's first event: the role, and the prompt's token ids when asked for."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}
        ids = self._prompt_ids if self._ask.return_token_ids else None
        counts = {"usage": self._usage()} if self._ask.continuous_usage else {}
        prompt = {"prompt_token_ids": ids, "prompt_text": None}
        return _event({**_head(self._ask, self._stamp), "choices": [choice], **counts, **prompt})

    def event(
        self,
        token: int,
        steps: Sequence[Step],
        text: str,
        calls: Sequence[dict[str, Any]] = (),
        *,
        finish: str | None = None,
        stop_reason: str | int | None = None,
        called: bool = False,
    ) -> bytes:
        """The event of the next token; empty when nothing of it shows.

        `steps` is its distribution when logprobs were asked for; `calls` are tool-call deltas, and `called` says that
        the reply holds some; `finish` ends the choice.
        """
        self._tokens += 1
        if self._ask.chat:
            body = self._chat(token, steps, text, calls, finish, stop_reason, called=called)
        else:
            body = self._completion(token, steps, text, finish, stop_reason)
        if not body:
            return b""
        if self._ask.continuous_usage:
            body["usage"] = self._usage()
        if finish and not self._ask.include_usage:
            body["system_fingerprint"] = self._stamp.fingerprint
        return _event(body)

    def _chat(
        self,
        token: int,
        steps: Sequence[Step],
        text: str,
        calls: Sequence[dict[str, Any]],
        finish: str | None,
        stop_reason: str | int | None,
        *,
        called: bool,
    ) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if calls:
            delta = {"content": text or None, "tool_calls": list(calls)}
        elif text or (finish and not called):
            delta = {"content": text}
        if not (delta or finish or self._ask.logprobs is not None or self._ask.return_token_ids):
            return {}
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": chat_logprobs(self._ask, steps),
            "finish_reason": finish_reason(self._ask, finish, called=called) if finish else None,
        }
        if finish:
            choice["stop_reason"] = stop_reason
        choice["token_ids"] = [token] if self._ask.return_token_ids else None
        return {**_head(self._ask, self._stamp), "choices": [choice]}

    def _completion(
        self, token: int, steps: Sequence[Step], text: str, finish: str | None, stop_reason: str | int | None
    ) -> dict[str, Any]:
        with_ids, first = self._ask.return_token_ids, self._tokens == 1
        choice = {
            "index": self._index,
            "text": text,
            "logprobs": completion_logprobs(self._ask, steps, self._offset),
            "finish_reason": finish,
            "stop_reason": stop_reason,
            "prompt_token_ids": self._prompt_ids if with_ids and first else None,
            "token_ids": [token] if with_ids else None,
        }
        self._offset += written_length(self._ask, steps)
        return {**_head(self._ask, self._stamp), "choices": [choice]}

    def _usage(self) -> dict[str, Any]:
        counts = usage(len(self._prompt_ids), self._tokens)
        return {**counts, "completion_tokens_details": None} if self._ask.chat else counts


def usage_event(ask: Ask[P], stamp: Stamp, prompt_tokens: int, completion_tokens: int) -> bytes:
    """The event before [DONE] that counts all choices, when the client asked for it."""
    counts = usage(prompt_tokens, completion_tokens)
    return _event({**_head(ask, stamp), "choices": [], "usage": counts, "system_fingerprint": stamp.fingerprint})


def _head(ask: Ask[P], stamp: Stamp) -> dict[str, Any]:
    kind = "chat.completion.chunk" if ask.chat else "text_completion"
    return {"id": stamp.id, "object": kind, "created": stamp.created, "model": ask.model}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS) + b"\n\n"
