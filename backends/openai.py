"""The shadow-side client of one arm: whole replies over httpx, bounded in time, bytes and connections.

Nothing here retries: a shadow call that failed is counted by whoever asked. httpx's errors become ours at one seam.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

from backends.base import BackendProtocolError, BackendTimeout, BackendUnavailable, Reply

USER_AGENT = "parity-shadow"  # so that an engine's log, or a test, can tell shadow calls from clients'
KEEPALIVE_EXPIRY_S = 4.0  # below uvicorn's 5 s (contracts.md, failure 3): the engine never closes first

# httpcore reports "the peer hung up" and "that is not HTTP" by the same class; only these words tell them apart.
_HUNG_UP = ("server disconnected", "peer closed connection", "connection closed")


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
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=connect_timeout_s),
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEPALIVE_EXPIRY_S,
            ),
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
        )

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
        await self._client.aclose()

    async def _call(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> Reply:
        if self._client.is_closed:
            raise BackendUnavailable(f"{self.name}: this backend was closed")
        started = time.perf_counter()
        async with self._translated(timeout_s):
            pairs = [
                (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
                for name, value in headers.items()
            ]
            request = self._client.build_request(method, self._url + path, content=body, headers=pairs)
            response = await self._client.send(request, stream=True)
            try:
                content = await self._bounded(response)
            finally:
                await response.aclose()
        return Reply(
            status=response.status_code,
            content_type=response.headers.get("content-type", ""),
            body=content,
            duration_s=time.perf_counter() - started,
        )

    async def _bounded(self, response: httpx.Response) -> bytes:
        coding = response.headers.get("content-encoding", "identity").lower()
        if coding != "identity":
            raise BackendProtocolError(
                f'{self.name}: answered in content coding "{coding[:32]}" that was not asked for'
            )
        declared = response.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > self._max_reply_bytes:
            raise self._too_large()
        content = bytearray()
        async for chunk in response.aiter_raw():
            if len(content) + len(chunk) > self._max_reply_bytes:
                raise self._too_large()
            content += chunk
        return bytes(content)

    def _too_large(self) -> BackendProtocolError:
        return BackendProtocolError(f"{self.name}: the reply is larger than {self._max_reply_bytes} bytes")

    @asynccontextmanager
    async def _translated(self, timeout_s: float) -> AsyncIterator[None]:
        """The one seam where httpx's errors and the total time-out become ours."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            raise BackendTimeout(f"{self.name}: no whole reply within {timeout_s:g} s") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise BackendUnavailable(f"{self.name}: cannot connect to {self._url}: {_line(error)}") from error
        except httpx.NetworkError as error:
            raise BackendUnavailable(f"{self.name}: the connection broke: {_line(error)}") from error
        except httpx.RemoteProtocolError as error:
            if any(words in str(error).lower() for words in _HUNG_UP):
                raise BackendUnavailable(f"{self.name}: hung up before the reply was whole") from error
            raise BackendProtocolError(f"{self.name}: not HTTP: {_line(error)}") from error
        except httpx.HTTPError as error:
            raise BackendProtocolError(f"{self.name}: {_line(error)}") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
