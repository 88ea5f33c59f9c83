"""Writes docs/metrics.md from the real exposition: `python -m tests.unit.metrics_page`. A test holds the two equal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import Metric

from backends.capabilities import Capability
from proxy.exchange import LossReason, Phase
from proxy.metrics import FAILOVERS, RELAY_ERRORS, ROUTES, STATUS_CLASSES
from proxy.monitor.costs import PURPOSES
from proxy.monitor.exposition import ARMS, OUTCOMES
from proxy.monitor.prompt_tokens import WORDS
from proxy.monitor.reference_use import ANSWERS, KINDS
from proxy.monitor.rows import Ineligible
from proxy.monitor.state_families import BREAKER_STATES, FEED_EVENTS, ORDER_EVENTS
from proxy.monitor.verdict_families import STATES
from scorers.catalogue import SPECS
from scorers.coverage import NO_SCORE_APPLIES
from scorers.proof import Unproven
from scorers.records import LENGTH_BUCKETS, Reason
from scorers.verdict import AXES, STAGES
from tests.unit.real_exposition import families

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"

_LENGTHS = (*(name for name, _ in LENGTH_BUCKETS), "unknown")
_FLAGS = ("true", "false", "unknown")
_STREAMS = ("stream", "whole")
_GREEDY = ("greedy", "sampled")
_TOOLS = ("tools", "plain")
_BY_BOTH = tuple(f"{length}/{tools}" for length in _LENGTHS[:-1] for tools in _TOOLS)
_CELLS = tuple(f"{part}/{stream}/{greedy}" for part in _BY_BOTH for stream in _STREAMS for greedy in _GREEDY)
_SCORES = ("candidate", "noise")

# label: (where, values); a label that is not closed has no values and says why it stays small
LABELS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "answer": (("", ANSWERS),),
    "arm": (
        (
            "parity_shadow_*, parity_arm_*, parity_contract_pin_differences, parity_relay_arm_requests",
            ARMS,
        ),
        ("parity_score_*, parity_unscored", _SCORES),
    ),
    "axis": (("", AXES),),
    "budget": (("the names under [budgets]: each is a score's", tuple(SPECS)),),
    "capability": (("docs/engines.md says what each is", tuple(Capability)),),
    "condition": (
        (
            "those of /readyz",
            ("resumed", "ledger_writable", "relay_connected", "candidate_reachable", "reference_answers"),
        ),
    ),
    "contract": (("first 12 digits of the contract's SHA-256: one series, of the current epoch", ()),),
    "disposition": (
        ("", ("scored", "ineligible", "lost")),
        ("parity_coverage_stratum_exchanges", ("scored", "ineligible", "dropped", "reference_error", "unpaired")),
    ),
    "epoch": (("the current epoch's number: one series", ()),),
    "event": (("parity_order_events", ORDER_EVENTS), ("parity_feed_receiver_events", FEED_EVENTS)),
    "file": (("", ("database", "wal")),),
    "gate": (("", ("promote", "rollback", "noise")),),
    "greedy": (("", _FLAGS),),
    "kind": (
        ("parity_relay_errors", RELAY_ERRORS),
        ("parity_relay_failovers", FAILOVERS),
        ("parity_exchanges", ("live", "probe")),
        ("parity_reference_tokens", KINDS),
    ),
    "length": (("prompt tokens", _LENGTHS),),
    "outcome": (("", OUTCOMES),),
    "phase": (("", tuple(Phase)),),
    "purpose": (("", PURPOSES),),
    "python": (("of this process: one series", ()),),
    "reason": (
        ("parity_relay_lost, parity_feed_dropped", tuple(LossReason)),
        ("parity_unscored", tuple(Reason)),
        (
            "parity_exchanges: those two sets, and for what is ineligible",
            (*Ineligible, NO_SCORE_APPLIES, "other"),
        ),
        ("parity_reference_answers: why a reply was not verified", tuple(Unproven)),
    ),
    "recipe": (("gate.recipe: one series", ()),),
    "route": (("", ROUTES),),
    "score": (("", tuple(SPECS)),),
    "stage": (("", STAGES),),
    "state": (
        ("parity_verdict, parity_budget_state", STATES),
        ("parity_breaker", BREAKER_STATES),
        ("parity_prompt_tokens", WORDS),
    ),
    "status_class": (("aborted: the client got no whole reply", STATUS_CLASSES),),
    "stratum": (
        ("parity_budget_*: what the budget keeps apart", ("all", *_LENGTHS, *_TOOLS, *_BY_BOTH)),
        ("parity_score_*", (*_BY_BOTH, "unknown")),
        ("parity_coverage_*", (*_CELLS, "unknown")),
    ),
    "stream": (("", _FLAGS),),
    "tools": (("", _FLAGS),),
    "version": (("of this process: one series", ()),),
}

_HEAD = """\
# Metrics

