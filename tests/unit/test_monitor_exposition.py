"""What Prometheus reads: valid, in closed labels, never NaN, and true to what was pushed."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from proxy.metrics import RelayCounters
from proxy.monitor.exposition import ParityMetrics
from proxy.monitor.ledger_reader import LedgerStats
from proxy.monitor.rows import Ineligible, ScoreRow
from scorers.catalogue import SPECS as CATALOGUE
from scorers.judge import Verdict
from scorers.records import Reason
from tests.unit.monitor_samples import SPECS, FixedView, bodies, row, verdict


def made(**more: Any) -> ParityMetrics:
    return ParityMetrics(specs=SPECS, recipe="awq-int4-g128", version="1.2.3", **more)


def scraped(metrics: ParityMetrics, judged: Verdict | None = None, accept: str = "", **more: Any) -> str:
    view = FixedView(judged)
    ledger = LedgerStats(rows=7, epochs=1, file_bytes=4096, wal_bytes=512)
    now = {"readiness": view.readiness(), "state": view.state(), "ledger": ledger, **more}
    return metrics.scrape(verdict=view.verdict(), accept=accept, **now)[0].decode()


def series(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    return series(text).get((name, frozenset((labels or {}).items())))


def busy() -> ParityMetrics:
    """Metrics to which everything has happened."""
    metrics = made()
    counters = RelayCounters()
    counters.count_request("chat_completions", 200)
    counters.observe_first_byte(0.03)
    counters.observe_loop_lag(0.002)
    metrics.relay_connection("0-1", True)
    metrics.relay_stats("0-1", {**counters.snapshot(), "feed": {"offered": 5, "dropped": {"feed_full": 2}}})
    for n in range(4):
        metrics.row(row(n))
    metrics.row(row(4, disposition="lost", reason="late", scores=(), stratum=None))
    metrics.shadow_call("reference", "ok", 0.7)
    metrics.shadow_call("reference", "breaker_open", 0.0)
    metrics.ledger_write_error()
    metrics.ledger_rows_dropped(3)
    return metrics


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_has_nothing_to_say() -> None:
    full = ParityMetrics(specs=tuple(CATALOGUE.values()), recipe="r", version="1")
    full.row(row(1))
    for metrics in (busy(), full):
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=scraped(metrics), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_openmetrics_is_answered_when_asked_for() -> None:
    text = scraped(busy(), accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    parsed = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    assert {family.name for family in parsed} >= {"parity_verdict", "parity_exchanges"}


PROMETHEUS_ASKS = (  # as Prometheus 2.42 does
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


def exemplars(text: str) -> dict[tuple[str, str], tuple[str, float, float]]:
    """(series, le) to (pair id, value, time) of every bucket that has one."""
    parsed = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    samples = [sample for family in parsed for sample in family.samples if sample.exemplar is not None]
    return {
        (f"{s.name} {s.labels['score']} {s.labels['arm']}", s.labels["le"]): (
            *s.exemplar.labels.values(),
            s.exemplar.value,
            float(s.exemplar.timestamp),
        )
        for s in samples
    }


def test_the_latest_pair_that_can_be_read_is_named_beside_each_score() -> None:
    metrics = made()
    for n, kept in ((1, True), (2, True), (3, True), (5, False)):
        metrics.row(row(n, bodies=bodies() if kept else None))
    text = scraped(metrics, accept=PROMETHEUS_ASKS)
    found = exemplars(text)
    mismatched = "parity_score_ratio_bucket tool_call_mismatch candidate"
    assert found[mismatched, "1"] == ("id-3", 1.0, 1_000_003.0)
    assert found[mismatched, "0"] == ("id-2", 0.0, 1_000_002.0)
    assert "id-5" not in text
    assert found["parity_score_nats_bucket logprob_kl candidate", "0.1"] == ("id-1", 0.1, 1_000_001.0)


def test_exemplars_are_only_in_the_format_that_knows_them() -> None:
    metrics = made()
    metrics.row(row(1, bodies=bodies()))
    assert "id-1" not in scraped(metrics, accept="text/plain;version=0.0.4")
    assert "id-1" not in scraped(metrics)
    plain = series(scraped(metrics))
    openmetrics = parse_openmetrics(scraped(metrics, accept=PROMETHEUS_ASKS))  # type: ignore[no-untyped-call]
    told = {(s.name, frozenset(s.labels.items())) for family in openmetrics for s in family.samples}
    assert {name for name, _ in told} == {name for name, _ in plain}


def test_an_id_that_no_exemplar_could_hold_is_left_out() -> None:
    metrics = made()
    metrics.row(row(1, id="x" * 200, bodies=bodies()))
    assert not exemplars(scraped(metrics, accept=PROMETHEUS_ASKS))


def test_every_name_is_prefixed_and_no_value_is_nan() -> None:
    for (name, _), number in series(scraped(busy())).items():
        assert name.startswith(("parity_", "process_"))
        assert not math.isnan(number)
        assert not name.endswith("_created")


@pytest.mark.parametrize("state", ["pass", "fail", "inconclusive"])
def test_the_verdict_has_all_three_states_and_one_is_set(state: Any) -> None:
    text = scraped(made(), verdict(state))
    found = {s: value(text, "parity_verdict", {"state": s}) for s in ("pass", "fail", "inconclusive")}
    assert found == {s: float(s == state) for s in found}


def test_before_anything_happened_the_verdict_is_there_and_figures_are_absent() -> None:
    text = scraped(made(), Verdict("inconclusive", ("nothing yet",)))
    assert value(text, "parity_verdict", {"state": "inconclusive"}) == 1
    assert value(text, "parity_coverage_ratio") is None
    assert value(text, "parity_epoch_info") is None
    assert value(text, "parity_exchanges_total", {"kind": "live", "disposition": "lost", "reason": "late"}) == 0


def test_an_unknown_figure_has_no_series() -> None:
    text = scraped(made())
    budget = {"budget": "logprob_kl"}
    assert value(text, "parity_budget_value", budget) is None
    assert value(text, "parity_budget_limit", budget) == 0.05
    assert value(text, "parity_budget_log10_e_value", {"budget": "tool_call_mismatch", "gate": "promote"}) == 0.8
    assert value(text, "parity_budget_log10_e_value", {"budget": "tool_call_mismatch", "gate": "rollback"}) is None
    assert value(text, "parity_budget_stratum_value", {"budget": "tool_call_mismatch", "stratum": "1k-4k"}) == 0.004
    assert value(text, "parity_budget_stratum_value", {"budget": "tool_call_mismatch", "stratum": "16k-64k"}) is None


def test_rows_become_scores_reasons_and_coverage() -> None:
    text = scraped(busy())
    tool = {"score": "tool_call_mismatch", "arm": "candidate", "stratum": "1k-4k/tools"}
    assert value(text, "parity_score_ratio_count", tool) == 4
    assert value(text, "parity_score_ratio_sum", tool) == 2
    assert value(text, "parity_score_ratio_bucket", {**tool, "le": "0"}) == 2
    assert value(text, "parity_score_nats_count", {**tool, "score": "logprob_kl"}) == 4
    lost = {"score": "logprob_kl", "arm": "noise", "reason": "reference_timeout"}
    assert value(text, "parity_unscored_total", lost) == 4
    assert value(text, "parity_exchanges_total", {"kind": "live", "disposition": "scored", "reason": ""}) == 4
    assert value(text, "parity_exchanges_total", {"kind": "live", "disposition": "lost", "reason": "late"}) == 1
    stratum = {"length": "1k-4k", "tools": "true", "stream": "false", "greedy": "true"}
    assert value(text, "parity_stratum_exchanges_total", {**stratum, "disposition": "scored"}) == 4
    unknown = {**dict.fromkeys(stratum, "unknown"), "disposition": "lost"}
    assert value(text, "parity_stratum_exchanges_total", unknown) == 1


def test_a_probe_is_no_part_of_the_strata() -> None:
    metrics = made()
    metrics.row(row(1, kind="probe"))
    assert not [name for name, _ in series(scraped(metrics)) if name == "parity_stratum_exchanges_total"]


def test_labels_are_closed() -> None:
    metrics = made()
    metrics.shadow_call("somebody", "strange", 1.0)
    strange = ScoreRow("candidate", "x" * 50, 1.0, None)
    metrics.row(replace(row(1), scores=(strange, ScoreRow("candidate", "y", None, Reason.LATE))))
    metrics.row(row(2, disposition="lost", reason='a"b\nc', scores=()))
    text = scraped(metrics)
    assert value(text, "parity_shadow_calls_total", {"arm": "other", "outcome": "other"}) == 1
    assert "xxxx" not in text
    assert 'score="y"' not in text
    assert value(text, "parity_exchanges_total", {"kind": "live", "disposition": "lost", "reason": "other"}) == 1
    for reason in Ineligible:
        ineligible = {"kind": "live", "disposition": "ineligible", "reason": reason.value}
        assert value(text, "parity_exchanges_total", ineligible) == 0


def test_a_call_that_was_not_made_has_no_duration() -> None:
    text = scraped(busy())
    assert value(text, "parity_shadow_calls_total", {"arm": "reference", "outcome": "breaker_open"}) == 1
    assert value(text, "parity_shadow_call_seconds_count", {"arm": "reference"}) == 1


def test_states_of_now_are_those_of_the_scrape() -> None:
    metrics = made()
    state = {"paused": True, "breaker": {"state": "half_open"}, "queue": {"exchanges": 5, "bytes": 9}, "contract": {}}
    text = scraped(metrics, state=state, readiness={"ledger": False, "relay": True})
    assert value(text, "parity_mirror_paused") == 1
    assert value(text, "parity_breaker", {"state": "half_open"}) == 1
    assert value(text, "parity_breaker", {"state": "closed"}) == 0
    assert value(text, "parity_mirror_queue_exchanges") == 5
    assert value(text, "parity_ready", {"condition": "ledger"}) == 0
    assert value(text, "parity_ledger_rows") == 7
    assert value(scraped(metrics, ledger=None), "parity_ledger_rows") is None


def test_two_monitors_in_one_process_do_not_meet() -> None:
    ours, theirs = made(registry=CollectorRegistry()), made(registry=CollectorRegistry())
    ours.row(row(1))
    scored = {"kind": "live", "disposition": "scored", "reason": ""}
    assert value(scraped(ours), "parity_exchanges_total", scored) == 1
    assert value(scraped(theirs), "parity_exchanges_total", scored) == 0


def test_a_planned_row_without_a_number_is_counted_as_lost_as_the_gate_counts_it() -> None:
    metrics = made()
    missing = ScoreRow("candidate", "tool_call_mismatch", None, Reason.BREAKER_OPEN)
    metrics.row(row(1, scores=(missing,)))
    text = scraped(metrics)
    lost = {"kind": "live", "disposition": "lost", "reason": "breaker_open"}
    assert value(text, "parity_exchanges_total", lost) == 1
    assert value(text, "parity_exchanges_total", {"kind": "live", "disposition": "scored", "reason": ""}) == 0
