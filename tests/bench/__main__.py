"""`make bench`: every measurement in turn; results go to docs/bench. Exit code 1 when one of them broke a promise."""

from __future__ import annotations

import sys

from tests.bench import evidence_simulation

if __name__ == "__main__":
    sys.exit(evidence_simulation.main([]))
