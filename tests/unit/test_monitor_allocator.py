"""What is freed stays with the process: seen in the page faults of a process of its own."""

from __future__ import annotations

import subprocess
import sys

ROUNDS, BLOCKS, BLOCK_BYTES = 50, 12, 100_000
PROGRAM = """
import resource, sys
from proxy.monitor.allocator import keep_freed_memory

def rounds(count):
    for _ in range(count):
        held = [b"x" * int(sys.argv[3]) for _ in range(int(sys.argv[2]))]

if sys.argv[4] == "kept":
    assert keep_freed_memory()
rounds(3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds(int(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    words = [sys.executable, "-c", PROGRAM, *map(str, (ROUNDS, BLOCKS, BLOCK_BYTES)), how]
    return int(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_memory_that_is_needed_again_is_not_faulted_in_again() -> None:
    pages = ROUNDS * BLOCKS * BLOCK_BYTES // 4096
    assert faults("as ever") > pages / 4
    assert faults("kept") < pages / 50
