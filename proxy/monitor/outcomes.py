"""How a shadow call can end. A closed set: the mirror counts by it and `/metrics` labels by it."""

from __future__ import annotations

from enum import StrEnum


class CallOutcome(StrEnum):
    """One per call, made or refused."""

    OK = "ok"
    REJECTED = "rejected"  # 4xx
    ERROR = "error"  # 5xx, no connection, garbage, or a defect of ours
    TIMEOUT = "timeout"
    BREAKER_OPEN = "breaker_open"  # not made
    CANCELLED = "cancelled"  # not made to its end


UNTIMED = frozenset({CallOutcome.BREAKER_OPEN, CallOutcome.CANCELLED})
"""What says nothing about how long the arm takes."""
