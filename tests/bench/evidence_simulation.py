"""Simulated operating characteristics of the evidence, beside metrology's figures, and the speed of folding.

    python tests/bench/evidence_simulation.py [--out docs/bench/evidence.json] [--runs 2000] [--rows 1000000]

Fixed seeds: the same numbers on every run. Scores are 0 or 1 there, so the e-value after n pairs depends on the number
of mismatches alone, and a run is its running count against a table of thresholds; a handful of runs is also played
through `scorers.evidence.Lane`, which must cross at the very same pair.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scorers.betting import contrast_bets, promotion_bets, rollback_bets
from scorers.change import RUN_LENGTH
from scorers.evidence import Lane, Thresholds
from scorers.judge import Budget, EvidenceState, GateRules, start
from scorers.planning import pairs_to_pass
from scorers.records import LENGTH_BUCKETS, Observation, Reason, Stratum

Counts = npt.NDArray[np.int64]
Firsts = npt.NDArray[np.int64]

LOOKS = 6_000
BOTH = (False, True)
CHUNK = 250
ALPHA = 0.05
Z_FIRST_LOOK = 100  # a patient reader's first look; from 30 on, where textbooks allow it, it is worse


def log_mean(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """ln of the mean of exp over axis 0."""
    top = logs.max(axis=0)
    return np.asarray(top + np.log(np.exp(logs - top).mean(axis=0)))


def runs_of(rate: float, runs: int, seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Chunks of runs x LOOKS mismatches."""
    rng = np.random.default_rng(seed)
    for begin in range(0, runs, CHUNK):
        yield rng.random((min(CHUNK, runs - begin), LOOKS)) < rate


