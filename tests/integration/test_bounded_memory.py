"""Relay and monitor hold a bounded amount while the reference is stalled, however many requests are mirrored to it.

The bounds are set low, so that they are reached within the first half of the run: queues, time-outs, and how long a
place in the sampling order is remembered. `tests/bench/rss_stalled_reference.py` does 80,000 requests, with these
bounds and with the default ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from tests.integration.memory_rig import growth, measure

REQUESTS = 8_000
LOW_BOUNDS = """
[mirror]
concurrency = 4
timeout_s = 1.0
max_queue_exchanges = 64
late_after_s = 3.0
"""
# *choice*: queues that fill now and then, and the allocator's steps, are some 3 MiB. One exchange kept of each request
# would be 14 MiB.
MAX_GROWTH_BYTES = 5 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_stays_flat_while_the_reference_is_stalled(tmp_path: Path) -> None:
    samples = uvloop.run(measure(tmp_path, requests=REQUESTS, samples=20, more=LOW_BOUNDS))
    for sample in samples[::4]:
        held = f"relay {sample.relay_bytes / 1e6:.1f} MB, monitor {sample.monitor_bytes / 1e6:.1f} MB"
        print(f"{sample.requests:>6} requests: {held}")
    relay, monitor = growth(samples, after=0.5)
    assert relay < MAX_GROWTH_BYTES
    assert monitor < MAX_GROWTH_BYTES
