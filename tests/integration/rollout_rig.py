"""Relay and monitor as processes before two scripted engines, and clients whose every reply names the arm it is of."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from backends.scripted import Script, ScriptedServer
from backends.scripted.traffic import sent
from tests.integration.system_rig import Program, program, write_settings

SESSIONS = 40
BODIES = 60  # distinct requests, sent again and again
FINGERPRINTS = {"candidate": "vllm-quantized", "reference": "vllm-bf16"}
DAMAGED = {"tool_name": 0.6, "tool_argument": 0.6}
MIRROR = "[mirror]\nreplay_rate = 1.0\nnoise_rate = 1.0\nneedle_rate = 0.0\n"


def rollout(*steps: str, **more: float) -> str:
    """The tables of a rollout whose clients are told apart by their session."""
    told = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'{MIRROR}[rollout]\nsticky = ["x-session-id"]\n{told}steps = [{", ".join(steps)}]\n'


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. Units: seconds since the Unix epoch; status 0 for a request that failed."""

    session: int
    number: int
    began_s: float
    status: int
    arm: str
    body: bytes


@dataclass
class Stage:
    """Everything that runs while a test does. `monitor` is started and killed by the test."""

    config: Path
    engines: dict[str, ScriptedServer]
    relay: Program
    http: httpx.AsyncClient
    replies: list[Reply] = field(default_factory=list)
    monitor: Program | None = None
    _bodies: list[tuple[str, bytes]] = field(default_factory=list)
    _serial: Iterable[int] = field(default_factory=itertools.count)

    @contextlib.asynccontextmanager
    async def monitored(self) -> AsyncIterator[Program]:
        async with program("monitor", self.config) as monitor:
            self.monitor = monitor
            yield monitor

    async def get(self, path: str) -> Any:
        assert self.monitor is not None
        reply = await self.http.get(f"http://127.0.0.1:{self.monitor.port}{path}")
        return reply.json() if reply.headers["content-type"] == "application/json" else reply.text

    async def act(self, act: str) -> dict[str, Any]:
        assert self.monitor is not None
        reply = await self.http.post(f"http://127.0.0.1:{self.monitor.port}/rollout/{act}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def place(self) -> tuple[str, int]:
        """The phase and the step, from 1."""
        told = (await self.get("/state"))["rollout"]
        return told.get("phase", ""), told.get("step", 0)

    @contextlib.asynccontextmanager
    async def traffic(self, clients: int = 3) -> AsyncIterator[None]:
        """Clients that send without a pause while the block runs; every request that began is answered at its end."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._client(stop)) for _ in range(clients)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def ask(self, session: int, number: int) -> Reply:
        """One request through the relay, counted among the replies."""
        path, body = self._bodies[number]
        began_s = time.time()
        try:
            answer = await self.http.post(
                f"http://127.0.0.1:{self.relay.port}{path}",
                content=body,
                headers={"content-type": "application/json", "x-session-id": f"s{session}"},
            )
            status, raw = answer.status_code, answer.content
        except httpx.HTTPError as error:
            status, raw = 0, repr(error).encode()
        arm = next((arm for arm, print_ in FINGERPRINTS.items() if print_.encode() in raw), "")
        self.replies.append(Reply(session, number, began_s, status, arm, raw))
        return self.replies[-1]

    async def arms(self) -> dict[int, str]:
        """Which arm each session has now."""
        replies = await asyncio.gather(*(self.ask(session, 0) for session in range(SESSIONS)))
        return {reply.session: reply.arm for reply in replies}

    async def direct(self, arm: str) -> list[bytes]:
        """What an arm answers to each body, asked past the relay."""
        url, headers = self.engines[arm].url, {"content-type": "application/json"}
        return [
            (await self.http.post(url + path, content=body, headers=headers)).content for path, body in self._bodies
        ]

    async def _client(self, stop: asyncio.Event) -> None:
        for serial in self._serial:
            await self.ask(serial % SESSIONS, serial % BODIES)
            if stop.is_set():
                return


@contextlib.asynccontextmanager
async def stage(folder: Path, tables: str) -> AsyncIterator[Stage]:
    """Engines and a relay, without a monitor yet."""
    async with contextlib.AsyncExitStack() as stack:
        engines = {}
        for arm, fingerprint in FINGERPRINTS.items():
            told = Script(ttft_s=0.002, fresh_sampling=False, fingerprint=fingerprint)
            engines[arm] = await stack.enter_async_context(ScriptedServer(told))
        config = write_settings(folder, engines["candidate"].url, engines["reference"].url, rate=1.0, more=tables)
        config.write_text(config.read_text().replace("limit = 0.03", "limit = 0.2\nslack = 0.2"))
        relay = await stack.enter_async_context(program("relay", config))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=20.0, trust_env=False))
        on = Stage(config, engines, relay, http)
        on._bodies = [(one.path, orjson.dumps(one.body)) for one in itertools.islice(sent(7), BODIES)]
        yield on


def logged_s(program: Program, said: str) -> float:
    """When a program first logged that. Units: seconds since the Unix epoch."""
    line = next(line for line in program.errors if said in line)
    stamp, millis = line.split(" ", 2)[0] + " " + line.split(" ", 2)[1].partition(",")[0], line.split(",", 1)[1][:3]
    return time.mktime(time.strptime(stamp, "%Y-%m-%d %H:%M:%S")) + int(millis) / 1000


async def until(condition: Callable[[], Any], within_s: float = 40.0) -> float:
    """The time at which an awaited condition was seen to hold; fails past the deadline."""
    limit_s = time.time() + within_s
    while not await condition():
        assert time.time() < limit_s, "the condition did not come to hold in time"
        await asyncio.sleep(0.02)
    return time.time()
