"""Engines from start to end: in order, until each is ready, until one ends or we are told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from proxy.launch_command.engine import Engine

POLL_S = 0.5  # *choice*: vLLM takes 15 s at the least
Outcome = Literal["stopped", "crashed", "late"]


@dataclass(frozen=True, slots=True)
class Watched:
    """How it went. stopped: we were told to; crashed: `engine` ended by itself; late: it was not ready in time.

    `ready`: whether every engine had been. `killed`: those of which something had to be killed.
    """

    outcome: Outcome
    ready: bool
    engine: Engine | None = None
    code: int | None = None
    killed: tuple[str, ...] = ()


class Progress:
    """What is told on the way; this one says nothing."""

    def started(self, engine: Engine) -> None:
        """Its process runs."""

    def waiting(self, engines: Sequence[Engine]) -> None:
        """Those that are not ready yet, at each poll."""

    def became_ready(self, engine: Engine) -> None:
        """It answers."""


async def watch(
    engines: Sequence[Engine],
    shutdown: asyncio.Event,
    *,
    one_by_one: bool,
    ready_timeout_s: float,
    on_ready: Callable[[], Awaitable[None]],
    progress: Progress,
) -> Watched:
    """Starts the engines, tells once all are ready, and stays until one ends or `shutdown` is set. None is left.

    Raises:  LaunchError when one cannot be started at all.
    """
    stop = asyncio.ensure_future(shutdown.wait())
    killed: tuple[str, ...] = ()
    found: Watched | None = None
    started: list[Engine] = []
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            waves = [[engine] for engine in engines] if one_by_one else [list(engines)]
            for wave in waves:
                for engine in wave:
                    await engine.start()
                    started.append(engine)
                    progress.started(engine)
                found = found or await _until_ready(wave, started, stop, http, ready_timeout_s, progress)
                if found is not None:
                    break
        if found is None:
            await on_ready()
            await _first(stop, started, None)
            found = _gone(started, ready=True) or Watched("stopped", ready=True)
    finally:
        stop.cancel()
        ends = await asyncio.gather(*(engine.end() for engine in started))
        killed = tuple(engine.side for engine, hard in zip(started, ends, strict=True) if hard)
    return Watched(found.outcome, found.ready, found.engine, found.code, killed)


async def _until_ready(
    wave: Sequence[Engine],
    started: Sequence[Engine],
    stop: asyncio.Task[Literal[True]],
    http: httpx.AsyncClient,
    timeout_s: float,
    progress: Progress,
) -> Watched | None:
    """None once all of the wave are ready, with nothing gone in the meantime; else how it went."""
    loop = asyncio.get_running_loop()
    while waiting := [engine for engine in wave if not engine.ready]:
        progress.waiting(waiting)
        answers = await asyncio.gather(*(engine.healthy(http) for engine in waiting))
        if gone := _gone(started, ready=False):  # before any answer is believed: another may have the port by now
            return gone
        for engine, healthy in zip(waiting, answers, strict=True):
            if healthy:
                engine.ready = True
                progress.became_ready(engine)
            elif loop.time() - engine.started_s > timeout_s:
                return Watched("late", ready=False, engine=engine)
        if all(engine.ready for engine in wave):
            break
        await _first(stop, started, POLL_S)
        if gone := _gone(started, ready=False):
            return gone
        if stop.done():
            return Watched("stopped", ready=False)
    return None


async def _first(stop: asyncio.Task[Literal[True]], started: Sequence[Engine], timeout_s: float | None) -> None:
    """Until we are told to stop, an engine ends, or the time is over."""
    awaited: set[asyncio.Task[Any]] = {stop, *(engine.ended for engine in started)}
    await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


def _gone(started: Sequence[Engine], *, ready: bool) -> Watched | None:
    """The first engine that ended by itself."""
    for engine in started:
        if engine.ended.done():
            return Watched("crashed", ready, engine, engine.ended.result())
    return None
