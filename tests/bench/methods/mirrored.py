"""One candidate beside the reference through the real proxy, and what the ledger has of it at the end."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from proxy.demo.stage import serving
from proxy.monitor.ledger_reader import open_read_only
from scorers.diagnose import diagnose
from scorers.pattern import PatternTally
from scorers.records import Observation

CONCURRENCY = 4
SETTLE_S = 600.0
SCORES = ("logprob_kl", "top1_disagreement", "tool_call_mismatch", "copy_recall_loss", "needle_recall_loss")
LEAST_KL = 1e-5  # *choice*: a hundred times what BF16 shows against itself, 1e-7, which is the printing of logprobs
JUDGED = ("logprob_kl", "tool_call_mismatch", "copy_recall_loss")

ACCEPTING: Mapping[str, float] = {"copies": 0.15, "calls": 0.2, "kl": 0.15, "slack": 0.2}
"""The demo's (proxy/demo/stage.py): a product that accepts what INT4 costs a model this small."""
STRICT: Mapping[str, float] = {"copies": 0.01, "calls": 0.01, "kl": 0.003, "slack": 0.01}
"""*choice*: a product that accepts no damage that 192 requests can show."""

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
concurrency = 4
noise_rate = 0.25
replay_rate = 1.0
needle_rate = 0.15
timeout_s = 300.0
late_after_s = 590.0
[ledger]
path = "{folder}/ledger.sqlite"
keep_share = 1.0
[control]
port = 0
[gate]
recipe = "{name}"
alpha_rollback = 0.05
[budgets.copy_recall_loss]
limit = {copies}
slack = {slack}
critical = true
[budgets.tool_call_mismatch]
limit = {calls}
slack = {slack}
critical = true
[budgets.logprob_kl]
limit = {kl}
"""


async def mirrored(
    name: str,
    candidate: str,
    reference: str,
    bodies: Sequence[dict[str, Any]],
    folder: Path,
    limits: Mapping[str, float] = ACCEPTING,
) -> dict[str, Any]:
    """The figures of one candidate: means of the scores, the gate's verdict, and the suspect axis.

    `suspect` is the gate's own, which names one only when a budget is over its limit; `suspect_if_over` is what the
    same rule says of the same ledger were every judged score over its limit.
    Raises:  AssertionError when the proxy does not settle.
    """
    told = SETTINGS.format(candidate=candidate, reference=reference, folder=folder, name=name, **limits)
    async with serving(_settings(told, folder)) as urls:
        await _ready(urls["control"])
        errors = await _send(urls["relay"], bodies)
        gate = await _settled(urls["control"], len(bodies))
    rows = list(open_read_only(folder / "ledger.sqlite").observations(gate["epoch"]))
    return {
        "requests": len(bodies),
        "client_errors": errors,
        "scores": {score: mean(rows, score) for score in SCORES},
        "errors": {score: error(rows, score) for score in SCORES},
        "counts": {score: len(values(rows, score)) for score in SCORES},
        "verdict": gate["verdict"],
        "over": [name for name, budget in gate["budgets"].items() if budget["verdict"] == "fail"],
        "suspect": gate["diagnosis"]["axis"],
        **_suspected(rows),
    }


def _settings(told: str, folder: Path) -> Path:
    """The settings file, in a folder of its own without a ledger."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "parity.toml"
    config.write_text(told, encoding="utf-8")
    return config


def values(rows: Sequence[Observation], score: str) -> list[float]:
    """A score's numbers, over the rows that have one."""
    return [one for row in rows if isinstance(one := row.candidate.get(score), float | int)]


def mean(rows: Sequence[Observation], score: str) -> float | None:
    """None where no row has a number."""
    found = values(rows, score)
    return sum(found) / len(found) if found else None


def error(rows: Sequence[Observation], score: str) -> float | None:
    """The standard error of the mean; None below two numbers."""
    found = values(rows, score)
    return statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else None


def _suspected(rows: Sequence[Observation]) -> dict[str, Any]:
    pattern = PatternTally()
    for row in rows:
        if row.disposition == "scored":
            pattern.fold(row.candidate, row.noise, row.stratum)
    kl = mean(rows, "logprob_kl")
    if kl is None or kl < LEAST_KL:
        return {"suspect_if_over": "undetermined", "evidence": [f"KL below {LEAST_KL:g} nats: there is no damage"]}
    found = diagnose(pattern, JUDGED)
    return {"suspect_if_over": found.axis, "evidence": list(found.evidence)}


async def _send(url: str, bodies: Sequence[dict[str, Any]]) -> int:
    """How many replies were no 200."""
    waiting, errors = iter(bodies), itertools.count()
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:

        async def worker() -> None:
            for body in waiting:
                if (await client.post("/v1/chat/completions", json=body)).status_code != 200:
                    next(errors)

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return next(errors)


async def _ready(url: str) -> None:
    """Once the monitor is: what is sampled before its first epoch belongs to none, and is lost."""
    limit = time.monotonic() + SETTLE_S
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        while (answer := await client.get("/readyz")).status_code != 200:
            assert time.monotonic() < limit, f"not ready in {SETTLE_S:g} s: {answer.text}"
            await asyncio.sleep(0.3)  # polling another process, bounded by the limit


async def _settled(url: str, count: int) -> dict[str, Any]:
    """The gate's answer once every request has its row, and every needle that was planted beside one."""
    limit = time.monotonic() + SETTLE_S
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        while time.monotonic() < limit:
            state: dict[str, Any] = (await client.get("/state")).json()
            queue, arrived = state["queue"], state["feed"]["events"] >= 2 * count  # its mark, and the exchange
            waiting = (
                queue["exchanges"],
                queue["in_work"],
                state["order"]["unreleased"],
                state["ledger"]["waiting_rows"],
            )
            if arrived and not any(waiting):
                gate: dict[str, Any] = (await client.get("/gate")).json()
                return gate
            await asyncio.sleep(0.3)  # polling another process, bounded by the limit
    raise AssertionError(f"not settled in {SETTLE_S:g} s: {state}")
