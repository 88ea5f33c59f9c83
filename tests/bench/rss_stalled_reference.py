"""RSS of relay and monitor over 80,000 mirrored requests with a stalled reference.

    python -m tests.bench.rss_stalled_reference [--out docs/bench/rss_stalled_reference.json] [--requests 80000]

Two runs. `low bounds`: calls time out after 1 s and places are remembered for 3 s, so a steady state is reached at
once, and both processes must stay flat. `defaults`: calls time out after 120 s, and the rows of later requests wait
behind the stalled ones, since rows leave in sampling order. That is bounded by mirror.late_after_s (300 s) and by
65,536 open places, which this run reaches: it bounds what one request may cost until then.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from tests.integration.memory_rig import growth, measure
from tests.integration.test_bounded_memory import LOW_BOUNDS

SAMPLES = 40
WARM = 0.25
MAX_FLAT_BYTES = 7 * 1024 * 1024  # *choice*: half of what one row kept of each request would be
MAX_ROW_BYTES = 1_200  # *choice*: a third above the 870 measured on 2026-11-23


def run(name: str, requests: int, more: str) -> dict[str, Any]:
    """One run's samples and growth, JSON-ready. Units: bytes."""
    with tempfile.TemporaryDirectory() as folder:
        samples = uvloop.run(measure(Path(folder), requests=requests, samples=SAMPLES, more=more))
    relay, monitor = growth(samples, after=WARM)
    counted = requests * (1 - WARM)
    print(
        f"{name}: after the first quarter the relay grew by {relay / 1e6:.1f} MB, the monitor by {monitor / 1e6:.1f} MB"
    )
    return {
        "run": name,
        "relay_growth_bytes": relay,
        "monitor_growth_bytes": monitor,
        "monitor_growth_per_request_bytes": round(monitor / counted),
        "samples": [[sample.requests, sample.relay_bytes, sample.monitor_bytes] for sample in samples],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything that must be flat or bounded was, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/rss_stalled_reference.json"))
    parser.add_argument("--requests", type=int, default=80_000)
    given = parser.parse_args(arguments)
    low = run("low bounds", given.requests, LOW_BOUNDS)
    default = run("defaults", given.requests, "")
    kept = (
        max(low["relay_growth_bytes"], low["monitor_growth_bytes"], default["relay_growth_bytes"]) < MAX_FLAT_BYTES
        and default["monitor_growth_per_request_bytes"] < MAX_ROW_BYTES
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    result = {"requests": given.requests, "kept": kept, **machine, "runs": [low, default]}
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{'kept' if kept else 'BROKEN'}; written to {given.out}")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
