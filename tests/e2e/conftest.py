"""One stage for all end-to-end tests: two real vLLM servers, the real proxy as processes, and traffic already sent."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI

from backends.emulator.tasks.requests import requests
from proxy.demo.stage import serving
from tests.e2e.bfcl import bfcl_requests
from tests.e2e.engines import MODEL, Engine, quantize_w4a16, vllm_servers

MAX_MODEL_LEN = 4096
MODEL_NAME = "parity-tiny"
CONCURRENCY = 4
SETTLE_S = 240.0

SETTINGS = """\
[candidate]
url = "{candidate}"
[reference]
url = "{reference}"
teacher_forcing = true
[relay]
port = 0
[sampling]
rate = 1.0
large_body_rate = 1.0
[feed]
socket = "{folder}/feed.sock"
[mirror]
concurrency = 4
noise_rate = 0.5
replay_rate = 1.0
needle_rate = 1.0
teacher_forced_rate = 0.5
max_scored_prompt_tokens = 2048
[ledger]
path = "{folder}/ledger.sqlite"
keep_share = 0.2
[control]
port = 0
[gate]
recipe = "w4a16-g128"
[budgets.tool_call_mismatch]
limit = 0.05
critical = true
[budgets.needle_recall_loss]
limit = 0.1
[budgets.logprob_kl]
limit = 0.1
"""


@dataclass
class Run:
    """What was sent, what came back, and where the proxy can be asked."""

    config: Path
    folder: Path
    relay_url: str
    control_url: str
    engines: dict[str, Engine]
    answers: list[tuple[dict[str, Any], str, int]] = field(default_factory=list)  # body, text or calls, status
    gate: dict[str, Any] = field(default_factory=dict)


def corpus() -> list[dict[str, Any]]:
    """The traffic: the model's own kinds of requests, then real BFCL questions; greedy and not, streamed and whole."""
    own = [
        *requests(seed=11, count=72, kinds=("tool_one", "tool_parallel", "tool_none")),
        *requests(seed=12, count=16, kinds=("needle_text",), bucket=1024),
        *requests(seed=13, count=16, kinds=("needle_list", "arithmetic", "chat", "tool_result")),
    ]
    bfcl = itertools.chain.from_iterable(
        bfcl_requests(category, 8) for category in ("simple_python", "multiple", "parallel", "irrelevance")
    )
    bodies = []
    for number, item in enumerate([*own, *bfcl]):
        body: dict[str, Any] = {"model": MODEL_NAME, "messages": item["messages"], "max_tokens": 96}
        if item.get("tools"):
            body["tools"] = item["tools"]
        if number % 4 != 3:
            body["temperature"] = 0
        if number % 2:
            body["stream"] = True
        bodies.append(body)
    return bodies


@pytest.fixture(scope="session")
def engines() -> Iterator[dict[str, Engine]]:
    """The reference: the project's model at BF16. The candidate: the same at W4A16, made a moment ago."""
    candidate = quantize_w4a16(MODEL, "w4a16")
    with vllm_servers({"candidate": candidate, "reference": MODEL}, MAX_MODEL_LEN) as started:
        yield started


@pytest.fixture(scope="session")
def run(engines: dict[str, Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The whole corpus sent through the proxy and settled; the proxy still runs."""
    loop = asyncio.new_event_loop()
    staged = _staged(engines, tmp_path_factory.mktemp("parity"))
    try:
        yield loop.run_until_complete(anext(staged))
    finally:
        loop.run_until_complete(staged.aclose())
        loop.close()


async def _staged(engines: dict[str, Engine], folder: Path) -> AsyncIterator[Run]:
    config = folder / "parity.toml"
    config.write_text(
        SETTINGS.format(candidate=engines["candidate"].url, reference=engines["reference"].url, folder=folder)
    )
    async with serving(config) as urls:
        staged = Run(config, folder, urls["relay"], urls["control"], engines)
        await _drive(staged)
        await _settle(staged)
        yield staged


async def _drive(staged: Run) -> None:
    bodies = iter(corpus())
    async with AsyncOpenAI(base_url=f"{staged.relay_url}/v1", api_key="e2e", max_retries=0, timeout=120) as client:

        async def worker() -> None:
            for body in bodies:
                staged.answers.append((body, *await _ask(client, body)))

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


async def _ask(client: AsyncOpenAI, body: dict[str, Any]) -> tuple[str, int]:
    create: Any = client.chat.completions.create
    try:
        answer = await create(**body)
        if not body.get("stream"):
            message = answer.choices[0].message
            return (message.content or "") + json.dumps([c.function.arguments for c in message.tool_calls or []]), 200
        parts = []
        async for chunk in answer:
            for choice in chunk.choices:
                parts.append(choice.delta.content or "")
                parts += [call.function.arguments or "" for call in choice.delta.tool_calls or [] if call.function]
        return "".join(parts), 200
    except APIStatusError as error:
        return str(error), error.status_code


async def _settle(staged: Run) -> None:
    """Waits until every sampled request has its row."""
    deadline = time.monotonic() + SETTLE_S
    async with httpx.AsyncClient(base_url=staged.control_url, timeout=30) as http:
        while time.monotonic() < deadline:
            staged.gate = (await http.get("/gate")).json()
            if staged.gate["coverage"]["sampled"] >= len(staged.answers):
                return
            await asyncio.sleep(0.5)
    raise AssertionError(f"not settled in {SETTLE_S:g} s: {staged.gate['coverage']}")