def first_true(hits: npt.NDArray[np.bool_]) -> Firsts:
    """The 1-based first look that is true, LOOKS + 1 where none is."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, LOOKS + 1)


def wealth_table(bets: Sequence[float], limit: float, sign: float) -> Callable[[Counts, Counts], Any]:
    """ln E as a function of (looks, mismatches)."""
    on_match = np.log1p(np.array(bets) * sign * (0.0 - limit))
    on_mismatch = np.log1p(np.array(bets) * sign * (1.0 - limit))

    def log_e(looks: Counts, mismatches: Counts) -> Any:
        matches = looks - mismatches
        return log_mean(on_match[:, None] * matches + on_mismatch[:, None] * mismatches)

    return log_e


def promotions(limit: float, rate: float, runs: int, seed: int) -> Firsts:
    """Where each run promotes: the number of mismatches that each look can bear, then a comparison."""
    log_e = wealth_table(promotion_bets(limit), limit, -1.0)
    looks = np.arange(1, LOOKS + 1)
    bearable = _steps(lambda k: log_e(looks, np.minimum(k, looks)) >= math.log(1.0 / ALPHA), start=-1)
    return np.concatenate([first_true(np.cumsum(x, axis=1) <= bearable) for x in runs_of(rate, runs, seed)])


def rollbacks(limit: float, rate: float, alpha: float, runs: int, seed: int) -> Firsts:
    """Where each run rolls back."""
    log_e = wealth_table(rollback_bets(limit), limit, 1.0)
    looks = np.arange(1, LOOKS + 1)
    bearable = _steps(lambda k: log_e(looks, np.minimum(k, looks)) < math.log(1.0 / alpha), start=-1)
    return np.concatenate([first_true(np.cumsum(x, axis=1) > bearable) for x in runs_of(rate, runs, seed)])


def _steps(holds: Callable[[Counts], Any], start: int) -> Counts:
    """Per look, the largest count of mismatches for which `holds`, which is monotone in the count; bisection."""
    low = np.full(LOOKS, start, dtype=np.int64)
    high = np.arange(1, LOOKS + 1, dtype=np.int64) + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        good = holds(np.maximum(middle, 0)) & (middle <= np.arange(1, LOOKS + 1))
        low = np.where(good, middle, low)
        high = np.where(good, high, middle)
    return low


def contrasts(rate: float, floor: float, reruns: int, runs: int, seed: int) -> Firsts:
    """Where the noise contrast is won: k 3, eps 1 %, N the mean of `reruns` independent mismatches."""
    rng = np.random.default_rng(seed)
    bets = contrast_bets(0.01)
    firsts = []
    for begin in range(0, runs, CHUNK):
        shape = (min(CHUNK, runs - begin), LOOKS)
        x = (rng.random(shape) < rate).astype(np.float64)
        n = rng.binomial(reruns, floor, shape) / reruns
        z = 3.0 * n + 0.01 - x
        logs = np.stack([np.cumsum(np.log1p(bet * z), axis=1) for bet in bets])
        firsts.append(first_true(log_mean(logs) >= math.log(1.0 / ALPHA)))
    return np.concatenate(firsts)


def alarms(limit: float, rate: float, runs: int, seed: int) -> Firsts:
    """How long after a change, at the first look, Shiryaev-Roberts alarms."""
    bets = np.array(rollback_bets(limit))
    firsts = []
    for x in runs_of(rate, runs, seed):
        state = np.zeros((len(x), len(bets)))
        first = np.full(len(x), LOOKS + 1)
        for look in range(LOOKS):
            state = (state + 1.0) * (1.0 + bets * (x[:, look, None] - limit))
            alarmed = (state.mean(axis=1) >= RUN_LENGTH) & (first > LOOKS)
            first[alarmed] = look + 1
            state = np.minimum(state, 1e200)  # past the alarm only, where nothing is read any more
        firsts.append(first)
    return np.concatenate(firsts)


def z_promotions(limit: float, rate: float, runs: int, seed: int) -> Firsts:
    """What a normal upper bound, looked at after each request, would promote."""
    looks = np.arange(1, LOOKS + 1)
    firsts = []
    for x in runs_of(rate, runs, seed):
        mean = np.cumsum(x, axis=1) / looks
        upper = mean + 1.6448536269514722 * np.sqrt(mean * (1.0 - mean) / looks)
        firsts.append(first_true((upper < limit) & (looks >= Z_FIRST_LOOK)))
    return np.concatenate(firsts)


def exact_promotions(limit: float, rate: float, every: int, runs: int, seed: int) -> Firsts:
    """What a one-sided Clopper-Pearson bound, looked at every so many requests, would promote."""
    bearable = np.full(LOOKS, -1, dtype=np.int64)
    for look in range(every, LOOKS + 1, every):
        bearable[look - 1] = _most_mismatches(look, limit)
    return np.concatenate([first_true(np.cumsum(x, axis=1) <= bearable) for x in runs_of(rate, runs, seed)])


def _most_mismatches(looks: int, limit: float) -> int:
    """The largest k with P(Binomial(looks, limit) <= k) < alpha: exactly then the upper bound lies below the limit."""
    total, k = 0.0, -1
    while True:
        log_p = math.lgamma(looks + 1) - math.lgamma(k + 2) - math.lgamma(looks - k)
        total += math.exp(log_p + (k + 1) * math.log(limit) + (looks - k - 1) * math.log1p(-limit))
        if total >= ALPHA:
            return k
        k += 1


def played(limit: float, rate: float, seed: int) -> list[int]:
    """The first runs of `promotions`, through the product's own code."""
    budget = Budget("x", limit, bounded=True, critical=True)
    firsts = []
    for x in next(runs_of(rate, 8, seed)):
        lane = Lane(budget, Thresholds(ALPHA, 0.01, 1))
        for position, score in enumerate(x.tolist(), start=1):
            lane.fold(float(score), None, position, may_promote=True)
        firsts.append(LOOKS + 1 if lane.gate_position is None else lane.gate_position)
    return firsts


def spread(firsts: Firsts) -> list[int]:
    """Median, 80 % and 90 %."""
    return [int(np.quantile(firsts, q, method="inverted_cdf")) for q in QUANTILES]


QUANTILES = (0.5, 0.8, 0.9)


def beside(firsts: Firsts, published: Sequence[int]) -> dict[str, Any]:
    """What was found, what metrology gives, and how far apart, in standard deviations of two such simulations.

    The distance is that of a quantile's level: which share of our runs had crossed by the published number of pairs.
    Crossings come on a lattice (one more mismatch costs many pairs), so a level may jump over its quantile.
    """
    sigmas = []
    for level, theirs in zip(QUANTILES, published, strict=False):
        below, upto = float((firsts < theirs).mean()), float((firsts <= theirs).mean())
        deviation = math.sqrt(2.0 * level * (1.0 - level) / len(firsts))
        sigmas.append(round(max(0.0, below - level, level - upto) / deviation, 1))
    return {"found": spread(firsts)[: len(published)], "published": list(published), "sigmas": sigmas}


