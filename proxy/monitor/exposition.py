"""What Prometheus sees: one collector over the relay's counts, the mirror's calls, the rows and the verdict.

Events are pushed (`shadow_call`, `row`, `relay_stats`, ...); what is a state now (verdict, readiness, queue, ledger)
is given at the scrape, so that it is never stale. Labels are closed sets, whatever is outside them is `other`; what is
unknown has no series, never NaN. All calls on the monitor's loop.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy.exchange import LossReason
from proxy.monitor.ledger_reader import LedgerStats
from proxy.monitor.outcomes import UNTIMED, CallOutcome
from proxy.monitor.reference_use import ReferenceUse
from proxy.monitor.relay_totals import RelayTotals
from proxy.monitor.rows import Ineligible, LedgerRow
from proxy.monitor.spending import Spending
from proxy.monitor.state_families import state_families
from proxy.monitor.tallies import Buckets, Counts, gauge
from proxy.monitor.verdict_families import verdict_families
from scorers.budgets import Budget
from scorers.coverage import NO_SCORE_APPLIES, UNKNOWN_STRATUM, placed
from scorers.judge import Verdict
from scorers.records import Reason, ScoreSpec, Stratum

ARMS = ("candidate", "reference")
OUTCOMES = tuple(outcome.value for outcome in CallOutcome)
# Buckets are a *choice*: shadow calls are whole generations, from a short answer to the default time-out and past it.
CALL_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
# Shares are mostly 0 or 1; KL spans decades (metrology 6: q8_0 .0014 to q2_K .45 nats). Both a *choice*.
SCORE_BUCKETS: Mapping[str, tuple[float, ...]] = {
    "ratio": (0.0, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 3.0),
    "nats": (0.0, 0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}
MAX_ID_CHARS = 100  # OpenMetrics 1.0: an exemplar's labels hold at most 128 characters
_OTHER_BUCKETS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
_REASONS = frozenset({NO_SCORE_APPLIES, *(reason.value for reason in (*Reason, *LossReason, *Ineligible))})
_LOST = sorted({*(r.value for r in Reason if r.lost), *(r.value for r in LossReason)})


class ParityMetrics(Collector):
    """Everything under `/metrics`, on a registry that the caller owns."""

    def __init__(
        self,
        *,
        specs: Sequence[ScoreSpec],
        recipe: str,
        version: str,
        budgets: Sequence[Budget] = (),
        relays_return_s: float = 0.0,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Registers itself (and the process's own figures) with `registry`, or with a new one.

        Relay workers heard of within `relays_return_s` were counting before, and count from there on.
        """
        self.registry = registry if registry is not None else CollectorRegistry(auto_describe=False)
        self._recipe = recipe
        self._version = version
        self._relays = RelayTotals(relays_return_s)
        self._spending = Spending(budgets)
        self._reference_use = ReferenceUse()
        self._names = frozenset(spec.name for spec in specs)
        self._units = {spec.name: spec.unit for spec in specs}
        self._scores = {
            unit: Buckets(
                f"parity_score_{unit}",
                f"Scores in {unit}, by score, arm (noise: the reference against itself) and stratum.",
                ("score", "arm", "stratum"),
                SCORE_BUCKETS.get(unit, _OTHER_BUCKETS),
            )
            for unit in sorted({spec.unit for spec in specs})
        }
        self._unscored = Counts(
            "parity_unscored", "Scores without a number, by score, arm and reason.", ("score", "arm", "reason")
        )
        self._exchanges = Counts(
            "parity_exchanges",
            "Sampled exchanges and probes in the ledger, by kind, disposition and reason.",
            ("kind", "disposition", "reason"),
            [
                ("live", "scored", ""),
                ("probe", "scored", ""),
                *(("live", "ineligible", reason.value) for reason in Ineligible),
                *(("live", "lost", reason) for reason in _LOST),
            ],
        )
        self._strata = Counts(
            "parity_stratum_exchanges",
            "Sampled exchanges by stratum and disposition.",
            ("length", "tools", "stream", "greedy", "disposition"),
        )
        self._calls = Counts(
            "parity_shadow_calls",
            "Shadow calls by arm and outcome.",
            ("arm", "outcome"),
            [(arm, outcome) for arm in ARMS for outcome in OUTCOMES],
        )
        self._call_seconds = Buckets(
            "parity_shadow_call_seconds", "Duration of shadow calls by arm.", ("arm",), CALL_BUCKETS_S
        )
        self._write_errors = Counts("parity_ledger_write_errors", "Writes that the ledger refused.", (), [()])
        self._rows_dropped = Counts("parity_ledger_dropped_rows", "Rows given up after write errors.", (), [()])
        self._now: _Now | None = None
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def relay_stats(self, worker: str, snapshot: Mapping[str, Any]) -> None:
        """Takes a relay worker's cumulative counts, as the feed brings them."""
        self._relays.stats(worker, snapshot)

    def relay_connection(self, worker: str, connected: bool) -> None:
        """Notes that a relay worker connected or went away; its counts stay in the sums."""
        self._relays.connection(worker, connected)

    def shadow_call(self, arm: str, outcome: str, seconds: float) -> None:
        """Counts one shadow call. Units: seconds."""
        arm = _closed(arm, ARMS)
        self._calls.add(arm, _closed(outcome, OUTCOMES))
        if outcome not in UNTIMED:
            self._call_seconds.observe(seconds, arm)

    def row(self, row: LedgerRow) -> None:
        """Counts one row, once it is durable."""
        # As the coverage places it: a row that was planned and got no number is lost, whatever the ledger calls it.
        disposition, reason = placed(row.observation())
        self._exchanges.add(row.kind, disposition, _closed(reason, _REASONS) if reason else "")
        if row.stratum is not None and row.kind == "live":
            s = row.stratum
            self._strata.add(s.length, _flag(s.tools), _flag(s.stream), _flag(s.greedy), disposition)
        elif row.kind == "live":
            self._strata.add(*(UNKNOWN_STRATUM,) * 4, disposition)
        self._spending.row(row)
        self._reference_use.row(row)
        stratum = _short(row.stratum)
        # Only what can be read: the bodies of most pairs are not kept, and /pairs/{id} has none of those.
        pair = {"pair_id": row.id} if row.bodies is not None and len(row.id) <= MAX_ID_CHARS else None
        for score in row.scores:
            if score.name not in self._names:
                continue
            if score.value is not None:
                labels = (score.name, score.arm, stratum)
                buckets = self._scores[self._units[score.name]]
                buckets.observe(score.value, *labels, exemplar=pair, at_s=row.sampled_unix_s)
            elif score.reason is not None:
                self._unscored.add(score.name, score.arm, score.reason.value)

    def ledger_write_error(self) -> None:
        """Counts one write that the ledger refused."""
        self._write_errors.add()

    def ledger_rows_dropped(self, count: int) -> None:
        """Counts rows that were given up after write errors."""
        self._rows_dropped.add(by=count)

    def scrape(
        self,
        *,
        verdict: Verdict,
        readiness: Mapping[str, bool],
        state: Mapping[str, Any],
        ledger: LedgerStats | None,
        accept: str = "",
    ) -> tuple[bytes, str]:
        """(body, content type) of one scrape, in the format that `accept` asks for."""
        encode, content_type = choose_encoder(accept)
        self._now = _Now(verdict, readiness, state, ledger)
        try:
            return encode(self.registry), content_type
        finally:
            self._now = None

    def collect(self) -> Iterator[Metric]:
        """Every family of ours; called by the registry."""
        build = {(self._version, platform.python_version()): 1.0}
        yield gauge("parity_build_info", "Which parity this is.", ("version", "python"), build)
        yield from self._relays.families()
        for counts in (self._calls, self._exchanges, self._strata, self._unscored):
            yield counts.family()
        yield self._call_seconds.family()
        for buckets in self._scores.values():
            yield buckets.family()
        yield from self._spending.families()
        yield from self._reference_use.families()
        yield self._write_errors.family()
        yield self._rows_dropped.family()
        if self._now is not None:
            yield from verdict_families(self._now.verdict, self._recipe)
            yield from self._now.families()


