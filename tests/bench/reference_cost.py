"""What a scored pair costs the reference: every reply regenerated, and proven where it can be, on the same traffic.

    python -m tests.bench.reference_cost [--out docs/bench/reference_cost.json] [--requests 120] [--recipes bf16 ...]

The demo's own pair: the shipped model at BF16 as the reference, a recipe of it as the candidate, both on the emulator;
`parity serve` between them, and the demo's traffic one request after another, so that the ledgers can be compared row
by row. `tokens` are proven by the replay, which brings their ids; `text` is proven by the served text alone,
for greedy requests, without a replay. The table in docs/reference-cost.md is written with the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from proxy.demo.engines import Emulated, emulated
from proxy.demo.stage import serving
from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.rows import LedgerRow
from proxy.report.reference_cost import reference_cost

RECIPES = ("bf16", "int4-weights", "int4-kv-per-tensor")
RUNS: Mapping[str, tuple[str, float]] = {  # mode, replay_rate
    "regenerate": ("regenerate", 1.0),
    "verify, tokens": ("verify", 1.0),
    "verify, text": ("verify", 0.0),
}
LIMITS = {"tool_call_mismatch": 0.2, "copy_recall_loss": 0.15, "text_mismatch": 0.5, "logprob_kl": 0.15}
NOISE_RATE = 0.25  # the product's default
APART_NATS = 1e-3  # *choice*: prefill and decode round differently; a thousandth is far below any limit on KL
SETTLE_S = 300.0
PAGE = Path("docs/reference-cost.md")
BEGIN, FINISH = "<!-- figures: python -m tests.bench.reference_cost -->", "<!-- end of figures -->"

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
mode = "{mode}"
concurrency = 2
noise_rate = {noise_rate}
replay_rate = {replay_rate}
needle_rate = 0.0
[ledger]
path = "{folder}/ledger.sqlite"
[control]
port = 0
[budgets]
tool_call_mismatch = {{ limit = 0.2, critical = true }}
copy_recall_loss = {{ limit = 0.15 }}
text_mismatch = {{ limit = 0.5 }}
logprob_kl = {{ limit = 0.15 }}
"""


@dataclass(frozen=True)
class Ran:
    """One run: its figures, and its rows in the order of the requests."""

    figures: dict[str, Any]
    rows: list[LedgerRow]


async def measured(recipes: Sequence[str], requests: int) -> dict[str, Any]:
    """Every recipe's runs, and whether verifying changed any evidence."""
    found: dict[str, Any] = {}
    for recipe in recipes:
        async with emulated(recipe) as engines:
            runs = {name: await _ran(engines, mode, rate, requests) for name, (mode, rate) in RUNS.items()}
        base = runs["regenerate"]
        apart = {name: _apart(base.rows, run.rows) for name, run in runs.items() if run is not base}
        found[recipe] = {
            "runs": {name: run.figures for name, run in runs.items()},
            "scores_compared": {name: compared for name, (compared, *_) in apart.items()},
            "scores_apart": {name: differing for name, (_, differing, _) in apart.items()},
            "largest_gaps": {name: gaps for name, (*_, gaps) in apart.items()},
        }
        print(json.dumps({recipe: found[recipe]}), file=sys.stderr)
    same = not any(apart for row in found.values() for apart in row["scores_apart"].values())
    return {"requests": requests, "noise_rate": NOISE_RATE, "recipes": found, "same_evidence": same}


async def _ran(engines: Emulated, mode: str, replay_rate: float, requests: int) -> Ran:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "parity.toml"
        arms = {"candidate": engines.candidate_url, "reference": engines.reference_url, "folder": folder}
        config.write_text(SETTINGS.format(**arms, mode=mode, replay_rate=replay_rate, noise_rate=NOISE_RATE))
        async with serving(config) as urls:
            await _send(urls["relay"], itertools.islice(engines.bodies(), requests))
            gate = await _settled(urls["control"], requests)
        ledger = folder / "ledger.sqlite"
        with closing(open_read_only(ledger)) as reader:
            rows = list(reader.rows(gate["epoch"]))
        cost = reference_cost(ledger, gate["epoch"])
    read, made = cost.per_pair(floor=False)
    figures = {
        "pairs": cost.pairs,
        "verified": cost.verified,
        "verified_share": round(cost.verified / max(cost.pairs, 1), 4),
        "regenerated": cost.regenerated,
        "prefill_tokens_per_pair": round(read, 1),
        "decode_tokens_per_pair": round(made, 2),
        "tokens": {count.purpose: {"prefill": count.prefill, "decode": count.decode} for count in cost.tokens},
        "budgets": {name: _evidence(rows, name, limit) for name, limit in LIMITS.items()},
        "lost": _lost(rows),
        "verdict": gate["verdict"],
    }
    return Ran(figures, rows)


