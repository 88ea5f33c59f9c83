"""One claimed exchange (or planted needle) on its way to its row: the bounded backlog, and the work itself.

Bytes are held from the moment a job is taken until its work has ended, whichever way; a job that is let go gives them
back exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from backends.capabilities import Asking
from proxy.exchange import Exchange, ServedBy
from proxy.monitor.costs import spent
from proxy.monitor.evaluate import Evaluation, Evaluator
from proxy.monitor.forcing import forced_call
from proxy.monitor.heard import Forced, Heard
from proxy.monitor.mirror import Answer, Answers, Mirror
from proxy.monitor.order import Slot
from proxy.monitor.plan import Plan, Tosser, TurnedAway, asking_all, plan, refused_status
from proxy.monitor.probes import probe_plan
from proxy.monitor.record import ineligible_row, lost_row, scored_row
from proxy.monitor.rows import Ineligible, LedgerRow
from proxy.monitor.verify import Verifier
from proxy.settings import Settings
from scorers.records import DecodedRequest, Reason

T = TypeVar("T")

_log = logging.getLogger(__name__)

_STILL_PROBED = frozenset({Ineligible.SAMPLED_NOT_REPLAYED, Ineligible.SERVED_BY_REFERENCE})
"""Their prompts are as good a haystack as any."""


@dataclass(slots=True, eq=False)
class Job:
    """A claimed slot and what is known of it. `exchange` is None for a planted needle, whose plan comes with it."""

    slot: Slot
    epoch: int
    size_bytes: int
    exchange: Exchange | None = None
    plan: Plan | None = None
    queued_s: float = 0.0  # when it began to wait for a worker, on the monitor's clock
    task: asyncio.Task[LedgerRow] | None = None


class Backlog:
    """Jobs waiting for a worker, bounded in number; and all jobs' bytes, waiting or in work, bounded in sum."""

    def __init__(self, *, max_jobs: int, max_bytes: int) -> None:
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._waiting: deque[Job] = deque()
        self._held: dict[int, int] = {}
        self._arrived = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self.held_bytes = 0
        self.refused = 0

    @property
    def waiting(self) -> int:
        """Jobs without a worker."""
        return len(self._waiting)

    def oldest_s(self, now_s: float) -> float:
        """How long the first of them has waited. Units: seconds."""
        return now_s - self._waiting[0].queued_s if self._waiting else 0.0

    @property
    def held(self) -> int:
        """Jobs waiting or in work."""
        return len(self._held)

    def offer(self, job: Job) -> bool:
        """Whether there was room. The newest is turned away, never an older one."""
        if len(self._waiting) >= self._max_jobs or self.held_bytes + job.size_bytes > self._max_bytes:
            self.refused += 1
            return False
        self._waiting.append(job)
        self._held[job.slot.position] = job.size_bytes
        self.held_bytes += job.size_bytes
        self._emptied.clear()
        self._arrived.set()
        return True

    async def take(self) -> Job:
        """The oldest waiting job; `release` it when its work has ended."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def release(self, job: Job) -> None:
        """Its bytes are free again. Releasing twice is the same as once."""
        self.held_bytes -= self._held.pop(job.slot.position, 0)
        if not self._held:
            self._emptied.set()

    def clear(self) -> None:
        """What waits is let go; jobs in work stay held until released."""
        while self._waiting:
            self.release(self._waiting.popleft())

    async def emptied(self) -> None:
        """Returns when no job waits or is in work."""
        await self._emptied.wait()


@dataclass(frozen=True, slots=True)
class _Decision:
    decided: Plan | TurnedAway
    probe: Plan | None


class Worker:
    """The work on one job. `on_probe` hears of a needle to plant, right after its parent was planned. `asking` says how
    the two arms are asked now."""

    def __init__(
        self,
        settings: Settings,
        mirror: Mirror,
        evaluator: Evaluator,
        executor: Executor,
        on_probe: Callable[[Job, Plan], None],
        salt: bytes,
        asking: Callable[[], tuple[Asking, Asking]] | None = None,
    ) -> None:
        self._settings = settings
        self._mirror = mirror
        self._evaluator = evaluator
        self._executor = executor
        self._on_probe = on_probe
        self._tosser = Tosser(settings, salt)
        self._asking = asking or (lambda: asking_all(settings))
        self._verifier = (
            Verifier(settings, mirror, self._offload, self._asking) if settings.mirror.mode == "verify" else None
        )

    async def row(self, job: Job) -> LedgerRow:
        """The row of this job. Whatever an exchange holds, and whatever the arms answer, it ends in a row."""
        if job.plan is None:
            assert job.exchange is not None, "a job has an exchange or a plan"
            decision = await self._offload(self._decide, job.exchange)
            if decision.probe is not None:
                self._on_probe(job, decision.probe)
            if isinstance(decision.decided, TurnedAway):
                return ineligible_row(job.slot, job.epoch, decision.decided, job.exchange)
            job.plan = decision.decided
        ended = await self._evaluated(job, job.plan)
        if isinstance(ended, TurnedAway):
            return ineligible_row(job.slot, job.epoch, ended, job.exchange)
        return scored_row(job.slot, job.epoch, ended, job.exchange)

    def row_without(self, job: Job, why: Reason) -> LedgerRow:
        """The row of a job whose work did not end: every score that applies to its request is lost.

        It is planned here and now where it was not: unplanned losses would be coverage only, and no budget would
        feel them. A candidate that had failed the client anyway stays the reason.
        """
        if job.plan is None:
            if job.exchange is None:
                return lost_row(job.slot, job.epoch, why.value)
            decision = self._decide(job.exchange)
            if decision.probe is not None:
                self._on_probe(job, decision.probe)
            if isinstance(decision.decided, TurnedAway):
                return ineligible_row(job.slot, job.epoch, decision.decided, job.exchange)
            job.plan = decision.decided
        missing = self._evaluator.missing(job.plan, job.plan.failed or why)
        return scored_row(job.slot, job.epoch, missing, job.exchange)

    async def _evaluated(self, job: Job, plan: Plan) -> Evaluation | TurnedAway:
        if plan.failed is not None:
            return self._evaluator.missing(plan, plan.failed, _failure(job.exchange))
        if plan.refused:
            answer = await self._mirror.ask("reference", plan.reference, plan.headers)
            if answer.rejected:
                return TurnedAway(Ineligible.CLIENT_ERROR, plan.request)
            if answer.missing is not None:
                return self._evaluator.missing(plan, answer.missing, answer.why)
            if plan.probe is None:  # the reference takes what the candidate refused
                lost = self._evaluator.missing(plan, Reason.CANDIDATE_ERROR, {"status": plan.refused})
                return replace(lost, reference_tokens=spent([("pair", answer.reply)]))
        tried = None
        if self._verifier is None:
            answers = await self._mirror.answers(plan)
        else:
            answers, tried = await self._verifier.answers(plan, job.epoch)
        forced, control_forced = await self._forced(plan, answers)
        heard = Heard(answers, forced, control_forced, tried)
        evaluation: Evaluation = await self._offload(self._evaluator.evaluate, plan, heard)
        if self._verifier is not None and evaluation.lesson is not None:
            self._verifier.learn(job.epoch, evaluation.lesson)
        return evaluation

    async def _forced(self, plan: Plan, answers: Answers) -> tuple[Forced | None, Forced | None]:
        if not plan.coins.teacher_forced or answers.reference.reply is None or not self._asking()[1].forced:
            return None, None
        return await asyncio.gather(
            self._forced_one(plan.request, plan.headers, answers.replay),
            self._forced_one(plan.request, plan.headers, answers.control),
        )

    async def _forced_one(
        self, request: DecodedRequest, headers: Mapping[str, str], answer: Answer | None
    ) -> Forced | None:
        if answer is None or answer.reply is None:
            return None
        most = self._asking()[1].top_logprobs
        call = await self._offload(forced_call, request, answer.reply, self._settings, most)
        return None if call is None else Forced(call, await self._mirror.ask("reference", call.call, headers))

    def _decide(self, exchange: Exchange) -> _Decision:
        coins = self._tosser.toss(exchange.id)
        arms = self._asking()
        decided = plan(exchange, coins, self._settings, arms)
        request = decided.request
        if request is None or (isinstance(decided, TurnedAway) and decided.reason not in _STILL_PROBED):
            return _Decision(decided, None)
        refused = refused_status(exchange)
        probe = probe_plan(exchange.id, request, coins, decided.headers, self._settings, refused, arms)
        return _Decision(decided, probe)

    async def _offload(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


def _failure(exchange: Exchange | None) -> Mapping[str, Any]:
    """What is known of a candidate that failed its client."""
    if exchange is not None and exchange.served_by is ServedBy.FAILOVER:
        return {"failed_over": True}
    return {"status": exchange.status if exchange is not None else 0}


async def ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancelled and gone; what they raised on the way out is logged, not raised."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            _log.error("a task of the monitor ended in %s", type(result).__name__, exc_info=result)
