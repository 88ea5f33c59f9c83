"""The two arms of the demo, and how the candidate is damaged while it serves.

Emulated   the shipped model on the precision emulator, two processes: a recipe is switched
Scripted   two scripted engines in this process: a fault is planted
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from backends.emulator.tasks.traffic import bodies as emulated_bodies
from backends.scripted import Script, ScriptedServer
from backends.scripted.traffic import requests as scripted_bodies
from proxy.demo.process import running
from proxy.errors import SupervisorError

START_TIMEOUT_S = 60.0  # a recipe with calibrated scales takes some seconds, on a busy machine more
SWITCH_TIMEOUT_S = 60.0  # running replies end first
SEED = 20261123
MODEL = "parity-tiny"

PLANTED: Mapping[str, Mapping[str, float]] = {
    "tool_calls": {"tool_name": 0.15, "tool_argument": 0.15},
    "logprobs": {"logprobs": 1.0},
    "recall": {"needle": 0.5},
}


class Engines(Protocol):
    """Both arms while they run."""

    candidate_url: str
    reference_url: str
    repeatable: bool  # the candidate answers equal bodies with equal bytes

    async def damage(self, how: str) -> None:
        """Makes the candidate worse: the name of a recipe, or of a fault."""
        ...

    def bodies(self) -> Iterator[dict[str, Any]]:
        """The clients' requests."""
        ...


@dataclass(slots=True)
class Scripted:
    """Two scripted engines; damage is a planted fault."""

    candidate: ScriptedServer
    candidate_url: str
    reference_url: str
    repeatable: bool = True

    async def damage(self, how: str) -> None:
        for name, rate in PLANTED[how].items():
            self.candidate.set_fault(name, rate)

    def bodies(self) -> Iterator[dict[str, Any]]:
        return scripted_bodies(SEED)


@dataclass(slots=True)
class Emulated:
    """Two emulator processes; damage is another recipe. Their replies carry ids of their own."""

    candidate_url: str
    reference_url: str
    repeatable: bool = False

    async def damage(self, how: str) -> None:
        async with httpx.AsyncClient(timeout=SWITCH_TIMEOUT_S, trust_env=False) as http:
            reply = await http.post(f"{self.candidate_url}/_emulator/recipe", json={"recipe": how})
            reply.raise_for_status()

    def bodies(self) -> Iterator[dict[str, Any]]:
        return emulated_bodies(SEED, MODEL)


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """Both scripted engines, the candidate a healthy quantized one."""
    candidate = ScriptedServer(Script(ttft_s=0.004).as_healthy_quantized())
    reference = ScriptedServer(Script(ttft_s=0.004).as_noisy_reference())
    async with candidate, reference:
        yield Scripted(candidate, candidate.url, reference.url)


@asynccontextmanager
async def emulated(recipe: str) -> AsyncIterator[Emulated]:
    """The shipped model at `recipe` and at BF16.

    Raises:  SupervisorError when one of them does not start, with the end of its log.
    """
    async with AsyncExitStack() as stack:
        arms = [stack.enter_async_context(_emulator(name)) for name in (recipe, "bf16")]
        candidate, reference = await asyncio.gather(*arms)
        yield Emulated(candidate, reference)


@asynccontextmanager
async def _emulator(recipe: str) -> AsyncIterator[str]:
    """The url of one emulator process. One thread for its sums: the two arms share the machine's cores."""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = (sys.executable, "-m", "backends.emulator", "--recipe", recipe, "--served-model-name", MODEL)
    async with running(*command, env={**os.environ, **threads}) as program:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                told = await program.told()
        except TimeoutError:
            raise SupervisorError(f"the emulator ({recipe}) did not start within {START_TIMEOUT_S:g} s") from None
        if told is None:
            raise SupervisorError(f"the emulator ({recipe}) did not start:\n" + "\n".join(program.log))
        yield str(told["url"])
