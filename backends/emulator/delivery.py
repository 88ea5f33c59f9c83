"""One request on its way through the engine: jobs out of what was asked, a reply out of what the engine tells."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from backends.dialect import ask as dialect
from backends.dialect.ask import Refused
from backends.dialect.reply import tool_call_id, whole
from backends.dialect.stream import DONE, ChoiceStream, usage_event
from backends.dialect.wire import Connection, Request, chunk, head_of
from backends.dialect.words import Stamp, Step
from backends.emulator.engine import Busy, Closed, Engine
from backends.emulator.hermes import OPEN, CallReader, read_calls
from backends.emulator.sampling import read_sampling
from backends.emulator.sequence import Begun, Job, News, Sequence, Token
from backends.emulator.vocabulary import Prompt, Vocabulary

Ask: TypeAlias = dialect.Ask[Prompt]

MAX_CHOICES = 32  # *choice*: n times prompts of one request

_EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(slots=True)
class Made:
    """One choice as it comes together. Implements `dialect.words.Choice`."""

    prompt_ids: tuple[int, ...]
    reads_calls: bool
    tokens: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    prefill: tuple[Step, ...] = ()
    finish: str = ""
    stop_reason: str | int | None = None
    content: str | None = None
    calls: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, news: Token) -> None:
        """One more token."""
        self.tokens.append(news.token)
        self.pieces.append(news.text)
        if news.step is not None:
            self.steps.append(news.step)
        if news.finish:
            self.finish, self.stop_reason = news.finish, news.stop_reason
            self.content, self.calls = read_calls(self.text) if self.reads_calls else (self.text, ())


class Delivery:
    """Answers one completion request on its connection."""

    def __init__(self, engine: Engine, connection: Connection, request: Request, ask: Ask) -> None:
        """Raises: Refused for what the emulator cannot do."""
        self._engine = engine
        self._connection = connection
        self._request = request
        self._ask = ask
        self._news: asyncio.Queue[tuple[int, News]] = asyncio.Queue()  # bounded by the tokens that were asked for
        self._reads_calls = ask.chat and ask.tools and ask.wish.tool_choice != "none"
        jobs = [job for prompt in ask.prompts for job in self._jobs(prompt)]
        if len(jobs) > MAX_CHOICES:
            raise Refused(400, f"{len(jobs)} choices; the emulator makes at most {MAX_CHOICES} at once.", param="n")
        self._made = [Made(job.prompt, self._reads_calls) for job in jobs]
        special = self._reads_calls or ask.body.get("skip_special_tokens") is False
        self._sequences = [
            Sequence(job, engine.vocabulary.reader(special=special), self._teller(index))
            for index, job in enumerate(jobs)
        ]

    async def send(self) -> bool:
        """The reply; False when the connection must end. Raises: Refused; a client that leaves ends its choices."""
        try:
            self._engine.submit(self._sequences)
        except (Busy, Closed) as error:
            raise Refused(503, str(error), "ServiceUnavailableError") from error
        try:
            return await (self._stream() if self._ask.stream else self._whole())
        finally:
            if any(not one.finish for one in self._made):
                self._engine.cancel(self._sequences)

    async def _next(self) -> tuple[int, Begun | Token]:
        index, news = await self._news.get()
        if isinstance(news, Closed):
            raise Refused(503, str(news), "ServiceUnavailableError")
        if isinstance(news, Exception):
            raise Refused(500, "The emulator failed in a step.", "InternalServerError")
        return index, news

    async def _whole(self) -> bool:
        fingerprint, left = "", len(self._made)
        while left:
            index, news = await self._next()
            if isinstance(news, Begun):
                fingerprint, self._made[index].prefill = news.fingerprint, news.prefill
            else:
                self._made[index].add(news)
                left -= bool(news.finish)
        for one in self._made:
            one.calls = self._allowed(one.calls)
        prefills = [list(one.prefill) for one in self._made[:: self._ask.n]]
        body = whole(
            self._ask, self._stamp(fingerprint), self._made, prefills if self._ask.prompt_logprobs is not None else []
        )
        await self._connection.reply(200, body, close=not self._request.keeps_alive)
        return True

    async def _stream(self) -> bool:
        index, news = await self._next()  # nothing is promised before the engine has begun
        if not isinstance(news, Begun):
            raise AssertionError("a choice begins before it speaks")
        stamp = self._stamp(news.fingerprint)
        writers = [_Writer(self._ask, stamp, place, made) for place, made in enumerate(self._made)]
        chunked = self._request.version == "HTTP/1.1"
        close = not self._request.keeps_alive or not chunked
        out = self._connection.writer
        out.write(head_of(200, _EVENT_STREAM, None, close=close, chunked=chunked))
        left = len(writers)

        async def write(event: bytes) -> None:
            if event:
                out.write(chunk(event) if chunked else event)
                await out.drain()

        for writer in writers:
            await write(writer.opening())
        while left:
            index, more = await self._next()
            if isinstance(more, Token):
                await write(writers[index].event(more))
                left -= bool(more.finish)
        if self._ask.include_usage:
            prompts = sum(len(one.prompt_ids) for one in self._made[:: self._ask.n])
            await write(usage_event(self._ask, stamp, prompts, sum(len(one.tokens) for one in self._made)))
        await write(DONE)
        if chunked:
            out.write(b"0\r\n\r\n")
        await out.drain()
        return chunked

    def _jobs(self, prompt: Prompt) -> list[Job]:
        ask, body, vocabulary = self._ask, self._ask.body, self._engine.vocabulary
        if ask.wish.schema is not None or ask.wish.options:
            raise Refused(400, "The emulator does not support structured outputs.", param="response_format")
        if not prompt.ids:
            raise Refused(400, "The decoder prompt cannot be empty")
        room = self._engine.context - len(prompt.ids)
        ignoring = body.get("ignore_eos") is True
        stop_ids = body.get("stop_token_ids")
        least = body.get("min_tokens")
        job = Job(
            prompt=prompt.ids,
            sampling=read_sampling(body, ask.temperature, vocabulary.size),
            most=min(room, ask.max_tokens if ask.max_tokens is not None else room),
            least=least if type(least) is int and least > 0 else 0,
            logprobs=ask.logprobs,
            prompt_logprobs=ask.prompt_logprobs,
            forced=self._forced(vocabulary),
            ends=frozenset() if ignoring else vocabulary.ends,
            stop_ids=frozenset(
                one
                for one in (stop_ids if isinstance(stop_ids, list) else ())
                if type(one) is int and 0 <= one < vocabulary.size
            ),
            stop=ask.stop,
        )
        return [replace(job, seed=None if ask.seed is None else ask.seed + index) for index in range(ask.n)]

    def _forced(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """What a grammar would make the model begin with when it must call a tool.

        It stops inside of a word or a quote, so that the model goes on in the tokens that it would have chosen itself.
        """
        wish = self._ask.wish
        if not self._reads_calls or wish.tool_choice not in ("required", "named"):
            return ()
        if wish.tool_choice == "required":
            return tuple(vocabulary.forced(OPEN + '{"name": "'))
        offered = [tool.get("function", {}).get("name") for tool in self._ask.body.get("tools", ())]
        if wish.tool not in offered:
            raise Refused(400, f"The tool `{wish.tool}` in `tool_choice` is not among `tools`.", param="tool_choice")
        return tuple(vocabulary.forced(f'{OPEN}{{"name": "{wish.tool}", "arguments'))

    def _allowed(self, calls: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return calls if self._ask.wish.parallel else calls[:1]

    def _teller(self, index: int) -> Callable[[News], None]:
        loop, queue = asyncio.get_running_loop(), self._news

        def tell(news: News) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, (index, news))

        return tell

    def _stamp(self, fingerprint: str) -> Stamp:
        prefix = "chatcmpl" if self._ask.chat else "cmpl"
        return Stamp(f"{prefix}-{secrets.token_hex(8)}", int(time.time()), fingerprint)


class _Writer:
    """One choice's events."""

    def __init__(self, ask: Ask, stamp: Stamp, index: int, made: Made) -> None:
        self._ask = ask
        self._stamp = stamp
        self._index = index
        self._made = made
        self._stream = ChoiceStream(ask, stamp, index, made.prompt_ids)
        self._calls = CallReader() if made.reads_calls else None

    def opening(self) -> bytes:
        """What comes before the first token."""
        return self._stream.opening() if self._ask.chat else b""

    def event(self, news: Token) -> bytes:
        """The event of one token; empty when nothing of it shows."""
        text, calls = news.text, []
        if self._ask.echo and not self._made.tokens:
            text = self._ask.tokenizer.decode(self._made.prompt_ids) + text
        self._made.add(news)
        if self._calls is not None:
            delta = self._calls.read(news.text, final=bool(news.finish))
            text, calls = (
                delta.content,
                [self._call(*one) for one in delta.calls if self._ask.wish.parallel or not one[0]],
            )
        return self._stream.event(
            news.token,
            (news.step,) if news.step is not None else (),
            text,
            calls,
            finish=news.finish,
            stop_reason=news.stop_reason,
            called=self._calls is not None and self._calls.count > 0,
        )

    def _call(self, place: int, name: str | None, arguments: str) -> dict[str, Any]:
        if name is None:
            return {"index": place, "function": {"arguments": arguments}}
        head = {"id": tool_call_id(self._stamp, self._index, place), "type": "function", "index": place}
        return {**head, "function": {"name": name}}
