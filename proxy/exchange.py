"""What the relay saw, and what it is told: the only values that cross between the data plane and the parity plane.

A sampled request crosses as two events: `Sampled` when the coin fell (so that the monitor knows the
order and can count what never arrives), and `Exchange` or `Lost` when the capture closed. Each is
named by (`worker`, `sequence`): a worker's own number, rising by one per sampled request.
The other way goes one value alone, and only where a recipe is rolled out in steps: the `Order`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]


class Outcome(StrEnum):
    """How the reply to the client ended."""

    COMPLETE = "complete"
    CLIENT_CLOSED = "client_closed"  # the client hung up first
    CANDIDATE_FAILED = "candidate_failed"  # connect error, time-out, cut stream, garbage


class ServedBy(StrEnum):
    """Which arm's reply the client got."""

    CANDIDATE = "candidate"
    REFERENCE = "reference"
    FAILOVER = "failover"  # the reference's, after the candidate had failed before its first byte


class LossReason(StrEnum):
    """Why a sampled exchange never reached the monitor whole. A closed set: it labels metrics."""

    REQUEST_TOO_LARGE = "request_too_large"
    RESPONSE_TOO_LARGE = "response_too_large"
    CAPTURE_MEMORY = "capture_memory"  # all captures in flight together passed their bound
    FEED_FULL = "feed_full"
    FEED_DOWN = "feed_down"


@dataclass(frozen=True, slots=True)
class Sampled:
    """The mark of one sampled request, sent when it was sampled."""

    id: str
    worker: str
    sequence: int
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """One client request and the reply that the client got.

    Headers are the captured allow-list only (never Authorization or cookies). Bodies are raw: transfer
    coding removed, content coding kept. `status` is 0 when no reply head came.

    Units:  *_s are seconds on one monotonic clock, relative to the request's first byte.
    """

    id: str
    worker: str
    sequence: int
    at_unix_s: float
    method: str
    target: str
    request_headers: Headers
    request_body: bytes
    status: int
    response_headers: Headers
    response_body: bytes
    outcome: Outcome
    first_byte_s: float | None
    duration_s: float
    served_by: ServedBy = ServedBy.CANDIDATE

    @property
    def complete(self) -> bool:
        return self.outcome is Outcome.COMPLETE

    @property
    def size_bytes(self) -> int:
        """What it costs to hold: bodies plus a constant for the rest."""
        return len(self.request_body) + len(self.response_body) + 1024


@dataclass(frozen=True, slots=True)
class Lost:
    """A sampled request whose exchange was dropped on the relay's side."""

    id: str
    worker: str
    sequence: int
    reason: LossReason


class Phase(StrEnum):
    """Where a staged rollout stands. A closed set: it labels metrics."""

    STEPPING = "stepping"  # gathering what its step needs
    PAUSED = "paused"  # by an operator: no step further, and back on a fail all the same
    PROMOTED = "promoted"  # the last step: the candidate serves everything
    FAILED = "failed"  # the verdict failed: the reference serves everything
    ABORTED = "aborted"  # by an operator: the same


@dataclass(frozen=True, slots=True)
class Order:
    """Which share of the clients the candidate is to serve, in which phase and step (from 1) of the rollout."""

    share: float
    phase: Phase
    step: int


RelayEvent: TypeAlias = Sampled | Exchange | Lost
