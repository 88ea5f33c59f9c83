"""A listening socket: connections come, each is served one request at a time, all end when it closes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from backends.dialect.ask import Refused, error_body
from backends.dialect.wire import BadHttp, Connection, Request

log = logging.getLogger(__name__)


class Listener:
    """One port. `answer` gets each request and says whether its connection goes on; what it raises is translated.

    `stats` counts: aborted (the client left before the reply was whole). `in_flight` is the requests being answered.
    """

    def __init__(
        self, answer: Callable[[Connection, Request], Awaitable[bool]], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.stats: Counter[str] = Counter()
        self.in_flight = 0
        self.port = port
        self._answer = answer
        self._host = host
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._closing = False

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listening from here on; `url` is known. Raises: OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._serve), self._host, self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

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
                self.in_flight += 1
                try:
                    going_on = await self._answered(connection, request)
                finally:
                    self.in_flight -= 1
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

    async def _answered(self, connection: Connection, request: Request) -> bool:
        """One request answered; False when the connection must end."""
        try:
            return await self._answer(connection, request)
        except Refused as refused:
            status, body = refused.status, refused.body
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:  # as vLLM: a bug of the server is a 500 to one client, never the server's end
            log.exception("%s %s failed", request.method, request.target)
            status, body = 500, error_body(500, "Internal server error", "InternalServerError")
        await connection.reply(status, body, close=not request.keeps_alive)
        return True
