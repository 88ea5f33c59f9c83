"""How often each planted failure gets which axis: the confusion matrix of scorers/diagnose.py, through the judge.

    python -m tests.bench.diagnosis_confusion [--out docs/bench/diagnosis.json] [--runs 100]

Fixed seeds. Each run draws a traffic (prompt lengths, share of tool requests, how much recall, how open the answers
are, how heavy the model's own tail is) and the strength of the damage, then folds its rows as the monitor does. What
damage looks like follows metrology 5 and what INT4 and INT3 recipes do to the shipped model, where requests differ from
one another far more than recipes do: a standard deviation of 1 to 3 of ln KL over the doubt.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from scorers.judge import Budget, GateRules, start
from scorers.pattern import OCTAVES
from scorers.records import LENGTH_BUCKETS, Observation, Reason, Stratum
from scorers.verdict import AXES, Diagnosis

PAIRS = (100, 300, 1_000, 3_000)
JUDGED_PAIRS = 300
LEAST_RIGHT, MOST_WRONG = 0.90, 0.05
SPREAD = 1.8  # standard deviation of ln KL over the doubt, from request to request
TOOL_LIMIT, RECALL_LIMIT, KL_LIMIT = 0.03, 0.05, 0.05

BUDGETS: Final = (
    Budget("tool_call_mismatch", TOOL_LIMIT, bounded=True, critical=True),
    Budget("copy_recall_loss", RECALL_LIMIT, bounded=True, critical=True, strata=("length",)),
    Budget("logprob_kl", KL_LIMIT, bounded=False, critical=False, unit="nats"),
)


@dataclass(frozen=True)
class Damage:
    """What a planted failure does. KL is `kl` nats on the mean request, times e^(slope x doublings), times a jump."""

    kl: float
    tools: float
    recall: float
    slope: float = 0.0  # ln KL per doubling of the prompt
    recall_slope: float = 0.0  # the same of the odds of a lost recall
    jump: float = 1.0
    jump_at: int = 0  # index of the first bucket that it strikes
    spiky: float = 0.0  # share of the requests with a spike on one token
    same_tokens: bool = False  # the calls differ and the tokens do not
    other_prompts: float = 0.0  # share of tool requests whose prompt tokens differ
    noise_tools: float = 0.002
    noise_kl: float = 0.0003


Make = Callable[[np.random.Generator], Damage]

PLANTED: Mapping[str, tuple[str, Make]] = {
    "none": ("undetermined", lambda r: Damage(r.uniform(0.001, 0.02), r.uniform(0.0, 0.015), r.uniform(0.0, 0.01))),
    "weights": (
        "weights",
        lambda r: Damage(r.uniform(0.03, 0.3), r.uniform(0.10, 0.3), r.uniform(0.0, 0.02), slope=r.uniform(-0.3, 0.1)),
    ),
    "activations": (
        "activations",
        lambda r: Damage(
            r.uniform(0.02, 0.1), r.uniform(0.10, 0.3), r.uniform(0.0, 0.02), slope=r.uniform(-0.3, 0.1), spiky=0.4
        ),
    ),
    "kv_cache": (
        "kv_cache",
        lambda r: Damage(
            r.uniform(0.02, 0.2),
            r.uniform(0.0, 0.08),
            r.uniform(0.10, 0.35),
            slope=r.uniform(0.25, 0.5),
            recall_slope=r.uniform(0.2, 0.8),
        ),
    ),
    "template: prompts": ("template", lambda r: Damage(0.01, 0.3, 0.0, other_prompts=r.uniform(0.1, 1.0))),
    "template: parser": ("template", lambda r: Damage(0.005, r.uniform(0.1, 0.5), 0.0, same_tokens=True)),
    "kernel: every run": (
        "kernel",
        lambda r: Damage(0.15, tools := r.uniform(0.10, 0.3), 0.05, noise_tools=tools, noise_kl=0.14),
    ),
    "kernel: by length": (
        "kernel",
        lambda r: Damage(
            0.002,
            0.01,
            0.01,
            jump=math.exp(r.uniform(math.log(300.0), math.log(3000.0))),
            jump_at=int(r.integers(1, 4)),
        ),
    ),
}


def rows(make: Make, pairs: int, seed: int) -> Iterator[Observation]:
    """The rows of one run: `pairs` scored pairs of one traffic."""
    rng = np.random.default_rng(seed)
    damage = make(rng)
    buckets = sorted(rng.choice(len(LENGTH_BUCKETS), size=int(rng.integers(3, 6)), replace=False))
    if damage.jump_at:  # on both sides of the jump, or there is none
        buckets = sorted({damage.jump_at - 1, damage.jump_at, *buckets})
    shares = rng.dirichlet(np.full(len(buckets), 3.0))
    tool_share, recall_share = rng.uniform(0.25, 0.6), rng.uniform(0.3, 0.7)
    openness, own_tail = rng.uniform(-3.5, -1.0), rng.uniform(6.0, 15.0)
    names = [name for name, _ in LENGTH_BUCKETS]
    octaves = np.array([OCTAVES[name] for name in names])
    middle = float(np.dot(shares, octaves[buckets]))
    for position in range(pairs):
        at = int(rng.choice(buckets, p=shares))
        tools = bool(rng.random() < tool_share)
        stratum = Stratum(names[at], tools, bool(rng.random() < 0.5), True)
        candidate, noise = _scores(rng, damage, at, octaves[at] - middle, tools, recall_share, openness, own_tail)
        yield Observation(position, "live", "scored", None, stratum, candidate, noise)


def _scores(
    rng: np.random.Generator,
    damage: Damage,
    bucket: int,
    octaves: float,
    tools: bool,
    recall_share: float,
    openness: float,
    own_tail: float,
) -> tuple[dict[str, float | Reason], dict[str, float | Reason]]:
    """One request's two sides. Tool calls are surer than text by e, and requests differ in doubt by a factor e."""
    jumped = damage.jump > 1.0 and bucket >= damage.jump_at
    doubt = min(0.9, math.exp(openness - 1.0 * tools + rng.normal(0.0, 1.0)))
    typical = math.exp(openness)
    size = rng.lognormal(-0.5 * SPREAD**2, SPREAD) * doubt / typical  # 1 on the mean
    kl = damage.kl * size * math.exp(damage.slope * octaves) * (damage.jump if jumped else 1.0)
    tail = own_tail * rng.lognormal(-0.08, 0.4)
    if rng.random() < damage.spiky:
        spike = damage.kl * rng.uniform(80.0, 400.0)
        kl, tail = kl * 0.3 + spike / 200.0, spike / (kl * 0.3 + spike / 200.0)
    candidate: dict[str, float | Reason] = {
        "logprob_kl": kl,
        "logprob_kl_max": kl * max(tail, 1.0),
        "reference_doubt": doubt,
        "copy_recall_loss": Reason.NO_SPANS,
        "tool_call_mismatch": Reason.NO_TOOLS,
    }
    again = damage.noise_kl * rng.lognormal(-0.5 * SPREAD**2, SPREAD) * doubt / typical
    noise: dict[str, float | Reason] = {
        "logprob_kl": again,
        "logprob_kl_max": again * own_tail * rng.lognormal(-0.08, 0.4),
    }
    early = float(rng.random() < 0.3) * rng.random()
    if tools:
        bad = bool(rng.random() < (0.6 if jumped else damage.tools))
        candidate["tool_call_mismatch"] = float(bad)
        noise["tool_call_mismatch"] = float(rng.random() < damage.noise_tools)
        if bad:
            early = 0.0 if damage.same_tokens and rng.random() < 0.95 else rng.uniform(0.05, 1.0)
        if rng.random() < damage.other_prompts:
            candidate["logprob_kl"] = candidate["logprob_kl_max"] = candidate["reference_doubt"] = Reason.TOKENS_DIFFER
    if rng.random() < recall_share:
        odds = damage.recall / (1.0 - damage.recall) * math.exp(damage.recall_slope * octaves)
        candidate["copy_recall_loss"] = float(rng.random() < (0.6 if jumped else odds / (1.0 + odds)))
        noise["copy_recall_loss"] = 0.0
    candidate["early_divergence"] = early
    return candidate, noise if rng.random() < 0.25 else {}


