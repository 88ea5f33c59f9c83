"""The first invariant: no client can tell what the monitor and the reference do, nor that they are there at all.

One corpus of 200 requests, to the candidate directly and through six relays at once, whose mirrors are off, healthy,
behind a stalled reference, without a reference, stopped (SIGSTOP), and killed (SIGKILL) in the middle. Every request
goes to each arm in turn, in random order. Its time to first byte is compared in test_inertness_timing.py.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from backends.scripted.script import Script
from backends.scripted.server import ScriptedServer
from tests.integration.inertness_corpus import CASES, corpus
from tests.integration.system_rig import Answer, Caller, Program, end_to_end, program, stalled, write_settings

ARMS = ("off", "healthy", "stalled", "no reference", "stopped", "killed")
MIRROR = """
[mirror]
concurrency = 2
timeout_s = 2.0
noise_rate = 0.5
replay_rate = 0.5
needle_rate = 0.5
"""


@dataclass
class Arm:
    """One way from the client to the candidate, and all that came and went on it."""

    name: str
    caller: Caller
    candidate: ScriptedServer
    monitor: Program | None = None
    control: Caller | None = None
    answers: list[Answer] = field(default_factory=list)

    def received(self) -> list[tuple[bytes, bytes]]:
        """What the candidate received from clients, raw, in the corpus' order."""
        requests = [request for request in self.candidate.requests if request.header(b"x-case")]
        requests.sort(key=lambda request: int(request.header(b"x-case")))
        return [(request.head, request.body) for request in requests]


@asynccontextmanager
async def arms(folder: Path) -> AsyncIterator[dict[str, Arm]]:
    """All arms, up: each with a candidate of its own, so that what each receives can be told apart."""
    async with AsyncExitStack() as stack:
        script = Script(record=100_000, fresh_sampling=False)
        reference = await stack.enter_async_context(ScriptedServer(Script(fresh_sampling=False)))
        silent = await stack.enter_async_context(stalled())
        direct = await stack.enter_async_context(ScriptedServer(script))
        made = {"direct": Arm("direct", Caller(direct.port), direct)}
        urls = {"stalled": silent, "no reference": "http://127.0.0.1:1"}

        async def start(name: str) -> None:
            place = folder / name.replace(" ", "-")
            place.mkdir()
            candidate = await stack.enter_async_context(ScriptedServer(script))
            rate = 0.0 if name == "off" else 1.0
            url = urls.get(name, reference.url)
            config = write_settings(place, candidate.url, url, rate=rate, more=MIRROR)
            monitor = None if name == "off" else await stack.enter_async_context(program("monitor", config))
            relay = await stack.enter_async_context(program("relay", config))
            made[name] = Arm(name, Caller(relay.port), candidate, monitor, Caller(monitor.port) if monitor else None)
            stack.push_async_callback(made[name].caller.aclose)

        await asyncio.gather(*map(start, ARMS))
        yield made
        for arm in made.values():
            if arm.monitor is not None:
                arm.monitor.kill()  # to leave in order would take the stalled one ten seconds


async def tell(arm: Arm, number: signal.Signals) -> None:
    assert arm.monitor is not None
    os.kill(arm.monitor.pid, number)
    if number is signal.SIGKILL:
        await arm.monitor.process.wait()


async def sampled(arm: Arm) -> int:
    """How many rows the arm's monitor has by now, of whatever disposition."""
    assert arm.control is not None
    answer = await arm.control.send(b"GET /gate HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return int(orjson.loads(answer.body)["coverage"]["sampled"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_clients_and_candidate_cannot_tell_what_the_mirror_does(tmp_path: Path) -> None:
    asyncio.run(_run(tmp_path))


async def _run(folder: Path) -> None:
    requests, order = corpus(), random.Random(1)
    assert len(requests) == CASES
    async with arms(folder) as made:
        for number, raw in enumerate(requests):
            if number == CASES // 4:
                await tell(made["stopped"], signal.SIGSTOP)
            if number == CASES // 2:
                await tell(made["killed"], signal.SIGKILL)
            for arm in order.sample(list(made.values()), len(made)):
                arm.answers.append(await arm.caller.send(raw))  # a client's error of any kind fails here
        await _all_at_once(made, requests)
        _assert_same_bytes(made)
        healthy = made["healthy"]
        expected = sum(b"x-parity-mirror" not in raw and raw.startswith(b"POST /v1/") for raw in requests)
        async with asyncio.timeout(60):
            while await sampled(healthy) < 2 * expected:  # noqa: ASYNC110 - else all of this would prove nothing
                await asyncio.sleep(0.05)
        assert any(request.header(b"user-agent") == "parity-shadow" for request in healthy.candidate.requests)


async def _all_at_once(made: dict[str, Arm], requests: list[bytes]) -> None:
    """The corpus once more, on all arms at the same time, with eight clients each."""

    async def drive(arm: Arm) -> None:
        found: dict[int, Answer] = {}
        waiting = iter(enumerate(requests))
        port = arm.caller._port

        async def client() -> None:
            caller = Caller(port)
            for number, raw in waiting:
                found[number] = await caller.send(raw)
            await caller.aclose()

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(client())
        arm.answers += [found[number] for number in range(len(requests))]

    async with asyncio.TaskGroup() as group:
        for arm in made.values():
            group.create_task(drive(arm))


def _assert_same_bytes(made: dict[str, Arm]) -> None:
    direct, off = made["direct"], made["off"]
    assert len({answer.status for answer in direct.answers}) > 2  # the corpus does meet errors too
    for name in ARMS:
        arm = made[name]
        for number, (mine, base, plain) in enumerate(zip(arm.answers, direct.answers, off.answers, strict=True)):
            assert mine.end_to_end() == base.end_to_end(), (name, number)
            assert mine.head == plain.head, (name, number)
        theirs, ours, straight = arm.received(), off.received(), direct.received()
        assert len(theirs) == len(straight) == 2 * CASES
        assert theirs == ours, name
        for (head, body), (direct_head, direct_body) in zip(theirs, straight, strict=True):
            assert (end_to_end(head), body) == (end_to_end(direct_head), direct_body), name
