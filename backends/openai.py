"""The shadow-side client of one arm: whole replies over aiohttp, bounded in time, bytes and connections.

Replies with logprobs are hundreds of kilobytes, and aiohttp's parser is compiled; what a pair costs with it is told by
`python -m tests.bench.monitor_cost`. Its errors become ours at one seam. No POST is ever sent twice; a GET may be, if a
kept connection turns out to be closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from backends.base import BackendProtocolError, BackendTimeout, BackendUnavailable, Reply

USER_AGENT = "parity-shadow"  # so that an engine's log, or a test, can tell shadow calls from clients'
KEEPALIVE_EXPIRY_S = 4.0  # below uvicorn's 5 s (contracts.md, failure 3): the engine never closes first


class OpenAIBackend:
    """One arm as the monitor calls it. Implements `backends.base.Backend`; owns its pool and its API key.

    `url` is an origin. Redirects are replies, proxies from the environment are ignored, and content codings are
    neither asked for nor accepted, so that the bound counts the bytes that arrive.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        api_key: str | None,
        connect_timeout_s: float,
        max_reply_bytes: int,
        max_connections: int,
    ) -> None:
        self.name = name
        self._url = url.rstrip("/")
        self._max_reply_bytes = max_reply_bytes
        self._authorization = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None  # made by the first call: it belongs to a running loop
        self._closed = False

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        """The whole reply to one POST; our key wins over any `authorization` in the headers.

        Raises:  BackendUnavailable, BackendTimeout, BackendProtocolError.
        """
        ours = {name.lower(): value for name, value in headers.items()} | self._authorization
        return await self._call("POST", path, body, ours, timeout_s)

    async def get(self, path: str, timeout_s: float) -> Reply:
        """The whole reply to one GET. Raises as `post`."""
        return await self._call("GET", path, None, self._authorization, timeout_s)

    async def aclose(self) -> None:
        """Connections closed; calls from now on raise BackendUnavailable."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _call(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> Reply:
        if self._closed:
            raise BackendUnavailable(f"{self.name}: this backend was closed")
        started = time.perf_counter()
        pairs = [(name, _as_utf8(value)) for name, value in headers.items()]
        async with (
            self._translated(timeout_s),
            self._ready().request(method, self._url + path, data=body, headers=pairs, allow_redirects=False) as reply,
        ):
            content = await self._bounded(reply)
        return Reply(
            status=reply.status,
            content_type=reply.headers.get("content-type", ""),
            body=content,
            duration_s=time.perf_counter() - started,
        )

    def _ready(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=KEEPALIVE_EXPIRY_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                skip_auto_headers=("Content-Type",),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def _bounded(self, reply: aiohttp.ClientResponse) -> bytes:
        coding = reply.headers.get("content-encoding", "identity").lower()
        if coding != "identity":
            raise BackendProtocolError(
                f'{self.name}: answered in content coding "{coding[:32]}" that was not asked for'
            )
        if reply.content_length is not None and reply.content_length > self._max_reply_bytes:
            raise self._too_large()
        content = bytearray()
        async for chunk in reply.content.iter_any():
            if len(content) + len(chunk) > self._max_reply_bytes:
                raise self._too_large()
            content += chunk
        return bytes(content)

    def _too_large(self) -> BackendProtocolError:
        return BackendProtocolError(f"{self.name}: the reply is larger than {self._max_reply_bytes} bytes")

    @asynccontextmanager
    async def _translated(self, timeout_s: float) -> AsyncIterator[None]:
        """The one seam where aiohttp's errors and the total time-out become ours."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except aiohttp.ConnectionTimeoutError as error:  # first: it is a TimeoutError too
            raise BackendUnavailable(f"{self.name}: cannot connect to {self._url}: {_line(error)}") from error
        except TimeoutError as error:
            raise BackendTimeout(f"{self.name}: no whole reply within {timeout_s:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise BackendUnavailable(f"{self.name}: cannot connect to {self._url}: {_line(error)}") from error
        except aiohttp.ServerDisconnectedError as error:
            raise BackendUnavailable(f"{self.name}: hung up before the reply was whole") from error
        except aiohttp.ClientPayloadError as error:
            raise BackendUnavailable(f"{self.name}: the reply was cut short: {_line(error)}") from error
        except aiohttp.ClientOSError as error:
            raise BackendUnavailable(f"{self.name}: the connection broke: {_line(error)}") from error
        except aiohttp.ClientResponseError as error:
            raise BackendProtocolError(f"{self.name}: not HTTP: {_line(error)}") from error
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: a header or an address that cannot be sent
            raise BackendProtocolError(f"{self.name}: {_line(error)}") from error


def _as_utf8(value: str) -> str:
    """A header's value whose bytes, as UTF-8, are those that the client sent, where those were UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
