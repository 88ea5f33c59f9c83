"""The scripted vLLM: routes, timing, planted faults. Start it in a process of its own, or inside a test's loop."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from dataclasses import replace
from types import TracebackType
from typing import Self

from backends.scripted.ask import Ask, Refused, error_body, read_ask
from backends.scripted.delivery import Delivery
from backends.scripted.distribution import Drift
from backends.scripted.faults import Fault, FaultPlan
from backends.scripted.generate import FAULT_SHIFT, JITTER, Run, key_of
from backends.scripted.routes import State, answer_plain
from backends.scripted.script import Script
from backends.scripted.template import with_default_system
from backends.scripted.wire import BadHttp, Connection, Request

log = logging.getLogger(__name__)


class ScriptedServer:
    """One scripted vLLM on a socket of its own. `requests` holds the latest `script.record` requests, raw.

    `stats` counts: requests, aborted (the client left before the reply was whole), and each fault that showed.
    """

    def __init__(self, script: Script | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.script = script or Script()
        self.faults = FaultPlan(self.script.faults, fresh=self.script.fresh_faults)
        self._state = State(self.faults, deque(maxlen=self.script.record))
        self._host = host
        self._port = port
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._closing = False

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def requests(self) -> list[Request]:
        return list(self._state.requests)

    @property
    def stats(self) -> Counter[str]:
        return self._state.stats

    @property
    def in_flight(self) -> int:
        return self._state.in_flight

    @property
    def port(self) -> int:
        return self._port

    def set_fault(self, name: str, rate: float) -> None:
        """One fault from now on; rate 0 takes it away. Raises: ValueError."""
        self.faults.set(name, rate)

    async def start(self) -> None:
        """Listening from here on; `url` is known. Raises: OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._serve), self._host, self._port, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """The port closed and every connection ended, whatever it was doing."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for connection in self._connections:
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _serve(self, connection: Connection) -> None:
        self._connections.add(connection)
        try:
            while (request := await connection.read_request()) is not None:
                connection.busy = True
                self._state.in_flight += 1
                try:
                    going_on = await self._answer(connection, request)
                finally:
                    self._state.in_flight -= 1
                    connection.busy = False
                if not going_on or not request.keeps_alive:
                    break
            await connection.hang_up()
        except BadHttp as bad:
            await connection.reply(bad.status, b"Invalid HTTP request received.", "text/plain", close=True)
            await connection.hang_up()
        except ConnectionError:
            self._left()
        except asyncio.CancelledError:
            self._left()  # the client went, or the server closes: either way this task is over, and nobody awaits it
        finally:
            connection.transport.abort()
            self._connections.discard(connection)

    def _left(self) -> None:
        if not self._closing:
            self.stats["aborted"] += 1

    async def _answer(self, connection: Connection, request: Request) -> bool:
        """One request answered; False when the connection must end."""
        path = request.target.partition("?")[0]
        close = not request.keeps_alive
        if not path.startswith("/_scripted/"):
            self._state.requests.append(request)
            self.stats["requests"] += 1
        try:
            if request.method == "POST" and path in ("/v1/chat/completions", "/v1/completions"):
                return await self._complete(connection, request, chat=path == "/v1/chat/completions")
            status, body = answer_plain(self.script, self._state, request)
        except Refused as refused:
            status, body = refused.status, refused.body
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:  # as vLLM: a bug of the server is a 500 to one client, never the server's end
            log.exception("scripted server: %s %s failed", request.method, path)
            status, body = 500, error_body(500, "Internal server error", "InternalServerError")
        await connection.reply(status, body, close=close)
        return True

    async def _complete(self, connection: Connection, request: Request, *, chat: bool) -> bool:
        script = self.script
        ask = read_ask(chat, request.body, request.header(b"content-type"), script.model, script.max_model_len)
        run = self._run(ask)
        if chat and Fault.TEMPLATE in run.faults:
            otherwise = tuple(with_default_system(prompt) for prompt in ask.prompts)
            if otherwise != ask.prompts:
                self.faults.struck[Fault.TEMPLATE] += 1
                ask = replace(ask, prompts=otherwise)
        return await Delivery(script, self.faults.struck, connection, request, ask, run).send()

    def _run(self, ask: Ask) -> Run:
        faults = self.faults.strikes(key_of(ask.prompts[0]))
        noisy = self.script.noise > 0 and secrets.randbelow(1_000_000) < self.script.noise * 1_000_000
        shift = self.script.shift + (FAULT_SHIFT if Fault.LOGPROBS in faults else 0.0)
        drift = Drift(shift, JITTER if noisy else 0.0, secrets.randbits(64) if noisy else 0)
        return Run(drift, faults, noisy, self.script.fresh_sampling)
