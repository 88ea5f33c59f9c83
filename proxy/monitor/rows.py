"""What the ledger keeps, and the two seams inside the monitor: `Ledger` (durable) and `MonitorView` (for people).

One `LedgerRow` per sampled exchange (and per planted needle), written in sampling order. Evidence is a fold over
`LedgerRow.observation()`; nothing that decides anything lives outside these rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol

from proxy.monitor.costs import TokenCount
from proxy.monitor.trail import Course
from scorers.judge import Verdict
from scorers.records import Arm, Disposition, Observation, Reason, Stratum

RESET = "reset"
"""The kind of the event of an operator's reset; its detail holds `epoch`, `position` and `reason`."""


VERDICT = "verdict"
"""The kind of the event of a changed verdict; its detail is `history.note_of`. Evidence never reads it."""

ROLLOUT = "rollout"
"""The kind of the event of a staged rollout's new place; its detail is `rollout.Place.as_dict()`."""


class Ineligible(StrEnum):
    """Why a sampled exchange is never scored. A closed set: it labels metrics."""

    PATH = "path"  # not chat completions, not completions
    METHOD = "method"
    BAD_REQUEST = "bad_request"  # the body is not a JSON object that we can read
    CONTENT_CODING = "content_coding"
    CLIENT_ERROR = "client_error"  # the candidate answered 4xx: the request was wrong
    CLIENT_CLOSED = "client_closed"
    SAMPLED_NOT_REPLAYED = "sampled_not_replayed"  # temperature above 0 and the replay coin said no
    SERVED_BY_REFERENCE = "served_by_reference"  # a staged rollout sent it there, and the replay coin said no
    UNSUPPORTED = "unsupported"  # several prompts, beam search, echo, audio


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score of one row: a number, or the reason for none."""

    arm: Arm
    name: str
    value: float | None
    reason: Reason | None
    explanation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairBodies:
    """The raw bodies behind a row, already redacted and cut to their bound, for reading failures."""

    request: bytes
    candidate: bytes
    reference: bytes
    control: bytes | None = None  # the reference's second run, on noise pairs


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One sampled exchange or one probe, closed. `position` is the sampling order and the primary key.

    Units:  *_unix_s seconds since the epoch, other *_s seconds.
    """

    position: int
    epoch: int
    id: str
    worker: str
    sequence: int
    kind: Literal["live", "probe"]
    sampled_unix_s: float
    disposition: Disposition
    reason: str | None
    stratum: Stratum | None
    path: str = ""
    status: int = 0
    outcome: str = ""
    duration_s: float = 0.0
    first_byte_s: float | None = None
    prompt_tokens: int | None = None
    reference_prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reference_answer: str = ""  # "verified", "regenerated", or "regenerated/REASON" where proving it failed
    reference_tokens: tuple[TokenCount, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    bodies: PairBodies | None = None

    def observation(self) -> Observation:
        """The row as evidence sees it."""
        sides: dict[str, dict[str, float | Reason]] = {"candidate": {}, "noise": {}}
        for score in self.scores:
            number = score.value if score.value is not None else score.reason
            assert number is not None, f"{score.name}: neither value nor reason"
            sides[score.arm][score.name] = number
        return Observation(
            position=self.position,
            kind=self.kind,
            disposition=self.disposition,
            reason=self.reason,
            stratum=self.stratum,
            candidate=sides["candidate"],
            noise=sides["noise"],
        )


class Opening(NamedTuple):
    """When and why an epoch was opened. Units: seconds since the Unix epoch."""

    epoch: int
    opened_unix_s: float
    reason: str


class Checkpoint(Protocol):
    """Folding the rows after `position` into the evidence in `state_json` gives the whole."""

    @property
    def position(self) -> int: ...

    @property
    def state_json(self) -> str: ...


class Ledger(Protocol):
    """The durable record. Calls block (run them off the event loop); each raises LedgerError."""

    def open_epoch(self, contract: Mapping[str, Any], reason: str, at_unix_s: float) -> int:
        """The number of a new epoch, or of the latest one when its contract is equal."""
        ...

    def latest_epoch(self) -> tuple[int, Mapping[str, Any]] | None:
        """The number and contract of the latest epoch; None in an empty ledger."""
        ...

    def epoch_openings(self) -> Sequence[Opening]:
        """All epochs, oldest first."""
        ...

    def next_position(self) -> int:
        """One past the highest position ever written."""
        ...

    def numbers(self, limit: int) -> list[tuple[str, int]]:
        """(worker, sequence) of the latest `limit` live rows with a worker and of the last row of each, in any order:
        so that after a restart what the feed sends again is known to be old, and what the restart swallowed is known
        to be missing."""
        ...

    def append(self, rows: Sequence[LedgerRow]) -> None:
        """All rows durable, in one transaction, in rising position."""
        ...

    def event(self, kind: str, detail: Mapping[str, Any], at_unix_s: float) -> None:
        """An operator's act or a change of state: reset, pause, resume, breaker."""
        ...

    def latest_event(self, kind: str) -> Mapping[str, Any] | None:
        """The detail of the latest event of a kind; None without one."""
        ...

    def observations(self, epoch: int, after: int = -1) -> Iterator[Observation]:
        """Every row of an epoch past position `after`, in rising position, streamed.

        Raises:  LedgerError, also when such rows were pruned: start from the checkpoint then.
        """
        ...

    def reset_position(self, epoch: int) -> int | None:
        """The position after which an epoch's evidence begins by an operator's latest reset; None without one."""
        ...

    def sampled_at(self, positions: Sequence[int]) -> Mapping[int, float]:
        """When the rows at these positions were sampled; those that were pruned, or never were, are absent."""
        ...

    def prompt_token_mismatches(self, epoch: int, after: int = -1) -> int:
        """How many live rows of an epoch past position `after` have arms that counted different prompt tokens."""
        ...

    def prompts_agreed(self, epoch: int, after: int, limit: int) -> Sequence[bool]:
        """Whether both arms counted the same prompt tokens, for the latest `limit` live rows of an epoch past position
        `after` where both counts are known; oldest first."""
        ...

    def checkpoint(self, epoch: int, position: int, state_json: str) -> None:
        """Evidence folded up to and including `position` is stored, so that `prune` may let those rows go."""
        ...

    def checkpoint_of(self, epoch: int) -> Checkpoint | None:
        """The latest checkpoint of an epoch."""
        ...

    def pairs(self, *, limit: int, before: int | None, score: str | None, mismatched: bool) -> list[LedgerRow]:
        """The latest rows first, below position `before`; only those with bodies; for the reader."""
        ...

    def pair(self, id: str) -> LedgerRow | None:
        """One row with its bodies and explanations."""
        ...

    def prune(self, now_unix_s: float) -> int:
        """How many rows' bodies and rows went, by age and size. Evidence state that they fed stays (see ledger)."""
        ...

    def close(self) -> None: ...


class MonitorView(Protocol):
    """What the control port may see and do."""

    def verdict(self) -> Verdict: ...

    def readiness(self) -> Mapping[str, bool]:
        """Named conditions; all true means ready."""
        ...

    def course(self) -> Course:
        """How the evidence came to stand where it does, for pictures."""
        ...

    def state(self) -> Mapping[str, Any]:
        """JSON-ready: paused, breaker, queue, relays, epoch and contract."""
        ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    async def reset(self, reason: str) -> int:
        """The last position that counts no more: the evidence has begun anew after it, and the ledger says so.

        Raises:  LedgerError when that could not be recorded; nothing was reset then.
        """
        ...

    async def rollout_act(self, act: str, reason: str) -> Mapping[str, Any]:
        """Where the staged rollout stands after an operator's act: pause, resume, abort or promote.

        Raises:  RolloutError when there is no rollout, or it does not allow that; LedgerError.
        """
        ...
