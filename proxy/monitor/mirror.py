"""Calls the arms for one plan: bounded in number and time, guarded by a breaker, every way out counted.

No call raises: what came of it is an `Answer`, a 2xx reply or the reason why there is none. The only thing that
leaves `Mirror.answers` otherwise is cancellation, and whatever was held is given back on that path too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import orjson

from backends.base import Backend, BackendError, BackendTimeout, Reply
from backends.shape import ShadowCall
from proxy.monitor.breaker import Breaker
from proxy.monitor.outcomes import CallOutcome
from proxy.monitor.plan import CREDENTIALS_REFUSED, NOT_ABOUT_THE_REQUEST, Plan
from proxy.settings import MirrorSettings
from scorers.records import Reason

Side: TypeAlias = Literal["candidate", "reference"]

MAX_ERROR_CHARS = 300  # choice
TELLING_STATUSES = frozenset({401, 403, 404})  # their messages name models and keys, never a prompt

_log = logging.getLogger(__name__)


class ShadowMetrics(Protocol):
    """Where calls are counted."""

    def shadow_call(self, arm: str, outcome: CallOutcome, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call: a 2xx reply, or why there is none. `status` is 0 without a reply head."""

    reply: Reply | None = None
    missing: Reason | None = None
    status: int = 0

    @property
    def rejected(self) -> bool:
        """The arm says that the request itself is wrong: 4xx, and neither our key nor its load."""
        ours = self.status in CREDENTIALS_REFUSED or self.status in NOT_ABOUT_THE_REQUEST
        return self.missing is not None and 400 <= self.status < 500 and not ours

    @property
    def why(self) -> dict[str, int]:
        """The explanation of a missing answer, JSON-ready."""
        return {"status": self.status} if self.status else {}


@dataclass(frozen=True, slots=True)
class Answers:
    """All calls of one plan. None: not planned."""

    reference: Answer
    replay: Answer | None = None
    control: Answer | None = None


@dataclass(slots=True)
class ArmHealth:
    """How an arm's shadow calls have been going, for people. `last_error` is bounded and holds no prompt."""

    calls: int = 0
    failures_in_a_row: int = 0
    last_status: int = 0
    last_error: str = ""

    def as_dict(self) -> dict[str, int | str]:
        return {
            "calls": self.calls,
            "failures_in_a_row": self.failures_in_a_row,
            "last_status": self.last_status,
            "last_error": self.last_error,
        }


@dataclass(slots=True)
class _Arm:
    side: Side
    backend: Backend
    breaker: Breaker | None
    health: ArmHealth = field(default_factory=ArmHealth)


