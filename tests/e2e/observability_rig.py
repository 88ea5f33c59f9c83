"""Prometheus and Alertmanager as children on loopback ports, and a receiver for what they send.

async with Receiver() as receiver, alertmanager(folder, receiver.url) as to:
    async with prometheus(folder, control_url, to) as asked:
        await receiver.told("ParityVerdictFail", "firing", within_s=30)
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import orjson
import yaml

from proxy.demo.process import running
from tests.e2e.scaled_time import configuration, seconds

READY_S = 20.0
PROGRAMS = ("prometheus", "prometheus-alertmanager")  # Debian's names, of the packages and of the programs
# Alertmanager's own defaults, scaled as all else is. Source: its documentation, <route>.
GROUP_WAIT_S = seconds("30s")
GROUP_INTERVAL_S = seconds("5m")
SCRAPE_INTERVAL_S = seconds("15s")  # deploy/prometheus/prometheus.yml


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True, slots=True)
class Notice:
    """One alert as it arrived. Units: `at_s` of time.monotonic."""

    at_s: float
    name: str
    status: str
    labels: Mapping[str, str]
    summary: str


@dataclass
class Receiver:
    """An HTTP server that takes Alertmanager's webhooks, and keeps every alert in them."""

    url: str = ""
    notices: list[Notice] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def told(self, name: str, status: str, *, within_s: float) -> Notice:
        """The first notice that says so. Raises: TimeoutError, with what came instead."""
        try:
            async with asyncio.timeout(within_s), self._came:
                while (found := self.first(name, status)) is None:
                    await self._came.wait()
                return found
        except TimeoutError:
            raise TimeoutError(f"no {status} {name} in {within_s:g} s, but {self.notices}") from None

    def first(self, name: str, status: str) -> Notice | None:
        """The first notice that says so, if any came."""
        return next((notice for notice in self.notices if (notice.name, notice.status) == (name, status)), None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                await self._take(await reader.readexactly(int(fields[b"content-length"])))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it is gone
        finally:
            writer.close()

    async def _take(self, body: bytes) -> None:
        now_s = time.monotonic()
        async with self._came:
            for alert in orjson.loads(body)["alerts"]:
                labels = alert["labels"]
                said = alert["annotations"].get("summary", "")
                self.notices.append(Notice(now_s, labels["alertname"], alert["status"], labels, said))
            self._came.notify_all()


@asynccontextmanager
async def alertmanager(folder: Path, webhook: str) -> AsyncIterator[str]:
    """Alertmanager, ready: its host:port. Every alert goes to `webhook`, one group per budget and stratum."""
    config = {
        "route": {
            "receiver": "page",
            "group_by": ["alertname", "instance", "budget", "stratum"],
            "group_wait": f"{GROUP_WAIT_S * 1000:.0f}ms",
            "group_interval": f"{GROUP_INTERVAL_S * 1000:.0f}ms",
        },
        "receivers": [{"name": "page", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
    }
    written = folder / "alertmanager.yml"
    written.write_text(yaml.safe_dump(config))
    address = _free_address()
    command = (
        *("prometheus-alertmanager", f"--config.file={written}", f"--storage.path={folder}/alertmanager"),
        *(f"--web.listen-address={address}", "--cluster.listen-address="),
    )
    async with running(*command) as program:
        await _ready(address, program.log)
        yield address


@dataclass(frozen=True, slots=True)
class Asked:
    """A running Prometheus and its HTTP API."""

    http: httpx.AsyncClient

    async def now(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        return await self._result("/api/v1/query", query=expr)

    async def over(self, expr: str, start_unix_s: float, step_s: float) -> list[dict[str, Any]]:
        """The result of a query over the time from then to now, the last step not before now."""
        span = {"start": str(start_unix_s), "end": str(time.time() + step_s), "step": str(step_s)}
        return await self._result("/api/v1/query_range", query=expr, **span)

    async def exemplars(self, expr: str, start_unix_s: float) -> list[dict[str, Any]]:
        """The exemplars behind a query, from then to now."""
        found = await self._data("/api/v1/query_exemplars", query=expr, start=str(start_unix_s), end=str(time.time()))
        return [dict(one) for series in found for one in series["exemplars"]]

    async def values(self, label: str, selector: str) -> list[str]:
        """The values that a label has in the series selected."""
        return [str(value) for value in await self._data(f"/api/v1/label/{label}/values", **{"match[]": selector})]

    async def _result(self, path: str, **asked: str) -> list[dict[str, Any]]:
        return list((await self._data(path, **asked))["result"])

    async def _data(self, path: str, **asked: str) -> Any:
        reply = await self.http.get(path, params=asked)
        answer = reply.json()
        assert answer["status"] == "success", (asked, answer)
        return answer["data"]


@asynccontextmanager
async def prometheus(folder: Path, control_url: str, to: str) -> AsyncIterator[Asked]:
    """Prometheus, ready, with the deployed rules in scaled time, scraping that control port; alerts go to `to`."""
    config = configuration(folder, target=control_url.removeprefix("http://"), alertmanager=to)
    address = _free_address()
    command = (
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/prometheus"),
        *(f"--web.listen-address={address}", "--enable-feature=exemplar-storage"),
        f"--query.lookback-delta={seconds('5m') * 1000:.0f}ms",  # the defaults, scaled
        f"--rules.alert.resend-delay={seconds('1m') * 1000:.0f}ms",
    )
    async with running(*command) as program:
        await _ready(address, program.log)
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30, trust_env=False) as http:
            yield Asked(http)


def _free_address() -> str:
    """A loopback host:port that was free a moment ago: neither program can tell which port 0 became."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


async def _ready(address: str, log: Sequence[str]) -> None:
    deadline = time.monotonic() + READY_S
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        while time.monotonic() < deadline:
            try:
                if (await http.get(f"http://{address}/-/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            await asyncio.sleep(0.05)
    raise AssertionError(f"{address} did not become ready in {READY_S:g} s:\n" + "\n".join(log))