def diagnosed(make: Make, pairs: int, seed: int) -> Diagnosis:
    """What the judge says after one run."""
    state = start(BUDGETS, GateRules())
    for row in rows(make, pairs, seed):
        state.fold(row)
    return state.verdict().diagnosis


def confusion(pairs: int, runs: int) -> dict[str, Counter[str]]:
    """Per planted failure, how often each axis was said."""
    return {
        name: Counter(diagnosed(make, pairs, 1_000_000 * kind + 1_000 * pairs + run).axis for run in range(runs))
        for kind, (name, (_, make)) in enumerate(PLANTED.items())
    }


def summary(found: Mapping[str, Counter[str]]) -> dict[str, float]:
    """`right`: of the runs with something planted, the share with its axis. `wrong`: of all axes named, those wrong."""
    right = sum(counts[PLANTED[name][0]] for name, counts in found.items() if name != "none")
    planted = sum(sum(counts.values()) for name, counts in found.items() if name != "none")
    named = sum(count for counts in found.values() for axis, count in counts.items() if axis != "undetermined")
    return {"right": right / planted, "wrong": (named - right) / max(named, 1)}


def show(pairs: int, found: Mapping[str, Counter[str]]) -> None:
    """One matrix."""
    print(f"{pairs} pairs{'':<10}" + "".join(f"{axis:>14}" for axis in AXES))
    for name, counts in found.items():
        total = sum(counts.values())
        print(f"{name:<20}" + "".join(f"{counts[axis] / total:>14.1%}" for axis in AXES))
    said = summary(found)
    print(f"right {said['right']:.1%} of the planted, wrong {said['wrong']:.1%} of the named\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print, write. Fails when a promise is broken at JUDGED_PAIRS."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("docs/bench/diagnosis.json"))
    parser.add_argument("--runs", type=int, default=100)
    given = parser.parse_args(arguments)
    report: dict[str, Any] = {"runs": given.runs, "promised": {"right": LEAST_RIGHT, "wrong": MOST_WRONG}, "pairs": {}}
    for pairs in PAIRS:
        found = confusion(pairs, given.runs)
        show(pairs, found)
        report["pairs"][str(pairs)] = {
            **{key: round(value, 4) for key, value in summary(found).items()},
            "matrix": {name: {axis: counts[axis] for axis in AXES} for name, counts in found.items()},
        }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    judged = report["pairs"][str(JUDGED_PAIRS)]
    broken = judged["right"] < LEAST_RIGHT or judged["wrong"] > MOST_WRONG
    if broken:
        print(f"broken promise at {JUDGED_PAIRS} pairs: {judged['right']:.1%}, {judged['wrong']:.1%}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