def share(firsts: Firsts) -> float:
    """The share of runs that decided within LOOKS."""
    return float((firsts <= LOOKS).mean())


PROMOTION = [  # limit, true rate, metrology 4.1
    (0.03, 0.0, [135, 135, 135]),
    (0.03, 0.005, [135, 293, 353]),
    (0.03, 0.01, [293, 519, 672]),
    (0.03, 0.015, [622, 1142, 1451]),
    (0.03, 0.02, [1451, 2864, 3860]),
    (0.01, 0.002, [698, 1065, 1238]),
    (0.05, 0.01, [137, 210, 244]),
    (0.10, 0.03, [86, 137, 183]),
]
ROLLBACK = [(0.045, [974, 1912, 2528]), (0.06, [236, 511, 683]), (0.10, [59, 118, 158]), (0.20, [16, 30, 40])]
# Metrology's "four re-runs" come out with six independent mismatches: the pairs among four runs.
CONTRAST = [(1, [576, 989, 1301]), (4, [336, 546, 662]), (6, [336, 546, 662])]
CHANGE = [(0.06, 561), (0.10, 162), (0.20, 44)]


def simulate(runs: int) -> dict[str, Any]:
    """All tables."""
    found: dict[str, Any] = {"runs": runs, "looks": LOOKS, "alpha": ALPHA}
    found["promotion"] = []
    for seed, (limit, rate, published) in enumerate(PROMOTION, start=100):
        firsts = promotions(limit, rate, runs, seed)
        assert played(limit, rate, seed) == firsts[:8].tolist(), "the product's code crosses elsewhere"
        exact = pairs_to_pass(Budget("x", limit, bounded=True, critical=True), rate, ALPHA)
        found["promotion"].append({"limit": limit, "rate": rate, **beside(firsts, published), "exact_median": exact})
    found["rollback"] = [
        {"limit": 0.03, "rate": rate, **beside(rollbacks(0.03, rate, 0.05, runs, seed), published)}
        for seed, (rate, published) in enumerate(ROLLBACK, start=200)
    ]
    found["contrast"] = [
        {"rate": 0.01, "reruns": m, **beside(contrasts(0.01, 0.01, m, runs, 300 + m), published)}
        for m, published in CONTRAST
    ]
    found["change"] = [
        {"limit": 0.03, "rate": rate, **beside(alarms(0.03, rate, runs, seed), [published])}
        for seed, (rate, published) in enumerate(CHANGE, start=400)
    ]
    found["at_the_budget"] = {
        "false_promotion": {"found": share(promotions(0.03, 0.03, runs, 500)), "published": 0.045, "promised": 0.05},
        "false_rollback_at_5_percent": {"found": share(rollbacks(0.03, 0.03, 0.05, runs, 501)), "published": 0.034},
        "false_rollback_at_1_percent": {"found": share(rollbacks(0.03, 0.03, 0.01, runs, 501)), "promised": 0.01},
        "false_contrast": {"found": share(contrasts(0.04, 0.01, 1, runs, 502)), "promised": 0.05},
        "z_every_request": {"found": share(z_promotions(0.03, 0.03, runs, 500)), "published": 0.495},
        "clopper_pearson_every_100": {"found": share(exact_promotions(0.03, 0.03, 100, runs, 500)), "published": 0.246},
        "clopper_pearson_every_request": {"found": share(exact_promotions(0.03, 0.03, 1, runs, 500))},
    }
    return found


