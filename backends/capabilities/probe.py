"""Asks one engine what it can do: about nine tiny requests, one after the other, none of them a client's.

All is asked for in one request first. Only where that is refused is each part asked for alone, to learn which it was.
The first answer that shows that nobody is there (or that our key is not taken) ends it: the rest stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from backends.base import Backend, BackendError, BackendUnavailable, Reply
from backends.capabilities.record import Capabilities, Capability, Finding
from backends.capabilities.reply import (
    about_the_model,
    calls_in,
    card_of,
    choice_of,
    entries_of,
    error_line,
    events_in,
    ids_in,
    keyed_by_id,
    list_length,
    object_in,
    prompt_count,
    prompt_ids,
)
from backends.contract import context_length
from backends.conversation import conversation_tokens

PROBE_TIMEOUT_S = 30.0  # *choice*: per request; the first chat of a cold vLLM took more than 10 s on two busy cores
MAX_TOKENS = 4  # *choice*: enough for a list per token
CALL_TOKENS = 64  # *choice*: an empty call in the Hermes format has about twenty, byte by byte fifty
FEWER = (10, 5, 1)  # *choice*: asked for in turn where the configured number is refused

_MESSAGES = ({"role": "user", "content": "Say: one two three"},)
_TOOL = {
    "type": "function",
    "function": {"name": "ping", "description": "Says pong.", "parameters": {"type": "object", "properties": {}}},
}
_FEW_IDS = (1, 2, 3)  # where an engine tells no ids: small ones are in every vocabulary

_NOBODY = frozenset({401, 403, 407, 408, 425, 429, 502, 503, 504})  # speaks of our key, of load, of a gateway
_NO_ENDPOINT = frozenset({404, 405, 501})


class _Silent(Exception):
    """Nobody is there to ask; str() says why."""


async def find(
    backend: Backend,
    model: str | None,
    *,
    top_logprobs: int,
    teacher_forcing: bool,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> Capabilities:
    """What the engine can do. Never raises for what it answers, nor when it does not.

    `model` None takes the first that it lists. `teacher_forcing` asks for prompt logprobs of three to twenty tokens: of
    the reference alone: a candidate is never asked for them, because they can exhaust an engine's memory.
    """
    probe = _Probe(backend, top_logprobs, timeout_s)
    try:
        await probe.identity(model)
        if await probe.chat():
            await probe.streamed()
            await probe.tools()
        await probe.completions(teacher_forcing)
    except _Silent as silence:
        probe.silent(str(silence))
    if not teacher_forcing:
        probe.findings.pop(Capability.PROMPT_LOGPROBS, None)
    return probe.record()


class _Probe:
    """One engine's questions and what came of them."""

    def __init__(self, backend: Backend, top_logprobs: int, timeout_s: float) -> None:
        self._backend = backend
        self._top = top_logprobs
        self._timeout_s = timeout_s
        self._model = ""
        self._engine = ""
        self._length: int | None = None
        self._listed: int | None = None
        self._ids: tuple[int, ...] = ()
        self._plain_count: int | None = None
        self._requests = 0
        self._why: dict[Capability, str] = {}
        self.findings: dict[Capability, Finding] = dict.fromkeys(Capability, Finding.UNKNOWN)

    def record(self) -> Capabilities:
        return Capabilities(
            findings=dict(self.findings),
            asked_top_logprobs=self._top,
            top_logprobs=self._listed,
            max_model_len=self._length,
            engine=self._engine,
            why=dict(self._why),
            requests=self._requests,
        )

    def silent(self, why: str) -> None:
        for capability, finding in self.findings.items():
            if finding is Finding.UNKNOWN:
                self._why.setdefault(capability, why)

    # ---- what the server says of itself

    async def identity(self, model: str | None) -> None:
        listing = await self._get("/v1/models")
        card = card_of(object_in(listing), model) if listing.ok else {}
        named = card.get("id")
        self._model = model or (named if isinstance(named, str) else "")
        owner = card.get("owned_by")
        self._engine = owner[:40] if isinstance(owner, str) else ""
        self._length = context_length(card)
        self._note(Capability.MAX_MODEL_LEN, listing, self._length is not None, plain=True)
        version = await self._get("/version")
        self._note(Capability.VERSION, version, isinstance(object_in(version).get("version"), str), plain=True)
        ids, tokens = await conversation_tokens(self._post, self._model, _MESSAGES)
        self._ids = tuple(ids)
        self._note(Capability.TOKENIZE, tokens, bool(self._ids), plain=True)

    # ---- chats

    async def chat(self) -> bool:
        """Whether it answers chats at all; on the way, all that one chat shows."""
        whole = await self._chat(**self._logprobs(self._top), **_IDS, **_ID_KEYS, seed=7)
        if whole.ok:
            self.findings |= {Capability.CHAT: Finding.HAS, Capability.SEED: Finding.HAS}
            self._read_logprobs(whole)
            self._read_ids(whole)
            self._read_keys(whole)
            return True
        plain = await self._chat()
        self._note(Capability.CHAT, plain, True, plain=True)
        if not plain.ok:
            return False
        self._plain_count = prompt_count(object_in(plain))
        await self._chat_parts()
        return True

    async def _chat_parts(self) -> None:
        """Each part of the whole request alone: it was refused, and the plain one was not."""
        listed = await self._chat(**self._logprobs(self._top))
        for fewer in (one for one in FEWER if one < self._top):
            if listed.ok:
                break
            self._refused(Capability.TOP_LOGPROBS, listed)
            listed = await self._chat(**self._logprobs(fewer))
        if listed.ok:
            self._read_logprobs(listed)
            keyed = await self._chat(**self._logprobs(1), **_ID_KEYS)
            if keyed.ok:
                self._read_keys(keyed)
            elif keyed_by_id(entries_of(choice_of(object_in(listed)))):
                self.findings[Capability.TOKEN_ID_KEYS] = Finding.HAS
            else:
                self._refused(Capability.TOKEN_ID_KEYS, keyed)
        else:
            self._refused(Capability.LOGPROBS, listed)
            self._refused(Capability.TOP_LOGPROBS, listed)
            self._refused(Capability.TOKEN_ID_KEYS, listed)
        with_ids = await self._chat(**_IDS)
        if with_ids.ok:
            self._read_ids(with_ids)
        else:
            self._refused(Capability.TOKEN_IDS, with_ids)
        seeded = await self._chat(seed=7)
        if seeded.ok:
            self.findings[Capability.SEED] = Finding.HAS
        else:
            self._refused(Capability.SEED, seeded)

    def _read_logprobs(self, reply: Reply) -> None:
        entries = entries_of(choice_of(object_in(reply)))
        length = list_length(entries)
        self._listed = length or None
        self.findings[Capability.LOGPROBS] = _had(bool(entries))
        if self.findings[Capability.TOP_LOGPROBS] is Finding.UNKNOWN:
            self.findings[Capability.TOP_LOGPROBS] = _had(length >= self._top)

    def _read_ids(self, reply: Reply) -> None:
        told = object_in(reply)
        prompt, own = prompt_ids(told), ids_in(choice_of(told).get("token_ids"))
        self._ids = prompt or self._ids
        self.findings[Capability.TOKEN_IDS] = _had(bool(prompt and own))

    def _read_keys(self, reply: Reply) -> None:
        self.findings[Capability.TOKEN_ID_KEYS] = _had(keyed_by_id(entries_of(choice_of(object_in(reply)))))

    async def streamed(self) -> None:
        if self.findings[Capability.LOGPROBS] is not Finding.HAS:
            self.findings[Capability.STREAM_LOGPROBS] = self.findings[Capability.LOGPROBS]
            if Capability.LOGPROBS in self._why:
                self._why[Capability.STREAM_LOGPROBS] = self._why[Capability.LOGPROBS]
            return
        reply = await self._chat(stream=True, **self._logprobs(1))
        shown = any(entries_of(choice_of(event)) for event in events_in(reply)) if reply.ok else False
        self._note(Capability.STREAM_LOGPROBS, reply, shown)

    async def tools(self) -> None:
        """Offered tools make a prompt longer, whatever the model answers; a named one is called, whatever it would say.

        An engine that does not count prompt tokens is judged by the call alone.
        """
        offered = await self._chat(tools=[_TOOL])
        named = {"type": "function", "function": {"name": "ping"}}
        called = await self._post_chat({"tools": [_TOOL], "tool_choice": named, "max_tokens": CALL_TOKENS})
        does_call = called.ok and calls_in(object_in(called))
        self._note(Capability.TOOL_CHOICE, called, does_call)
        if self._plain_count is None:
            self._plain_count = prompt_count(object_in(await self._chat()))
        count = prompt_count(object_in(offered))
        longer = count is not None and self._plain_count is not None and count > self._plain_count
        self._note(Capability.TOOLS, offered, longer or does_call)

    # ---- completions

    async def completions(self, teacher_forcing: bool) -> None:
        plain = await self._post("/v1/completions", {"prompt": "one two", "max_tokens": 1, "temperature": 0})
        self._note(Capability.COMPLETIONS, plain, True, plain=True)
        if not teacher_forcing:
            return
        if not plain.ok:
            self.findings[Capability.PROMPT_LOGPROBS] = self.findings[Capability.COMPLETIONS]
            self._why[Capability.PROMPT_LOGPROBS] = error_line(plain)
            return
        ids = list(self._ids or _FEW_IDS)
        body = {"prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
        forced = await self._post("/v1/completions", body)
        rows = choice_of(object_in(forced)).get("prompt_logprobs") if forced.ok else None
        shown = isinstance(rows, list) and len(rows) == len(ids) and isinstance(rows[-1], dict)
        self._note(Capability.PROMPT_LOGPROBS, forced, shown)

    # ---- asking

    def _logprobs(self, top: int) -> dict[str, Any]:
        return {"logprobs": True, "top_logprobs": top}

    async def _chat(self, **more: Any) -> Reply:
        return await self._post_chat({"max_tokens": MAX_TOKENS, **more})

    async def _post_chat(self, more: Mapping[str, Any]) -> Reply:
        return await self._post("/v1/chat/completions", {"messages": _MESSAGES, "temperature": 0, **more})

    async def _get(self, path: str) -> Reply:
        return self._heard(await self._asked(path, None))

    async def _post(self, path: str, body: Mapping[str, Any]) -> Reply:
        model = {"model": self._model} if self._model else {}
        return self._heard(await self._asked(path, orjson.dumps({**model, **body})))

    async def _asked(self, path: str, body: bytes | None) -> Reply:
        """One reply. Asked once more where the connection broke: llama.cpp closes one after a stream that it had
        promised to keep."""
        try:
            try:
                return await self._sent(path, body)
            except BackendUnavailable:
                return await self._sent(path, body)
        except BackendError as error:
            raise _Silent(str(error)) from error

    async def _sent(self, path: str, body: bytes | None) -> Reply:
        self._requests += 1
        if body is None:
            return await self._backend.get(path, self._timeout_s)
        return await self._backend.post(path, body, {"content-type": "application/json"}, self._timeout_s)

    def _heard(self, reply: Reply) -> Reply:
        if reply.status in _NOBODY or (reply.status == 404 and about_the_model(reply)):
            raise _Silent(error_line(reply))
        return reply

    # ---- noting

    def _note(self, capability: Capability, reply: Reply, shown: bool, *, plain: bool = False) -> None:
        """What a reply to a request for one capability says of it.

        `plain`: there was nothing in it to refuse, so a 5xx speaks of the engine's health. Where the same without the
        capability was answered, it is a no.
        """
        if reply.ok:
            self.findings[capability] = _had(shown)
        elif reply.status in _NO_ENDPOINT:
            self.findings[capability] = Finding.MISSING
        elif plain and reply.status >= 500:
            self._why[capability] = error_line(reply)
        else:
            self._refused(capability, reply)

    def _refused(self, capability: Capability, reply: Reply) -> None:
        self.findings[capability] = Finding.REFUSED
        self._why[capability] = error_line(reply)


_IDS = {"return_token_ids": True}
_ID_KEYS = {"return_tokens_as_token_ids": True}


def _had(shown: bool) -> Finding:
    return Finding.HAS if shown else Finding.IGNORED
