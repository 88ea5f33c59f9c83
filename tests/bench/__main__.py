"""`make bench`: every measurement in turn; results go to docs/bench. Exit code 1 when one of them broke a promise."""

from __future__ import annotations

import sys

from tests.bench import (
    diagnosis_confusion,
    emulator_speed,
    evidence_simulation,
    ledger_fold,
    long_run,
    monitor_cost,
    monitor_large,
    recipe_verdicts,
    reference_cost,
    relay_arms,
    rss_stalled_reference,
)
from tests.bench.damage import command as damage
from tests.bench.relay import command as relay

BENCHES = (
    relay.main,
    monitor_cost.main,
    monitor_large.main,
    long_run.main,
    rss_stalled_reference.main,
    evidence_simulation.main,
    ledger_fold.main,
    diagnosis_confusion.main,
    emulator_speed.main,
    relay_arms.main,
    damage.main,
    recipe_verdicts.main,
    reference_cost.main,
)

if __name__ == "__main__":
    sys.exit(max(bench([]) for bench in BENCHES))
