"""A program of the demo as a child: its first lines read, the end of its log kept, ended when the block is left."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

STOP_TIMEOUT_S = 20.0
KEPT_LINES = 40  # of its log, for the error when it does not start


@dataclass(slots=True)
class Program:
    """One running child."""

    process: asyncio.subprocess.Process
    log: deque[str]

    async def told(self) -> dict[str, Any] | None:
        """The next JSON object that it prints on stdout; None once it has ended."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # not one of our lines
            if isinstance(found, dict):
                return found
        await self.process.wait()
        return None


@asynccontextmanager
async def running(*command: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Program]:
    """The program while the block runs; SIGTERM at its end, SIGKILL when that does not help."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env
    )
    assert process.stderr is not None
    log: deque[str] = deque(maxlen=KEPT_LINES)
    reading = asyncio.create_task(_keep(process.stderr, log))
    try:
        yield Program(process, log)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        reading.cancel()


async def _keep(stream: asyncio.StreamReader, log: deque[str]) -> None:
    while line := await stream.readline():
        log.append(line.decode(errors="replace").rstrip())