def observations(rows: int) -> Iterator[Observation]:
    """A plausible stream: 2 % mismatches, a quarter of the rows with a re-run, KL on a quarter, recall on half."""
    rng = np.random.default_rng(7)
    strata = [Stratum(name, tools, stream, True) for name, _ in LENGTH_BUCKETS for tools in BOTH for stream in BOTH]
    pool = []
    for _ in range(4_096):
        wrong, again, kl, planned, spans = rng.random(5).tolist()
        candidate: dict[str, float | Reason] = {
            "tool_call_mismatch": float(wrong < 0.02),
            "tool_schema_failure": float(wrong < 0.002),
            "copy_recall_loss": wrong if spans < 0.5 and wrong < 0.02 else 0.0 if spans < 0.5 else Reason.NO_SPANS,
            "logprob_kl": 0.03 * kl if planned < 0.25 else Reason.NOT_PLANNED,
            "logprob_kl_max": 0.3 * kl if planned < 0.25 else Reason.NOT_PLANNED,
            "text_mismatch": float(kl < 0.05),
            "finish_reason_mismatch": float(wrong < 0.01),
            "needle_recall_loss": Reason.NOT_A_PROBE,
        }
        noise = {name: float(again < 0.01) for name, v in candidate.items() if not isinstance(v, Reason)}
        pool.append((strata[int(rng.integers(len(strata)))], candidate, noise if again < 0.25 else {}))
    order = rng.integers(len(pool), size=rows).tolist()
    for position, index in enumerate(order):
        stratum, candidate, noise = pool[index]
        yield Observation(position, "live", "scored", None, stratum, candidate, noise)


BUDGETS = (
    Budget("tool_call_mismatch", 0.03, bounded=True, critical=True),
    Budget("copy_recall_loss", 0.05, bounded=True, critical=True, strata=("length",)),
    Budget("logprob_kl", 0.05, bounded=False, critical=False, unit="nats"),
    Budget("tool_schema_failure", 0.01, bounded=True, critical=False),
)


def folding(rows: int) -> dict[str, Any]:
    """CPU seconds of folding, the making of the observations taken off."""
    begin = time.process_time()
    for _ in observations(rows):
        pass
    making = time.process_time() - begin
    state: EvidenceState = start(BUDGETS, GateRules(max_pairs=10_000_000))
    begin = time.process_time()
    for observation in observations(rows):
        state.fold(observation)
    seconds = time.process_time() - begin - making
    return {
        "rows": rows,
        "budgets": [budget.name for budget in BUDGETS],
        "cpu_s": round(seconds, 2),
        "us_per_row": round(seconds / rows * 1e6, 2),
        "state_bytes": len(json.dumps(state.to_json())),
        "verdict": state.verdict().state,
    }


def show(found: dict[str, Any]) -> None:
    """The tables, ours beside metrology's."""

    def line(what: str, ours: object, theirs: object = "", sigmas: object = "") -> None:
        print(f"{what:<46}{ours!s:<26}{theirs!s:<26}{sigmas!s}")

    line("", "found", "metrology 4", "apart, in sigmas")
    for entry in found["promotion"]:
        what = f"promotion B {entry['limit']:.0%} true {entry['rate']:.1%} (exact {entry['exact_median']})"
        line(what, entry["found"], entry["published"], entry["sigmas"])
    for entry in found["rollback"]:
        what = f"rollback B 3% true {entry['rate']:.1%}, alpha 5%"
        line(what, entry["found"], entry["published"], entry["sigmas"])
    for entry in found["contrast"]:
        what = f"contrast 1% against 1%, {entry['reruns']} mismatches per N"
        line(what, entry["found"], entry["published"], entry["sigmas"])
    for entry in found["change"]:
        line(f"change to {entry['rate']:.0%}: delay", entry["found"], entry["published"], entry["sigmas"])
    for name, entry in found["at_the_budget"].items():
        promised = f"{entry['published']:.1%}" if "published" in entry else ""
        limit = f" promised <= {entry['promised']:.0%}" if "promised" in entry else ""
        line(f"at the budget: {name}", f"{entry['found']:.1%}", promised + limit)
    fold = found["folding"]
    line(f"folding {fold['rows']:,} rows, {len(fold['budgets'])} budgets", f"{fold['cpu_s']} s of CPU", "under 10 s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print, write. Fails when a promise about false decisions is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("docs/bench/evidence.json"))
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args(arguments)
    found = simulate(given.runs)
    found["folding"] = folding(given.rows)
    found["python"] = platform.python_version()
    show(found)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    broken = [
        name
        for name, entry in found["at_the_budget"].items()
        if "promised" in entry and entry["found"] > entry["promised"] + 3.0 * _deviation(entry["promised"], given.runs)
    ]
    for name in broken:
        print(f"broken promise: {name}", file=sys.stderr)
    return 1 if broken else 0


def _deviation(share: float, runs: int) -> float:
    """The standard deviation of a simulated share."""
    return math.sqrt(share * (1.0 - share) / runs)


if __name__ == "__main__":
    sys.exit(main())
