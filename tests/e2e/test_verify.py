"""Verifying on real vLLM: what is proven from a prefill is what the same engine then generates."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.emulator.tasks.requests import requests
from proxy.demo.stage import serving
from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.rows import LedgerRow
from proxy.report.reference_cost import ReferenceCost, reference_cost
from scorers.decode import decode_reply
from tests.e2e.conftest import MODEL_NAME, SETTINGS, SETTLE_S
from tests.e2e.engines import WORK, Engine

REQUESTS = 64  # *choice*: two minutes of two cores
MODES = {"regenerate": 1.0, "verify": 1.0, "text": 0.0}  # replay_rate; `text` verifies what was served


async def through(mode: str, engines: Mapping[str, Engine], folder: Path) -> tuple[list[LedgerRow], ReferenceCost]:
    """The requests, one after another, through a proxy in that mode: rows with bodies, in the order of the requests."""
    config = folder / f"{mode}.toml"
    text = SETTINGS.format(candidate=engines["candidate"].url, reference=engines["reference"].url, folder=folder)
    for old, new in {
        f'path = "{folder}/ledger.sqlite"': f'path = "{folder}/{mode}.sqlite"',
        "concurrency = 4": f'mode = "{"regenerate" if mode == "regenerate" else "verify"}"\nconcurrency = 2',
        "noise_rate = 0.5": "noise_rate = 0.1",
        "replay_rate = 1.0": f"replay_rate = {MODES[mode]}",
        "needle_rate = 1.0": "needle_rate = 0.0",
        "teacher_forced_rate = 0.5": "teacher_forced_rate = 0.0",
        "keep_share = 0.2": "keep_share = 1.0",
    }.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    async with serving(config) as urls:
        async with httpx.AsyncClient(base_url=urls["relay"], timeout=120) as http:
            for body in bodies():
                (await http.post("/v1/chat/completions", json=body)).raise_for_status()
        gate = await settled(urls["control"])
    ledger = folder / f"{mode}.sqlite"
    with closing(open_read_only(ledger)) as reader:
        found = [reader.pair(row.id) or row for row in reader.rows(gate["epoch"])]
    return found, reference_cost(ledger, gate["epoch"])


def bodies() -> list[dict[str, Any]]:
    """Tool calls of all kinds, needles and talk; half of them streamed."""
    items = [
        *requests(seed=21, count=36, kinds=("tool_one", "tool_parallel", "tool_none", "tool_result")),
        *requests(seed=22, count=12, kinds=("needle_text",), bucket=1024),
        *requests(seed=23, count=16, kinds=("needle_list", "arithmetic", "chat")),
    ]
    assert len(items) == REQUESTS
    made: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        body: dict[str, Any] = {"model": MODEL_NAME, "messages": item["messages"], "temperature": 0, "max_tokens": 96}
        if item.get("tools"):
            body["tools"] = item["tools"]
        made.append({**body, "stream": bool(number % 2)})
    return made


async def settled(url: str) -> dict[str, Any]:
    """The gate's answer once every request has its row."""
    deadline = time.monotonic() + SETTLE_S
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        while time.monotonic() < deadline:
            gate: dict[str, Any] = (await http.get("/gate")).json()
            if gate["coverage"]["sampled"] >= REQUESTS:
                return gate
            await asyncio.sleep(0.5)  # polling another process, bounded by the deadline
    raise AssertionError(f"not settled in {SETTLE_S:g} s: {gate['coverage']}")


def message(row: LedgerRow) -> Any:
    """What the reference said, as the ledger keeps it."""
    assert row.bodies is not None
    choice = decode_reply("chat", "", row.bodies.reference).choices[0]
    calls = [(call.name, json.loads(call.arguments)) for call in choice.tool_calls]
    return choice.text, calls, choice.finish_reason


def scores(row: LedgerRow) -> dict[str, float]:
    return {s.name: s.value for s in row.scores if s.arm == "candidate" and s.value is not None}


@pytest.mark.asyncio
async def test_what_is_proven_is_what_would_have_been_generated(engines: dict[str, Engine], tmp_path: Path) -> None:
    ran = {mode: await through(mode, engines, tmp_path) for mode in MODES}
    base, full = ran.pop("regenerate")
    figures: dict[str, Any] = {"regenerate": told(full)}
    for mode, (rows, cost) in ran.items():
        figures[mode] = told(cost)
        pairs = list(zip(base, rows, strict=True))
        differing = [
            (one.id, message(one), message(two)) for one, two in pairs if verified(two) and message(one) != message(two)
        ]
        figures[mode]["verified_and_generated_otherwise"] = len(differing)
        apart = Counter(
            name
            for one, two in pairs
            for name in scores(one).keys() & scores(two).keys() & {"tool_call_mismatch", "text_mismatch"}
            if scores(one)[name] != scores(two)[name]
        )
        figures[mode]["scores_apart"] = dict(apart)
        WORK.mkdir(exist_ok=True)
        (WORK / "verify.json").write_text(json.dumps(figures, indent=1) + "\n")
        assert differing == []
        assert apart == {}
        assert sum(map(verified, rows)) > 0.2 * REQUESTS
        assert cost.per_pair(floor=False)[1] < full.per_pair(floor=False)[1]


def verified(row: LedgerRow) -> bool:
    return row.reference_answer == "verified"


def told(cost: ReferenceCost) -> dict[str, Any]:
    read, made = cost.per_pair(floor=False)
    return {"pairs": cost.pairs, "answers": dict(cost.answers), "read_per_pair": read, "generated_per_pair": made}
