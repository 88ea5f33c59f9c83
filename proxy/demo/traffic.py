"""The demo's clients: the official `openai` client through the proxy, and every reply held against the candidate's own.

A scripted candidate answers the same body with the same bytes, so each reply that came through the proxy can be
compared with one fetched past it. That is the product's first promise, checked while the demo runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx  # what the official client speaks
import orjson
from openai import AsyncOpenAI, OpenAIError

REQUEST_TIMEOUT_S = 60.0
KEPT_ERRORS = 20  # choice: enough to see a pattern, bounded


@dataclass(slots=True)
class Tally:
    """What the clients saw so far."""

    sent: int = 0
    client_errors: int = 0
    byte_mismatches: int = 0
    compared: int = 0
    error_texts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Wire:
    """The raw bytes of one call as the client's HTTP library saw them."""

    request: bytes = b""
    path: str = ""
    status: int = 0
    body: bytearray = field(default_factory=bytearray)


class _Tee(httpx.AsyncBaseTransport):
    """Passes everything through and keeps a copy of one call's bytes."""

    def __init__(self, inner: httpx.AsyncBaseTransport, wire: _Wire) -> None:
        self._inner = inner
        self._wire = wire

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._wire.request = request.content
        self._wire.path = request.url.raw_path.decode()
        self._wire.body.clear()  # the client may have begun again
        response = await self._inner.handle_async_request(request)
        self._wire.status = response.status_code
        response.stream = _TeeStream(response.stream, self._wire)
        return response

    async def aclose(self) -> None:
        """The inner transport is shared; its owner closes it."""


class _TeeStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream | httpx.SyncByteStream, wire: _Wire) -> None:
        self._inner = inner
        self._wire = wire

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._inner, httpx.AsyncByteStream)
        async for chunk in self._inner:
            self._wire.body += chunk
            yield chunk

    async def aclose(self) -> None:
        if isinstance(self._inner, httpx.AsyncByteStream):
            await self._inner.aclose()


class Clients:
    """Sends bodies through the proxy, some at once, and compares what came back with the candidate's own answer."""

    def __init__(self, relay_url: str, candidate_url: str | None, *, concurrency: int) -> None:
        """`candidate_url` None compares nothing: a candidate that does not repeat its bytes."""
        self.tally = Tally()
        self.may_send = asyncio.Event()  # cleared while the monitor is far behind
        self.may_send.set()
        self._relay_url = relay_url
        self._candidate_url = candidate_url
        self._concurrency = concurrency
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=concurrency))
        self._direct = httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S, trust_env=False)

    async def send(self, bodies: Iterator[dict[str, Any]], count: int, enough: asyncio.Event | None = None) -> None:
        """Sends `count` bodies, or fewer where `enough` is set meanwhile; returns when all are answered."""
        budget = iter(range(count))

        async def worker() -> None:
            for _ in budget:
                await self.may_send.wait()
                if enough is not None and enough.is_set():
                    return
                await self._one(next(bodies))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._concurrency, count)):
                group.create_task(worker())

    async def aclose(self) -> None:
        await self._inner.aclose()
        await self._direct.aclose()

    async def _one(self, body: dict[str, Any]) -> None:
        wire = _Wire()
        async with httpx.AsyncClient(transport=_Tee(self._inner, wire), timeout=REQUEST_TIMEOUT_S) as http:
            client = AsyncOpenAI(base_url=f"{self._relay_url}/v1", api_key="demo", http_client=http, max_retries=0)
            self.tally.sent += 1
            try:
                await _call(client, dict(body))
            except (OpenAIError, httpx.HTTPError) as error:
                self.tally.client_errors += 1
                if len(self.tally.error_texts) < KEPT_ERRORS:
                    self.tally.error_texts.append(f"{type(error).__name__}: {error}"[:200])
                return
        if self._candidate_url is not None:
            await self._compare(wire, self._candidate_url)

    async def _compare(self, wire: _Wire, candidate_url: str) -> None:
        direct = await self._direct.post(
            candidate_url + wire.path, content=wire.request, headers={"content-type": "application/json"}
        )
        self.tally.compared += 1
        if direct.status_code != wire.status or direct.content != bytes(wire.body):
            self.tally.byte_mismatches += 1


async def _call(client: AsyncOpenAI, body: dict[str, Any]) -> None:
    """One request by the client's own methods, its answer read to the end."""
    create: Any = client.completions.create if "prompt" in body else client.chat.completions.create
    known = {key: body.pop(key) for key in ("model", "messages", "prompt", "stream") if key in body}
    answer = await create(**known, extra_body=body)
    if known.get("stream"):
        async for chunk in answer:
            orjson.dumps(chunk.model_dump())