class _Now:
    """What is so at this scrape."""

    def __init__(
        self, verdict: Verdict, readiness: Mapping[str, bool], state: Mapping[str, Any], ledger: LedgerStats | None
    ) -> None:
        self.verdict = verdict
        self._readiness = readiness
        self._state = state
        self._ledger = ledger

    def families(self) -> Iterator[Metric]:
        ready = {(name,): float(holds) for name, holds in self._readiness.items()}
        yield gauge("parity_ready", "Named conditions of readiness.", ("condition",), ready)
        yield from state_families(self._state)
        contract = self._state.get("contract")
        if self.verdict.epoch is not None:
            digest = hashlib.sha256(orjson.dumps(contract, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
            info = {(str(self.verdict.epoch), digest): 1.0}
            yield gauge("parity_epoch_info", "The epoch of the evidence and its contract.", ("epoch", "contract"), info)
            epoch = {(): float(self.verdict.epoch)}
            yield gauge(
                "parity_contract_epoch",
                "The number of the epoch of the evidence: it rises when the contract changes.",
                (),
                epoch,
            )
        if self._ledger is not None:
            yield gauge("parity_ledger_rows", "Rows in the ledger.", (), {(): self._ledger.rows})
            size = {("database",): self._ledger.file_bytes, ("wal",): self._ledger.wal_bytes}
            yield gauge("parity_ledger_bytes", "Size of the ledger on the disk.", ("file",), size)


def _closed(value: str, known: Collection[str]) -> str:
    return value if value in known else "other"


def _short(stratum: Stratum | None) -> str:
    """The stratum as budgets name theirs, "4k-16k/tools": of 48 cells each would be a histogram per score and arm."""
    if stratum is None:
        return UNKNOWN_STRATUM
    return f"{stratum.length}/{'tools' if stratum.tools else 'plain'}"


def _flag(value: bool) -> str:
    return "true" if value else "false"