async def _send(url: str, bodies: Any) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        for body in bodies:
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()


async def _settled(url: str, count: int) -> dict[str, Any]:
    """The gate's answer, once every request has its row."""
    limit = time.monotonic() + SETTLE_S
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        while time.monotonic() < limit:
            gate: dict[str, Any] = (await client.get("/gate")).json()
            if gate["coverage"]["sampled"] >= count:
                return gate
            await asyncio.sleep(0.2)  # polling another process, bounded by the limit
    raise AssertionError(f"not settled in {SETTLE_S:g} s: {gate['coverage']}")


def _numbers(row: LedgerRow) -> dict[str, float]:
    return {s.name: s.value for s in row.scores if s.arm == "candidate" and s.value is not None}


def _lost(rows: Sequence[LedgerRow]) -> dict[str, int]:
    """Rows by the reason for which they lack a score that they should have."""
    reasons = ({s.reason.value for s in row.scores if s.reason is not None and s.reason.lost} for row in rows)
    return dict(Counter(itertools.chain.from_iterable(reasons)))


def _evidence(rows: Sequence[LedgerRow], name: str, limit: float) -> dict[str, float]:
    """Pairs that gave the budget a number, those over its limit, and the mean."""
    values = [numbers[name] for numbers in map(_numbers, rows) if name in numbers]
    over = sum(value > limit for value in values)
    return {"pairs": len(values), "over": over, "mean": round(sum(values) / max(len(values), 1), 4)}


def _apart(base: Sequence[LedgerRow], other: Sequence[LedgerRow]) -> tuple[int, dict[str, int], dict[str, float]]:
    """Request by request: how many scores both runs have, how many differ by name, and the largest gaps by name."""
    compared, differing = 0, dict.fromkeys(LIMITS, 0)
    largest: dict[str, float] = {}
    for one, two in zip(base, other, strict=True):
        left, right = _numbers(one), _numbers(two)
        for name in LIMITS.keys() & left.keys() & right.keys():
            compared += 1
            gap = abs(left[name] - right[name])
            differing[name] += gap > (APART_NATS if name == "logprob_kl" else 0.0)
            largest[name] = max(largest.get(name, 0.0), gap)
    return compared, {name: count for name, count in differing.items() if count}, largest


def table(measured: Mapping[str, Any]) -> str:
    """The figures as they stand in the page."""
    lines = [
        "| candidate | mode | pairs | verified | read per pair | generated per pair | tool calls off | texts off |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe, found in measured["recipes"].items():
        for name, run in found["runs"].items():
            off = [
                f"{b['over']} of {b['pairs']}"
                for b in (run["budgets"][n] for n in ("tool_call_mismatch", "text_mismatch"))
            ]
            lines.append(
                f"| {recipe} | {name} | {run['pairs']} | {run['verified_share']:.0%} | "
                f"{run['prefill_tokens_per_pair']:,.0f} | {run['decode_tokens_per_pair']:.1f} | {off[0]} | {off[1]} |"
            )
    gaps = [gaps for found in measured["recipes"].values() for gaps in found["largest_gaps"].values()]
    kl = max((one.get("logprob_kl", 0.0) for one in gaps), default=0.0)
    compared = sum(sum(found["scores_compared"].values()) for found in measured["recipes"].values())
    apart = sum(sum(one.values()) for found in measured["recipes"].values() for one in found["scores_apart"].values())
    lines += [
        "",
        f"Of {compared:,} scores that both modes have, {apart} differ (of KL, by more than {1e3 * APART_NATS:g} "
        f"thousandth of a nat; the largest gap is {1e3 * kl:.2g}: the reference's prefill and decode round apart).",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when verifying changed no score and generated less, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/reference_cost.json"))
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    given = parser.parse_args(arguments)
    found = asyncio.run(measured(given.recipes, given.requests))
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{FINISH}{rest.split(FINISH)[1]}", encoding="utf-8")
    less = all(
        row["runs"]["verify, tokens"]["decode_tokens_per_pair"] < row["runs"]["regenerate"]["decode_tokens_per_pair"]
        for row in found["recipes"].values()
    )
    return 0 if found["same_evidence"] and less else 1


if __name__ == "__main__":
    sys.exit(main())