class Mirror:
    """Both arms as the monitor calls them. One instance per monitor; `clock` is monotonic seconds."""

    def __init__(
        self,
        candidate: Backend,
        reference: Backend,
        settings: MirrorSettings,
        metrics: ShadowMetrics,
        clock: Callable[[], float],
    ) -> None:
        self.breaker = Breaker(failures=settings.breaker_failures, cooldown_s=settings.breaker_cooldown_s)
        self._candidate = _Arm("candidate", candidate, None)
        self._reference = _Arm("reference", reference, self.breaker)
        self._timeout_s = settings.timeout_s
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._metrics = metrics
        self._clock = clock
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self._in_flight

    @property
    def health(self) -> Mapping[Side, ArmHealth]:
        """Both arms' records."""
        return {"candidate": self._candidate.health, "reference": self._reference.health}

    @property
    def breaker_open(self) -> bool:
        """Whether the reference is not called now."""
        return self.breaker.state(self._clock()) == "open"

    async def answers(self, plan: Plan) -> Answers:
        """Every call of the plan, both arms at once; one that fails does not disturb the others.

        While the breaker is open nothing is called: a replay on the candidate would find nothing to be compared with.
        """
        if self.breaker_open:
            return Answers(reference=self._not_called("reference"))
        (reference, control), replay = await asyncio.gather(
            self._twice(plan),
            self._optional("candidate", plan.replay, plan.headers),
        )
        return Answers(reference=reference, replay=replay, control=control)

    async def ask(self, side: Side, call: ShadowCall, headers: Mapping[str, str], *, optional: bool = False) -> Answer:
        """One call to one arm, when a slot is free. `optional`: an arm that refuses it (4xx) is no worse for it."""
        arm = self._candidate if side == "candidate" else self._reference
        async with self._slots:
            self._in_flight += 1
            try:
                return await self._guarded(arm, call, headers, optional)
            finally:
                self._in_flight -= 1

    async def _twice(self, plan: Plan) -> tuple[Answer, Answer | None]:
        """The reference's answer, and its second one where planned.

        The second run begins once the first has ended, so that the engine computes it in another batch: side by side
        the two may share one, and the noise floor would be measured too low (metrology 1).
        """
        first = await self.ask("reference", plan.reference, plan.headers)
        if plan.control is None:
            return first, None
        if first.reply is None:  # nothing to compare a second run with
            return first, Answer(missing=first.missing, status=first.status)
        return first, await self.ask("reference", plan.control, plan.headers)

    def _not_called(self, side: Side) -> Answer:
        self._metrics.shadow_call(side, CallOutcome.BREAKER_OPEN, 0.0)
        return Answer(missing=Reason.BREAKER_OPEN)

    async def _optional(self, side: Side, call: ShadowCall | None, headers: Mapping[str, str]) -> Answer | None:
        return None if call is None else await self.ask(side, call, headers)

    async def _guarded(self, arm: _Arm, call: ShadowCall, headers: Mapping[str, str], optional: bool) -> Answer:
        if arm.breaker is None:
            answer, _ = await self._sent(arm, call, headers, optional)
            return answer
        ticket = arm.breaker.admit(self._clock())
        if ticket is None:
            return self._not_called(arm.side)
        try:
            answer, alive = await self._sent(arm, call, headers, optional)
            ticket.close("answered" if alive else "failed", self._clock())
            return answer
        finally:
            ticket.close("abandoned", self._clock())  # cancelled: closing again after the above changes nothing

    async def _sent(
        self, arm: _Arm, call: ShadowCall, headers: Mapping[str, str], optional: bool
    ) -> tuple[Answer, bool]:
        """The answer, and whether the arm is alive (a 4xx is an answer; a 5xx and a 429 are not)."""
        started = self._clock()
        outcome = CallOutcome.CANCELLED
        arm.health.calls += 1
        try:
            reply = await arm.backend.post(call.path, call.body, headers, self._timeout_s)
            alive = reply.status < 500 and reply.status != 429
            outcome = _outcome_of(reply)
            if not (optional and 400 <= reply.status < 500):
                self._note(arm, reply.status, "" if reply.ok else _told(reply))
            if reply.ok:
                return Answer(reply=reply, status=reply.status), True
            return Answer(missing=_error_of(arm.side), status=reply.status), alive
        except BackendTimeout as error:
            outcome = CallOutcome.TIMEOUT
            self._note(arm, 0, str(error))
            return Answer(missing=_timeout_of(arm.side)), False
        except BackendError as error:
            outcome = CallOutcome.ERROR
            self._note(arm, 0, str(error))
            return Answer(missing=_error_of(arm.side)), False
        except Exception as error:  # noqa: BLE001  a backend's defect costs this score, never the monitor
            outcome = CallOutcome.ERROR
            self._note(arm, 0, type(error).__name__)
            _log.exception("the %s backend raised outside its error tree", arm.side)
            return Answer(missing=_error_of(arm.side)), False
        finally:
            self._metrics.shadow_call(arm.side, outcome, self._clock() - started)

    def _note(self, arm: _Arm, status: int, error: str) -> None:
        health = arm.health
        health.last_status = status
        if not error:
            health.failures_in_a_row = 0
            return
        if error != health.last_error:
            _log.warning("shadow call to the %s failed: %s", arm.side, error[:MAX_ERROR_CHARS])
        health.failures_in_a_row += 1
        health.last_error = error[:MAX_ERROR_CHARS]


def _outcome_of(reply: Reply) -> CallOutcome:
    if reply.ok:
        return CallOutcome.OK
    return CallOutcome.REJECTED if 400 <= reply.status < 500 else CallOutcome.ERROR


def _error_of(side: Side) -> Reason:
    return Reason.CANDIDATE_ERROR if side == "candidate" else Reason.REFERENCE_ERROR


def _timeout_of(side: Side) -> Reason:
    return Reason.CANDIDATE_ERROR if side == "candidate" else Reason.REFERENCE_TIMEOUT


def _told(reply: Reply) -> str:
    """One line about an error reply: its status, its type, and its message only where that cannot hold a prompt."""
    line = f"HTTP {reply.status}"
    try:
        body = orjson.loads(reply.body[:65_536])
    except orjson.JSONDecodeError:
        return line
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return line
    kind = error.get("type")
    if isinstance(kind, str):
        line += f" {kind[:60]}"
    message = error.get("message")
    if reply.status in TELLING_STATUSES and isinstance(message, str):
        line += f": {message}"
    return " ".join(line.split())[:MAX_ERROR_CHARS]
