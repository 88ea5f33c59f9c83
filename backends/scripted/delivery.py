"""One completion on its way to the client: generated, timed, and spoiled where a fault says so."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter

from backends.dialect.ask import error_body
from backends.dialect.reply import whole
from backends.dialect.wire import Connection, Request, chunk, head_of
from backends.dialect.words import Stamp
from backends.scripted.ask import Ask
from backends.scripted.faults import Fault
from backends.scripted.generate import Generated, Run, generate, prefill
from backends.scripted.script import Script
from backends.scripted.stream import events
from backends.scripted.tokens import unit

_EVENT_STREAM = "text/event-stream; charset=utf-8"
_SLOWER = 10.0


class Delivery:
    """One completion on its way to the client: generated, timed, and spoiled where a fault says so."""

    def __init__(
        self, script: Script, struck: Counter[str], connection: Connection, request: Request, ask: Ask, run: Run
    ) -> None:
        self._script = script
        self._struck = struck
        self._connection = connection
        self._request = request
        self._ask = ask
        self._run = run
        slow = self._hit(Fault.SLOW)
        self._factor = _SLOWER if slow else 1.0
        self._first_s = self._script.ttft_s * self._factor + (0.5 if slow else 0.0)

    async def send(self) -> bool:
        """The reply, or what the fault makes of it; False when the connection must end."""
        going_on = await self._spoiled_at_once()
        if going_on is not None:
            return going_on
        choices = [
            generate(self._ask, prompt, index, self._run, self._script.max_model_len - len(prompt.ids))
            for prompt in self._ask.prompts
            for index in range(self._ask.n)
        ]
        for choice in choices:
            self._struck.update(str(fault) for fault in choice.said.struck)
        if self._ask.logprobs is not None:
            self._hit(Fault.LOGPROBS)
        await self._wait(self._first_s, 0)
        return await (self._stream(choices) if self._ask.stream else self._whole(choices))

    def _hit(self, fault: Fault) -> bool:
        if fault not in self._run.faults:
            return False
        self._struck[str(fault)] += 1
        return True

    async def _spoiled_at_once(self) -> bool | None:
        """None when no fault strikes before the reply; else whether the connection goes on after it."""
        connection = self._connection
        if self._hit(Fault.STALL):
            await asyncio.Event().wait()  # until the client gives up, or the server closes
        if self._hit(Fault.CLOSE_AT_ONCE):
            return False
        if self._hit(Fault.CLOSE_IN_HEAD):
            connection.writer.write(b"HTTP/1.1 200 OK\r\ncontent-ty")
            return False
        if self._hit(Fault.GARBAGE):
            connection.writer.write(b"\x16\x03\x01garbage that is no HTTP at all\r\n\r\n")
            return False
        if self._ask.prompt_logprobs is not None and self._hit(Fault.PROMPT_LOGPROBS):
            body = error_body(400, "`prompt_logprobs` are not supported.", "BadRequestError", "prompt_logprobs")
            await connection.reply(400, body, close=not self._request.keeps_alive)
            return True
        if self._hit(Fault.ERROR_500):
            body = error_body(500, "EngineCore encountered an issue.", "InternalServerError")
            await connection.reply(500, body, close=not self._request.keeps_alive)
            return True
        return None

    async def _whole(self, choices: list[Generated]) -> bool:
        ask = self._ask
        prefills = [prefill(p, self._run.drift) for p in ask.prompts] if ask.prompt_logprobs is not None else []
        body = whole(ask, self._stamp(), choices, prefills)
        longest = max(len(choice.tokens) for choice in choices)
        await self._wait(self._script.token_interval_s * self._factor * longest, longest)
        close = not self._request.keeps_alive
        head = head_of(200, "application/json", len(body), close=close)
        if await self._broken([head + body[: len(body) // 2]]):
            return False
        self._connection.writer.write(head + body)
        await self._connection.writer.drain()
        return True

    async def _stream(self, choices: list[Generated]) -> bool:
        writer = self._connection.writer
        chunked = self._request.version == "HTTP/1.1"
        close = not self._request.keeps_alive or not chunked
        written = list(events(self._ask, self._stamp(), choices))
        head = head_of(200, _EVENT_STREAM, None, close=close, chunked=chunked)
        half = [chunk(event) if chunked else event for _, event in written[: len(written) // 2]]
        if await self._broken([head, *half]):
            return False
        writer.write(head)
        done = 0
        for tokens, event in written:
            if tokens > done:
                await self._wait(self._script.token_interval_s * self._factor, tokens)
                done = tokens
            writer.write(chunk(event) if chunked else event)
            await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return chunked

    async def _broken(self, half: list[bytes]) -> bool:
        """Half of the reply and then nothing, a close or a reset, when a fault says so."""
        faults = (Fault.CUT_STREAM, Fault.RESET, Fault.STALL_STREAM)
        fault = next((fault for fault in faults if fault in self._run.faults), None)
        if fault is None:
            return False
        self._hit(fault)
        for part in half:
            self._connection.writer.write(part)
            await self._connection.writer.drain()
        if fault is Fault.STALL_STREAM:
            await asyncio.Event().wait()
        if fault is Fault.RESET:
            self._connection.reset()
        return True

    async def _wait(self, seconds: float, place: int) -> None:
        if seconds > 0.0:
            vary = self._script.jitter * (2.0 * unit(self._ask.prompts[0].state ^ place) - 1.0)
            await asyncio.sleep(seconds * (1.0 + vary))

    def _stamp(self) -> Stamp:
        digest = hashlib.blake2b(self._request.body, digest_size=8).hexdigest()
        prefix = "chatcmpl" if self._ask.chat else "cmpl"
        return Stamp(f"{prefix}-{digest}", self._script.created_unix_s, self._script.fingerprint)
