"""Clients under whose eyes something breaks: they send the corpus over and over, and any changed byte fails the test.

async with traffic(relay.port, candidate) as sent:
    ...
    sent.check()
assert sent.sampled == ...
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.scripted import ScriptedServer
from tests.integration.inertness_corpus import corpus
from tests.integration.system_rig import Answer, Caller

CLIENTS = 3
PAUSE_S = 0.06  # between a client's requests: what two cores serve, mirror and check


@dataclass
class Traffic:
    """What was sent, and how much of it is sampled at a rate of 1."""

    port: int
    requests: list[bytes]
    expected: list[Answer]
    sampled: int = 0
    served: int = 0
    clients: list[asyncio.Task[None]] = field(default_factory=list)
    stopping: bool = False

    async def one(self, caller: Caller, number: int) -> None:
        """One request, whose reply must be the candidate's own."""
        raw = self.requests[number]
        answer = await caller.send(raw)
        assert answer.end_to_end() == self.expected[number].end_to_end(), number
        self.served += 1
        self.sampled += b"x-parity-mirror" not in raw and raw.startswith(b"POST /v1/")

    def check(self) -> None:
        """Fails with what a client failed on."""
        for client in self.clients:
            if client.done():
                client.result()

    async def stop(self) -> None:
        """Every request is answered, and no more are sent."""
        self.stopping = True
        await asyncio.gather(*self.clients)

    async def keep_sending(self, seed: int) -> None:
        """One client's life."""
        caller, chance = Caller(self.port), random.Random(seed)
        while not self.stopping:
            await self.one(caller, chance.randrange(len(self.requests)))
            await asyncio.sleep(chance.uniform(0.0, 2 * PAUSE_S))  # pace: the load is bounded
        await caller.aclose()


@contextlib.asynccontextmanager
async def traffic(port: int, candidate: ScriptedServer) -> AsyncIterator[Traffic]:
    """Clients at the relay's port, until `stop` or the end. `candidate` must answer the same at every time."""
    direct, requests = Caller(candidate.port), corpus()
    sent = Traffic(port, requests, [await direct.send(raw) for raw in requests])
    await direct.aclose()
    sent.clients = [asyncio.create_task(sent.keep_sending(seed)) for seed in range(CLIENTS)]
    try:
        yield sent
    finally:
        await sent.stop()


async def ask(caller: Caller, path: str) -> Any:
    """What a control port answers."""
    return orjson.loads((await caller.send(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode())).body)


async def answers(caller: Caller, path: str, wanted: Callable[[Any], bool], within_s: float = 15.0) -> Any:
    """The first answer of a control port that is as wanted."""
    async with asyncio.timeout(within_s):
        while not wanted(told := await ask(caller, path)):  # noqa: ASYNC110  another process has no event
            await asyncio.sleep(0.02)
    return told
