"""The monitor: relay events in, ledger rows and a verdict out.

    feed event --> order (a slot) --> backlog --> worker (plan, mirror, evaluate) --> order (closed, released)
               --> writer (durable) --> evidence (folded) --> verdict

Evidence takes in a row only once it is durable, so the ledger alone gives the same verdict again. Nothing here
can reach a client: a full backlog, a dead reference or a full disk cost coverage, and say so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from backends.base import Backend
from backends.weights import WeightFiles
from proxy.errors import LedgerError, RolloutError
from proxy.exchange import Order, RelayEvent
from proxy.monitor.capability_watch import CapabilityWatch
from proxy.monitor.epochs import EpochKeeper
from proxy.monitor.evaluate import Evaluator, Keeping, mismatch_rule
from proxy.monitor.history import note_of, same
from proxy.monitor.intake import Intake
from proxy.monitor.jobs import Worker, ended
from proxy.monitor.lacks import Lacks
from proxy.monitor.mirror import Mirror
from proxy.monitor.order import SamplingOrder
from proxy.monitor.pinned import PinnedWatch
from proxy.monitor.redact import redactor
from proxy.monitor.rollout import Rollout
from proxy.monitor.rows import RESET, ROLLOUT, VERDICT, Ledger, LedgerRow
from proxy.monitor.standing import MonitorMetrics, Standing
from proxy.monitor.trail import Course
from proxy.monitor.watch import ContractWatch, gate_of
from proxy.monitor.writer import LedgerWriter
from proxy.settings import Settings
from scorers.judge import EvidenceState, Verdict
from scorers.records import Reason, Scorer

TICK_S = 0.1  # choice: how finely lateness is looked at
DRAIN_S = 5.0  # choice: how long a leaving monitor waits for shadow calls, and then for the ledger
PRUNE_INTERVAL_S = 600.0  # choice
REMEMBERED_NUMBERS = 65_536  # choice: more than the feed can send again (its own bounds are below)

_log = logging.getLogger(__name__)


class Monitor:
    """Implements rows.MonitorView. `run` is its life; `on_event`, `on_stats`, `on_connection` are the feed's callbacks.

    `evidence` makes evidence that has seen nothing; it is asked for one per epoch. The ledger and the backends stay
    the caller's to close. `salt` is the secret one of the sampling. `clock` is monotonic seconds, `wall` seconds since
    the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: Ledger,
        candidate: Backend,
        reference: Backend,
        scorers: Mapping[str, Scorer],
        evidence: Callable[[], EvidenceState],
        metrics: MonitorMetrics,
        salt: bytes,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        look_interval_s: float | None = None,
        pinned: PinnedWatch | None = None,
        capabilities: CapabilityWatch | None = None,
        holds: Sequence[str] = (),
    ) -> None:
        """`capabilities` finds out what the arms can do; without it they are taken for vLLMs. `holds` are
        sentences, known from the start, each of which keeps the verdict from a pass.

        Raises: SettingsError for a `ledger.redact` path that is not understood."""
        self._settings = settings
        self._holds = holds
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._cpu = ThreadPoolExecutor(1, thread_name_prefix="parity-score")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="parity-ledger")
        limits = {name: budget.limit for name, budget in settings.budgets.items()}
        keeping = Keeping(
            mismatch_rule(limits),
            settings.ledger.keep_mismatches,
            settings.ledger.max_body_bytes,
            redactor(settings.ledger.redact),
        )
        self._mirror = Mirror(candidate, reference, settings.mirror, metrics, clock)
        self._writer = LedgerWriter(ledger, self._disk, self._durable, metrics)
        fresh = evidence()
        self._watch = ContractWatch(
            candidate,
            reference,
            candidate_model=settings.candidate.model,
            reference_model=settings.reference.model,
            recipe=settings.gate.recipe,
            gate=gate_of(fresh.budgets, fresh.rules),
            weights={
                "candidate": WeightFiles("candidate", settings.candidate.weights),
                "reference": WeightFiles("reference", settings.reference.weights),
            },
            pinned=pinned,
            capabilities=capabilities,
        )
        self._capabilities = capabilities
        self._standing = Standing(settings.gate.recipe, evidence)
        self._epochs = EpochKeeper(
            self._watch,
            self._standing,
            ledger,
            self._writer.call,
            wall,
            self._set_switching,
            settings.gate.look_interval_s if look_interval_s is None else look_interval_s,
        )
        self._intake = Intake(
            settings.mirror,
            lambda on_probe: Worker(
                settings,
                self._mirror,
                Evaluator(scorers, keeping, lambda: Lacks.of(self._standing.contract)),
                self._cpu,
                on_probe,
                salt,
                None if capabilities is None else capabilities.asking,
            ),
            self._standing,
            self._writer.put,
            clock,
            wall,
        )
        self._rollout: Rollout | None = None
        if settings.rollout is not None:
            self._rollout = Rollout(settings.rollout, self._record_rollout, self._record_rollout_soon, wall)
        self._noted: Mapping[str, Any] | None = None  # the verdict as the ledger's latest event tells it
        self._relays: dict[str, bool] = {}
        self._feed_counts: Callable[[], Mapping[str, int]] = dict
        self._paused = False
        self._switching = False

    # ---- the feed's callbacks: on the loop, short, never raising

    def on_event(self, event: RelayEvent) -> None:
        """Takes one event of a relay."""
        self._intake.take(event)

    def on_stats(self, worker: str, snapshot: dict[str, Any]) -> None:
        """Takes a relay worker's cumulative counts.

        Once nothing waits in its feed, all that it sampled was acknowledged, by this monitor or by one before it. What
        that one had not written when it was killed is then known to be missing.
        """
        self._metrics.relay_stats(worker, snapshot)
        sampled, feed = snapshot.get("sampled"), snapshot.get("feed")
        if isinstance(sampled, int) and isinstance(feed, dict) and feed.get("queued") == 0:
            self._intake.expect(worker, sampled)

    def on_connection(self, worker: str, connected: bool) -> None:
        """Notes that a relay worker connected or went away."""
        if connected:
            self._relays[worker] = True
        else:
            self._relays.pop(worker, None)
        self._metrics.relay_connection(worker, connected)

    def attach_feed(
        self, counts: Callable[[], Mapping[str, int]], order: Callable[[Order], None] | None = None
    ) -> None:
        """`counts` tells what came in over the feed, and what was wrong with it; it is part of `state`. `order` is the
        way back, to every relay worker."""
        self._feed_counts = counts
        if self._rollout is not None and order is not None:
            self._rollout.attach(order)

    # ---- life

    async def run(self, shutdown: asyncio.Event) -> None:
        """Resumes from the ledger, works until `shutdown`, then drains: what was begun is written or counted as lost.

        Raises:  LedgerError when the ledger cannot be read at the start; whatever ends one of its tasks: a monitor
                 that half works is worse than one that its supervisor starts again.
        """
        try:
            await self._resume(self._wall())
            writing = asyncio.create_task(self._writer.run(), name="ledger-writer")
            tasks = [
                asyncio.create_task(self._intake.work(), name=f"mirror-{n}")
                for n in range(self._settings.mirror.concurrency)
            ]
            tasks += [
                asyncio.create_task(self._keep_time(), name="order-clock"),
                asyncio.create_task(self._epochs.keep(), name="contract-watch"),
                asyncio.create_task(self._keep_small(), name="ledger-pruner"),
            ]
            if self._rollout is not None:
                tasks.append(asyncio.create_task(self._rollout.keep(self.verdict), name="rollout"))
            try:
                await _told(shutdown, [writing, *tasks])
                await self._finish_work()
            finally:
                self._intake.close_all()
                await ended(tasks)
                await self._write_out(writing)
        finally:
            self._cpu.shutdown(wait=False, cancel_futures=True)
            self._disk.shutdown(wait=False, cancel_futures=True)

    async def _resume(self, began_unix_s: float) -> None:
        await self._epochs.resume(began_unix_s)
        order = SamplingOrder(
            next_position=await self._writer.call(self._ledger.next_position),
            late_after_s=self._settings.mirror.late_after_s,
            remembered=await self._writer.call(self._ledger.numbers, REMEMBERED_NUMBERS),
        )
        _log.info("resumed epoch %d with %d rows of evidence", self._standing.epoch, self._standing.folded)
        self._noted = await self._writer.call(self._ledger.latest_event, VERDICT)
        self._note(self._standing.verdict(()), found=True)
        if self._rollout is not None:
            self._rollout.resume(await self._writer.call(self._ledger.latest_event, ROLLOUT), self.verdict())
        self._intake.open(order)

    async def _finish_work(self) -> None:
        """The jobs in work get a while to end; no new ones come."""
        self._intake.leave()
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._intake.backlog.emptied()
        except TimeoutError:
            _log.warning("%d exchanges were still in work and are written as late", self._intake.backlog.held)

    async def _write_out(self, writing: asyncio.Task[None]) -> None:
        """All rows are written, if the ledger lets them."""
        self._writer.drain()
        _, unfinished = await asyncio.wait({writing}, timeout=DRAIN_S)
        if unfinished:
            _log.error("the ledger did not take the last %d rows: %s", self._writer.waiting, self._writer.last_error)
        await ended([writing])

    # ---- tasks

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._intake.tick()

    async def _keep_small(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            try:
                checkpoint = self._standing.checkpoint()
                if checkpoint is not None:
                    await self._writer.call(self._ledger.checkpoint, *checkpoint)
                await self._writer.call(self._ledger.prune, self._wall())
            except Exception as error:  # noqa: BLE001  retention that failed is tried again; it must not end the monitor
                _log.error("the ledger could not be pruned: %s", error)

    def _durable(self, rows: Sequence[LedgerRow]) -> None:
        self._standing.fold(rows)
        for row in rows:
            self._metrics.row(row)
        self._epochs.rows_folded()
        verdict = self.verdict()
        self._standing.tell(verdict)
        self._note(verdict)
        if self._rollout is not None:
            self._rollout.look(verdict)  # here and not on the clock alone: a fail returns to the reference at once

    def _note(self, verdict: Verdict, *, found: bool = False) -> None:
        """Another verdict than the last one told goes into the ledger, with the next batch: so that since when outlives
        a restart. Looked at with each batch of rows and at a reset, so there are never more events than rows."""
        if not same(self._noted, verdict):
            self._noted = note_of(verdict, found=found)
            self._writer.put_event(VERDICT, self._noted, self._wall())

    # ---- MonitorView

    def verdict(self) -> Verdict:
        """The verdict as the durable evidence gives it now."""
        holds = [*self._holds]
        if self._writer.failing:
            holds.append(f"the ledger cannot be written: {self._writer.last_error}")
        holds += [f"the {side} has not been observed since the start" for side in self._watch.unseen]
        return self._standing.verdict(holds)

    def course(self) -> Course:
        """How the evidence came to stand where it does, for pictures."""
        return self._standing.course(self._wall())

    def readiness(self) -> Mapping[str, bool]:
        """Named conditions; all true means ready."""
        return {
            "resumed": self._intake.opened,
            "ledger_writable": not self._writer.failing,
            "relay_connected": bool(self._relays),
            "candidate_reachable": "candidate" not in self._watch.unreachable and "candidate" not in self._watch.unseen,
            "reference_answers": self._reference_answers(),
        }

    def state(self) -> Mapping[str, Any]:
        """JSON-ready: paused, breaker, queue, order, ledger, arms, relays, epoch and contract."""
        now_s = self._clock()
        return {
            "paused": self._paused,
            "breaker": {"state": self._mirror.breaker.state(now_s), "times_opened": self._mirror.breaker.times_opened},
            **self._intake.state(),
            "shadow_calls": self._mirror.in_flight,
            "ledger": self._writer.state(),
            "arms": {side: health.as_dict() for side, health in self._mirror.health.items()},
            "unreachable": dict(self._watch.unreachable),
            **self._told_capabilities(),
            "relays": sorted(self._relays),
            "feed": dict(self._feed_counts()),
            "epoch": self._standing.epoch,
            "contract": dict(self._standing.contract),
            "prompt_token_mismatches": self._standing.prompt_token_mismatches,
            **({} if self._rollout is None else {"rollout": self._rollout.state()}),
            "alarms": self._watch.alarms() + self._standing.alarms(),
        }

    def _told_capabilities(self) -> dict[str, Any]:
        """What the arms can do and what they lack; nothing where nobody asks them."""
        watch = self._capabilities
        if watch is None:
            return {}
        return {"capabilities": watch.as_dict(), "lacks": [lack.as_dict() for lack in watch.lacks()]}

    def pause(self) -> None:
        """No shadow calls from now on: sampled exchanges are lost as `paused`, and coverage shows it."""
        self._set_paused(True)

    def resume(self) -> None:
        """Shadow calls again."""
        self._set_paused(False)

    async def reset(self, reason: str) -> int:
        """The last position that counts no more. The evidence begins anew after it once the ledger knows.

        Everything sampled up to now is put aside, also what is still in work: it met the arms as they were.
        Raises:  LedgerError when the ledger cannot record it, or is still being read; nothing was reset then.
        """
        position = self._intake.last_position
        if position is None:
            raise LedgerError("the monitor is still reading its ledger; try again when /readyz says that it resumed")
        epoch = self._standing.epoch
        detail = {"epoch": epoch, "position": position, "reason": reason}
        # On the writer's thread: rows past the position are written after it, so none of them is folded before.
        await self._writer.call(self._ledger.event, RESET, detail, self._wall())
        self._standing.reset(epoch, position)
        self._note(self.verdict())
        if self._rollout is not None:
            self._rollout.begin_again(self.verdict())
        _log.warning("an operator reset the evidence of epoch %d after position %d", epoch, position)
        return position

    async def rollout_act(self, act: str, reason: str) -> Mapping[str, Any]:
        """Where the staged rollout stands after an operator's act.

        Raises:  RolloutError when there is none, or it does not allow that; LedgerError when it cannot be recorded.
        """
        if self._rollout is None:
            raise RolloutError("there is no staged rollout: the settings have no [rollout], the candidate serves all")
        return await self._rollout.act(act, reason, self.verdict())

    async def _record_rollout(self, detail: Mapping[str, Any]) -> None:
        await self._writer.call(self._ledger.event, ROLLOUT, detail, self._wall())

    def _record_rollout_soon(self, detail: Mapping[str, Any]) -> None:
        self._writer.put_event(ROLLOUT, detail, self._wall())

    def _set_paused(self, paused: bool) -> None:
        if self._paused is not paused:
            self._paused = paused
            self._refuse_or_not()
            self._writer.put_event("pause" if paused else "resume", {}, self._wall())

    def _set_switching(self, switching: bool) -> None:
        self._switching = switching
        self._refuse_or_not()

    def _refuse_or_not(self) -> None:
        self._intake.refusing = Reason.EPOCH_CLOSED if self._switching else Reason.PAUSED if self._paused else None

    def _reference_answers(self) -> bool:
        health = self._mirror.health["reference"]
        refused = health.failures_in_a_row > 0 and 400 <= health.last_status < 500
        unknown = "reference" in self._watch.unreachable or "reference" in self._watch.unseen
        return not refused and not unknown and self._mirror.breaker.state(self._clock()) == "closed"


async def _told(shutdown: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Returns when `shutdown` is set. Raises: what ended a task; none of them ends by itself before that."""
    waiting = asyncio.create_task(shutdown.wait(), name="shutdown")
    try:
        await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if shutdown.is_set():
        return
    for task in tasks:
        if task.done():
            _log.critical("the monitor ends because its task %s ended", task.get_name())
            task.result()
            raise RuntimeError(f"the monitor's task {task.get_name()} ended before it was told to")
