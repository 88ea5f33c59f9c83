"""How long a million ledger rows take to become evidence again, and how much memory that needs.

    python -m tests.bench.ledger_fold [--out docs/bench/ledger_fold.json] [--rows 1000000] [--rounds 3]

A real ledger is written once with the stream of tests/bench/evidence_simulation.py; then each round opens it as
`parity verdict LEDGER` does and folds all of it, on one core. Memory is the growth of the process's peak between a
tenth of the rows and all of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.rows import LedgerRow, ScoreRow
from proxy.monitor.standing import Standing
from proxy.monitor.watch import gate_of
from proxy.settings import LedgerSettings
from scorers.judge import EvidenceState, GateRules
from scorers.records import Observation, Reason
from tests.bench.evidence_simulation import BUDGETS, observations

RULES = GateRules(max_pairs=10_000_000)
BATCH = 2_000
PROMISED_S = 10.0  # issue 3: 1,000,000 rows on one core


def row_of(observation: Observation) -> LedgerRow:
    """The ledger row of which this is the observation."""
    scores = [
        ScoreRow(arm, name, None, value) if isinstance(value, Reason) else ScoreRow(arm, name, value, None)
        for arm, side in (("candidate", observation.candidate), ("noise", observation.noise))
        for name, value in side.items()
    ]
    return LedgerRow(
        position=observation.position,
        epoch=1,
        id=f"{observation.position:024x}",
        worker="0-1",
        sequence=observation.position,
        kind="live",
        sampled_unix_s=1.7e9 + observation.position,
        disposition="scored",
        reason=None,
        stratum=observation.stratum,
        path="/v1/chat/completions",
        status=200,
        outcome="complete",
        prompt_tokens=100,
        reference_prompt_tokens=100,
        scores=tuple(scores),
    )


def write(path: Path, rows: int) -> None:
    """A ledger of so many rows in one epoch."""
    with closing(SqliteLedger(LedgerSettings(path=path), is_mismatch=lambda score: False)) as ledger:
        ledger.open_epoch({"recipe": "bench", "gate": gate_of(BUDGETS, RULES)}, "bench", 1.7e9)
        stream: Iterator[Observation] = observations(rows)
        while batch := [row_of(observation) for observation in islice(stream, BATCH)]:
            ledger.append(batch)


def fold(path: Path) -> dict[str, Any]:
    """One folding of the whole ledger in this process."""
    begin, cpu = time.perf_counter(), time.process_time()
    with closing(open_read_only(path)) as reader:
        standing = Standing("bench", lambda: EvidenceState(BUDGETS, RULES))
        latest = reader.latest_epoch()
        assert latest is not None
        standing.resume(reader, *latest)
        verdict = standing.verdict(())
    return {
        "wall_s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - cpu,
        "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "rows": standing.folded,
        "samples": verdict.samples,
    }


def folded_apart(path: Path) -> Mapping[str, Any]:
    """The same in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "tests.bench.ledger_fold", "--fold", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, fold, print. Fails when a million rows take longer than promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("docs/bench/ledger_fold.json"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fold", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.fold is not None:
        print(json.dumps(fold(given.fold)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        whole, tenth = Path(folder, "whole.sqlite"), Path(folder, "tenth.sqlite")
        write(whole, given.rows)
        write(tenth, given.rows // 10)
        small = folded_apart(tenth)
        rounds = [folded_apart(whole) for _ in range(given.rounds)]
    cpu = sorted(one["cpu_s"] for one in rounds)
    found = {
        "rows": given.rows,
        "budgets": [budget.name for budget in BUDGETS],
        "cpu_s": {"median": round(statistics.median(cpu), 2), "least": round(cpu[0], 2), "most": round(cpu[-1], 2)},
        "us_per_row": round(statistics.median(cpu) / given.rows * 1e6, 2),
        "peak_mb": {"tenth": round(small["peak_kb"] / 1024, 1), "whole": round(rounds[0]["peak_kb"] / 1024, 1)},
        "promised_cpu_s": PROMISED_S * given.rows / 1_000_000,
    }
    print(json.dumps(found, indent=1))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["cpu_s"]["median"] <= found["promised_cpu_s"] else 1


if __name__ == "__main__":
    sys.exit(main())
