"""The first invariant, in time: mirroring every request does not move the time to first byte.

Each request of the corpus goes to each arm in turn, in random order, and is compared with itself on the relay whose
mirror is off. A second such relay is one of the arms: how far it lies off is the noise of this machine.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

from tests.integration.inertness_corpus import CASES, corpus
from tests.integration.quick_candidate import quick_candidate
from tests.integration.system_rig import Caller, Program, program, stalled, write_settings

BASE, AGAIN = "off", "off again"
ARMS = (BASE, AGAIN, "healthy", "stalled", "stopped", "killed")
# *choice*: what any wait for the monitor or the reference would pass (a turn of a busy loop is milliseconds). On two
# idle cores the shifts are about 20 us; other work on them moves medians by some 200 us.
MAX_SHIFT_S = 0.001
# No replays and no needles: those are calls to the candidate, which has to queue them beside the client's.
MIRROR = "[mirror]\nreplay_rate = 0.0\nneedle_rate = 0.0\nconcurrency = 2\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_time_to_first_byte_does_not_depend_on_the_mirror(tmp_path: Path) -> None:
    times = uvloop.run(_run(tmp_path))
    base = times[BASE]
    noise_s = abs(_shift_s(times[AGAIN], base))
    for name in ARMS:
        shift_s = _shift_s(_told(name, times[name]), _told(name, base))
        print(f"{name:>10}: first byte {statistics.median(times[name]) * 1e6:6.0f} us, shift {shift_s * 1e6:+6.0f} us")
        assert shift_s <= MAX_SHIFT_S + noise_s, name


def _told(name: str, times: list[float]) -> list[float]:
    """The times that say something about the arm: those of "killed" begin with the kill."""
    return times[CASES // 2 :] if name == "killed" else times


def _shift_s(mine: list[float], base: list[float]) -> float:
    return statistics.median(one - other for one, other in zip(mine, base, strict=True))


async def _run(folder: Path) -> dict[str, list[float]]:
    order = random.Random(1)
    async with AsyncExitStack() as stack:
        candidate = await stack.enter_async_context(quick_candidate())
        healthy = await stack.enter_async_context(quick_candidate())
        silent = await stack.enter_async_context(stalled())
        callers: dict[str, Caller] = {}
        monitors: dict[str, Program] = {}

        async def start(name: str) -> None:
            place = folder / name.replace(" ", "-")
            place.mkdir()
            reference = silent if name == "stalled" else healthy
            rate = 0.0 if name in (BASE, AGAIN) else 1.0
            config = write_settings(place, candidate, reference, rate=rate, more=MIRROR)
            if rate:
                monitors[name] = await stack.enter_async_context(program("monitor", config))
            relay = await stack.enter_async_context(program("relay", config))
            callers[name] = Caller(relay.port)
            stack.push_async_callback(callers[name].aclose)

        await asyncio.gather(*map(start, ARMS))
        os.kill(monitors["stopped"].pid, signal.SIGSTOP)
        times: dict[str, list[float]] = {name: [] for name in ARMS}
        for number, raw in enumerate(corpus()):
            if number == CASES // 2:
                monitors["killed"].kill()
            for name in order.sample(ARMS, len(ARMS)):
                answer = await callers[name].send(raw)
                assert answer.status == 200, (name, number)
                times[name].append(answer.first_byte_s)
        for monitor in monitors.values():
            monitor.kill()  # to leave in order would take the stalled one ten seconds
        return times