One target per pod: `GET /metrics` on the control port (`control.port`, 9090) shows the relay workers and the monitor
together. The relay's own counts come over the feed, once a second, and stay in the sums when a worker dies.

- This page is written by `python -m tests.unit.metrics_page`; a test holds it equal to a real scrape, both ways.
- What is unknown has no series: nothing is ever NaN, and 0 means 0. `parity_verdict` always has all its states.
- Every label is a closed set (below); one that does not apply is empty. No prompt, no path as the client wrote it and
  no request's id is ever a label.
- Asked for OpenMetrics, as Prometheus does, each bucket of `parity_score_*` names the latest pair in it that can be
  read: the exemplar's `pair_id` opens `/pairs/{id}`. Prometheus stores exemplars with
  `--enable-feature=exemplar-storage`.
- `parity_relay_added_latency_seconds` is counted once per request whose reply began: from the request's first byte read
  to its head leaving for the candidate, plus from the reply's head read to its leaving for the client. A new connection
  to the candidate is in it, and so is a client that sends its head in pieces. It does not hold what waits in the kernel
  (`parity_relay_loop_lag_seconds` shows when the relay is late to read), nor the rest of the bodies: each piece passes
  at once.
- A budget's burn rate is `rate(parity_budget_spent_limits_total[30m]) / rate(parity_budget_pairs_total[30m])`: 1 is the
  limit itself. `deploy/prometheus/rules/` records it.
- `parity_arm_capability` has a series for what is known: an arm that did not answer has none.
  `parity_contract_pin_*` is there with `reference.contract` alone.
- `parity_rollout_*` are there with `[rollout]` alone; `parity_relay_arm_requests_total`, `parity_relay_failover*` and
  `parity_relay_rollout_*` with `[rollout]` or `relay.failover`.
- The process's own `process_*` are prometheus_client's, of the monitor alone.

| name | type | unit | labels | meaning |
|---|---|---|---|---|
"""

_LABELS_HEAD = """
## Labels

| label | where | values |
|---|---|---|
"""

_UNITS = (  # the first that the name ends in, without _total
    ("_seconds", "seconds"),
    ("_bytes", "bytes"),
    ("_ratio", "ratio"),
    ("_nats", "nats"),
    ("_share", "ratio"),
    ("_share_max", "ratio"),
    ("_limits", "limits of the budget"),
    ("_log10_e_value", "log10"),
    ("_log10_e_threshold", "log10"),
    *((f"_{name}", "1") for name in ("info", "critical", "paused", "reachable", "over", "state", "stage", "phase")),
    *((f"parity_{name}", "1") for name in ("verdict", "ready", "breaker", "diagnosis", "prompt_tokens")),
    *((f"_{name}", "the score's") for name in ("limit", "value", "bound", "noise", "limit")),
    ("_change_level", "pairs"),
)


def exposed_name(family: Metric) -> str:
    """The name as it is scraped and asked for; of a histogram without _bucket, _sum and _count."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def labels_of(family: Metric) -> list[str]:
    """The label names of a family, less a histogram's own."""
    return sorted({label for sample in family.samples for label in sample.labels} - {"le"})


def render() -> str:
    """The whole page."""
    rows = sorted((exposed_name(family), family) for family in families("full"))
    lines = [_row(name, family) for name, family in rows]
    labels = [_label_row(name, where, values) for name, told in sorted(LABELS.items()) for where, values in told]
    return _HEAD + "\n".join(lines) + "\n" + _LABELS_HEAD + "\n".join(labels) + "\n"


def _row(name: str, family: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in labels_of(family))
    return f"| `{name}` | {family.type} | {_unit_of(family.name)} | {labels} | {family.documentation} |"


def _unit_of(name: str) -> str:
    """A "1" marks a truth: 0 or 1. What is counted says so in its name."""
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "count")


def _label_row(name: str, where: str, values: Iterable[str]) -> str:
    shown = list(values)
    told = ", ".join(f"`{value}`" for value in shown) if len(shown) <= 40 else _shape(shown)
    return f"| `{name}` | {where} | {told} |"


def _shape(values: list[str]) -> str:
    return f"{len(values)} values: combinations such as `{values[-2]}`; `{values[-1]}`"


if __name__ == "__main__":
    PAGE.write_text(render())
