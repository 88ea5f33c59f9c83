"""The keep-alive race, with a real uvicorn, which closes idle connections after 5 s."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from tests.integration.relay_rig import chat, client, on_uvloop, relay


async def _app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


@on_uvloop
async def test_requests_around_the_candidates_keep_alive_time_out() -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(_app, lifespan="off", log_config=None, timeout_keep_alive=5)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    async with relay(f"http://127.0.0.1:{listening.getsockname()[1]}") as proxy:

        async def idle_between(seconds: float) -> None:
            async with client(proxy) as c:
                await c.send(chat())
                await c.wait_for(lambda got: got.count(b"{}") == 1)
                await asyncio.sleep(seconds)
                await c.send(chat())
                got = await c.wait_for(lambda got: got.count(b"\r\n\r\n") == 2)
                assert got.count(b"HTTP/1.1 200 OK\r\n") == 2

        around = [3.9, 3.98, 4.0, 4.02, 4.1, *(4.9 + 0.02 * step for step in range(11))]
        await asyncio.gather(*(idle_between(seconds) for seconds in around))
        assert sum(proxy.counters.errors.values()) == 0
    server.should_exit = True
    await serving
