"""The same rows through the whole proxy: relay and monitor as processes, an emulator on each side, the ledger's scores.

Requests go one after another, so the ledger's order is theirs, and each can be compared with its direct outcome.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from backends.emulator.vocabulary import Vocabulary
from proxy.demo.stage import serving
from proxy.monitor.ledger_reader import open_read_only
from scorers.decode import decode_request
from scorers.records import Observation
from scorers.spans import copied_spans, far_text, one_line, says
from tests.bench.damage.items import Item, all_items, chosen
from tests.bench.damage.measure import MAX_REPLY, Bench, Outcome

ROWS = ("bf16", "int4-weights", "fp8-kv", "int4-kv-per-tensor")
COUNTS = {"tools": 30, "chat": 8, "needle 512": 4, "needle 1024": 6, "needle 2048": 8, "needle 4096": 6,
          "facts 2048": 12, "facts 4096": 12}  # fmt: skip
"""*choice*: a minute of two cores a row. The product looks for copies in long prompts, so those are the more."""
SETTLE_S = 300.0
APART_KL = (0.1, 2e-4)  # *choice*: a tenth, or 0.2 millinats: the ledger's lists end after 20 tokens
SAME = 0.97  # *choice*: two of 86: the direct reply is read in one go, and a near-tie may fall the other way
RULE = f"calls and recall are the same in {SAME:.0%} of the requests, mean KL is within a tenth or 0.2 millinats"
SCORES = ("tool_call_mismatch", "copy_recall_loss", "logprob_kl")

SETTINGS = """\
[candidate]
url = "{candidate}"
[reference]
url = "{reference}"
[relay]
port = 0
[sampling]
rate = 1.0
large_body_rate = 1.0
[feed]
socket = "{folder}/feed.sock"
[mirror]
concurrency = 2
noise_rate = 0.0
replay_rate = 1.0
needle_rate = 0.0
[ledger]
path = "{folder}/ledger.sqlite"
[control]
port = 0
[budgets.tool_call_mismatch]
limit = 0.05
critical = true
[budgets.copy_recall_loss]
limit = 0.1
[budgets.logprob_kl]
limit = 0.05
"""


async def compare(directory: Path) -> dict[str, Any]:
    """The figures of every row both ways, and whether they agree. Raises: AssertionError when it does not settle."""
    vocabulary = Vocabulary.of(directory)
    items = all_items(vocabulary)
    places = chosen(items, COUNTS)
    bench = Bench(items, vocabulary, directory)
    rows = {}
    for recipe in ROWS:
        print(f"through the proxy: {recipe}", file=sys.stderr)
        observed = await _through(recipe, directory, [items[place] for place in places])
        direct = [
            _direct(items[place], *reply) for place, reply in zip(places, bench.replies(recipe, places), strict=True)
        ]
        rows[recipe] = _row(observed, direct)
    agree = all(_agrees(name, one) for row in rows.values() for name, one in row.items())
    return {"requests": len(places), "rows": rows, "agree": agree, "rule": RULE}


async def _through(recipe: str, directory: Path, items: Sequence[Item]) -> list[Observation]:
    """What the ledger has of each request, in the order in which they were sent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with _engine(recipe, directory) as candidate, _engine("bf16", directory) as reference:
            config = folder / "parity.toml"
            config.write_text(
                SETTINGS.format(candidate=candidate, reference=reference, folder=folder), encoding="utf-8"
            )
            async with serving(config) as urls:
                await _send(urls["relay"], items)
                epoch = await _settled(urls["control"], len(items))
                found = list(open_read_only(folder / "ledger.sqlite").observations(epoch))
    if [one.disposition for one in found] != ["scored"] * len(items):
        raise AssertionError(f"{recipe}: not every request was scored: {[one.reason for one in found]}")
    return found


@asynccontextmanager
async def _engine(recipe: str, directory: Path) -> AsyncIterator[str]:
    argv = [sys.executable, "-m", "backends.emulator", "--recipe", recipe, "--model", str(directory)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None:
            raise AssertionError("stdout is piped")
        yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.terminate()
        await process.wait()


async def _send(url: str, items: Sequence[Item]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        for item in items:
            body = {"model": "m", "messages": item.request["messages"], "temperature": 0, "max_tokens": MAX_REPLY}
            body |= {"tools": item.tools} if item.tools else {}
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()


async def _settled(url: str, count: int) -> int:
    """The epoch, once every request has its row."""
    limit = time.monotonic() + SETTLE_S
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        while time.monotonic() < limit:
            gate = (await client.get("/gate")).json()
            if gate["coverage"]["sampled"] >= count:
                return int(gate["epoch"])
            await asyncio.sleep(0.2)  # polling another process, bounded by the limit
    raise AssertionError(f"not settled in {SETTLE_S:g} s: {gate['coverage']}")


def _row(observed: Sequence[Observation], direct: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Per score: the ledger's figure, the direct one, over how many requests, and on how many the two are the same.

    Raises:  AssertionError when a score applies to a request on one side only.
    """
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in SCORES}
    for place, (seen, own) in enumerate(zip(observed, direct, strict=True)):
        for name in SCORES:
            value = seen.candidate.get(name)
            if isinstance(value, float) and name in own:
                pairs[name].append((value, own[name]))
            elif isinstance(value, float) or name in own:
                raise AssertionError(f"request {place}, {name}: {value} in the ledger, {own.get(name)} direct")
    return {name: _figures(found) for name, found in pairs.items()}


def _direct(item: Item, outcome: Outcome, text: str, their_text: str) -> dict[str, float]:
    """The scores of one request that apply, without a proxy: calls and KL by this bench's own arithmetic; copies by
    the product's definition of what counts as one, since the generator's answer is another question."""
    found = {"logprob_kl": outcome.aligned_kl}
    if item.tools:
        found["tool_call_mismatch"] = float(not outcome.same_calls)
    request = decode_request("/v1/chat/completions", orjson.dumps({"messages": item.request["messages"]}))
    far, near = far_text(request)
    spans = copied_spans(their_text, far, near) if far else []
    if spans and not item.tools:
        lost = [span for span in spans if not says(one_line(text), one_line(span.text))]
        found["copy_recall_loss"] = len(lost) / len(spans)
    return found


def _figures(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    count = len(pairs)
    return {
        "ledger": sum(one for one, _ in pairs) / count,
        "direct": sum(other for _, other in pairs) / count,
        "count": count,
        "same": sum(_near(one, other) for one, other in pairs) / count,
    }


def _near(one: float, other: float) -> bool:
    share, least = APART_KL
    return abs(one - other) <= max(share * abs(other), least)


def _agrees(name: str, figures: Mapping[str, Any]) -> bool:
    if name == "logprob_kl":
        return _near(figures["ledger"], figures["direct"])
    return bool(figures["same"] >= SAME)
