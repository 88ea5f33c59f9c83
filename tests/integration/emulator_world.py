"""Emulators on sockets for the integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from backends.emulator.recipes import parsed
from backends.emulator.server import EmulatorServer

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather forecast of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
SUM = [{"role": "user", "content": "What is 17 + 25?"}]
ASK_WEATHER = [{"role": "user", "content": "Weather in Lisbon for 3 days?"}]


@asynccontextmanager
async def emulator(recipe: str = "bf16", **options: Any) -> AsyncIterator[tuple[EmulatorServer, httpx.AsyncClient]]:
    """A server and a client of it."""
    async with (
        EmulatorServer(parsed(recipe), **options) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        yield server, client


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; fails the test when it never does."""
    for _ in range(4_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("the condition never came true")


async def chat(client: httpx.AsyncClient, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """A chat's reply, greedy."""
    reply = await client.post("/v1/chat/completions", json={"messages": messages, "temperature": 0, **fields})
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body
