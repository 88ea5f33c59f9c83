"""What the C allocator does with freed memory: kept, up to a bound, because a scored pair needs the same again at once.

A reply of 256 tokens with top 20 is worked through in about a megabyte of short-lived arrays. glibc by default hands
that back to the kernel after each pair, and the next pair faults every page in anew; what a pair costs either way:
`python -m tests.bench.monitor_cost`.
"""

from __future__ import annotations

import ctypes

KEPT_BYTES = 32 << 20  # *choice*: what may lie free at the end of each heap, and the most that this can cost in RSS
LARGE_BYTES = 4 << 20  # *choice*: blocks beyond this are mapped and unmapped one by one, as ever
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Whether the process keeps up to `KEPT_BYTES` of freed memory from now on. False where the C library has no
    `mallopt` (musl, macOS), which then does as it likes.

    Source:  mallopt(3); setting either threshold ends glibc's own adjustment of both.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) and mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES))
