"""What a ledger tells offline: the long account, the rows as files, and the plan at the traffic it saw."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from proxy.app import budgets_of, rules_of
from proxy.errors import LedgerError
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.ledger_survey import FEWEST_ROWS, exchanges_at, traffic_of
from proxy.monitor.rows import LedgerRow, ScoreRow
from proxy.monitor.watch import gate_of
from proxy.report import plan
from proxy.report.explain import explain
from proxy.report.export import Format, export
from proxy.report.recompute import recompute
from proxy.report.view import plan_table, print_verdict
from proxy.settings import LedgerSettings, Settings
from proxy.settings_file import parse_settings
from scorers.catalogue import SPECS
from scorers.judge import Budget, GateRules
from scorers.records import Reason, Stratum
from tests.unit.monitor_samples import is_mismatch, row

TOOLS = Budget("tool_call_mismatch", 0.03, bounded=True, critical=True, unit="ratio", strata=("tools",))
CONTRACT = {"recipe": "int4", "gate": gate_of([TOOLS], GateRules())}


def written(path: Path, rows: Sequence[LedgerRow]) -> Path:
    with closing(SqliteLedger(LedgerSettings(path=path), is_mismatch=is_mismatch)) as ledger:
        ledger.open_epoch(CONTRACT, "first", 1.0)
        ledger.append(rows)
    return path


def scored(position: int, value: float, *, tools: bool = True) -> LedgerRow:
    scores = (ScoreRow("candidate", TOOLS.name, value, None), ScoreRow("noise", TOOLS.name, 0.0, None))
    return row(position, scores=scores, stratum=Stratum("0-512", tools, False, True))


def printed(path: Path) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    explain(console, path, recompute(path))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_account_names_each_gate_with_the_exchange_that_crossed_it(tmp_path: Path) -> None:
    path = written(tmp_path / "l", [scored(n, 0.0) for n in range(800)])
    answer = recompute(path)
    lane = answer["budgets"][TOOLS.name]["strata"]["tools"]
    told = printed(path)
    assert lane["crossed"].keys() == {"limit", "noise"}
    for test, at in lane["crossed"].items():
        assert f"tools, {test}: " in told
        assert f"at position {at} (" in told
        assert f"exchange id-{at})" in told
    assert "stage promoted" in told
    assert [line.split()[:3] for line in told.splitlines() if line.split()[:1] == ["tools"]] == [["tools", "800", "0"]]
    assert "change detector at" in told


def test_a_fail_is_told_with_its_stratum_and_its_place(tmp_path: Path) -> None:
    rows = [scored(n, float(n % 4 == 0), tools=n % 2 == 0) for n in range(300)]
    told = printed(written(tmp_path / "l", rows))
    at = recompute(tmp_path / "l")["budgets"][TOOLS.name]["strata"]["tools"]["crossed"]["rollback"]
    assert f"tools, rollback: the mean lies above the limit: e-value past 10^2.48 at position {at}" in told
    assert "fail (over)" in told
    assert "0-512/tools/whole/greedy" in told


def test_the_short_page_says_verdict_and_reasons(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_verdict(console, recompute(written(tmp_path / "l", [scored(n, 1.0) for n in range(50)])))
    assert isinstance(console.file, io.StringIO)
    assert "verdict: fail   tool_call_mismatch: tools: over its limit: 100 % over 50 pairs" in console.file.getvalue()


def test_json_lines_keep_every_row_with_numbers_and_reasons(tmp_path: Path) -> None:
    rows = [row(n) for n in range(5)] + [replace(row(5), disposition="lost", reason="late", stratum=None, scores=())]
    out = io.StringIO()
    done = export(written(tmp_path / "l", rows), out, Format.JSONL, None)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (done.rows, done.pruned_through, len(lines)) == (6, -1, 6)
    assert [line["position"] for line in lines] == list(range(6))
    assert lines[3]["candidate"] == {
        "tool_call_mismatch": 1.0,
        "json_invalid": "no_json_format",
        "logprob_kl": 0.1 * 3,
    }
    assert lines[3]["noise"]["logprob_kl"] == "reference_timeout"
    assert (lines[5]["reason"], lines[5]["stratum"], lines[5]["candidate"]) == ("late", None, {})


def test_csv_has_a_column_for_each_number_and_each_reason(tmp_path: Path) -> None:
    odd = replace(row(1), scores=(ScoreRow("candidate", "a_score_of_another_version", 0.5, None),))
    out = io.StringIO()
    assert export(written(tmp_path / "l", [row(0), odd]), out, Format.CSV, 1).rows == 2
    first, second = csv.DictReader(io.StringIO(out.getvalue()))
    assert (first["candidate.tool_call_mismatch"], first["candidate.tool_call_mismatch.reason"]) == ("0.0", "")
    assert (first["candidate.json_invalid"], first["candidate.json_invalid.reason"]) == ("", "no_json_format")
    assert first["stratum"] == "1k-4k/tools/whole/greedy"
    assert second["candidate.a_score_of_another_version"] == "0.5"  # never silently left out
    assert float(first["noise.tool_call_mismatch"]) == 0.0


def test_an_epoch_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "l", [row(0)])
    with pytest.raises(LedgerError, match="there is no epoch 4; it has 1 to 1"):
        export(path, io.StringIO(), Format.CSV, 4)


def test_pruned_rows_are_counted_and_not_passed_over_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "l"
    ledger = SqliteLedger(LedgerSettings(path=path, retention_days=1.0), is_mismatch=is_mismatch)
    with closing(ledger):
        ledger.open_epoch(CONTRACT, "first", 1.0)
        ledger.append([row(n, sampled_unix_s=1e6 + (n >= 3) * 90_000.0) for n in range(5)])
        ledger.checkpoint(1, 2, "{}")
        assert ledger.prune(1e6 + 95_000.0) == 3
    out = io.StringIO()
    done = export(path, out, Format.JSONL, None)
    assert (done.rows, done.pruned_through) == (2, 2)


def settings(path: Path, more: str = "") -> Settings:
    text = (
        '[candidate]\nurl = "http://127.0.0.1:1"\n[reference]\nurl = "http://127.0.0.1:2"\n[gate]\nworkload = "agent"\n'
        f'[ledger]\npath = "{path}"\n[sampling]\nrate = 0.1\n{more}'
    )
    return parse_settings(tomllib.loads(text), SPECS)


def planned(given: Settings, requests_per_s: float | None = None) -> plan.Plan:
    return plan.of(given, budgets_of(given), rules_of(given), requests_per_s)


def test_the_plan_rests_on_the_traffic_that_the_ledger_saw(tmp_path: Path) -> None:
    half = [
        scored(n, 0.0) if n % 2 else row(n, scores=(ScoreRow("candidate", TOOLS.name, None, Reason.NO_TOOLS),))
        for n in range(201)
    ]
    path = written(tmp_path / "l", half)
    seen = traffic_of(path)
    assert seen is not None
    assert seen.sampled_per_s == pytest.approx(201 / 200)
    assert seen.shares["candidate", TOOLS.name] == pytest.approx(100 / 201)
    found = planned(settings(path))
    need = found.needs[0]
    assert (need.budget.name, need.pairs, need.noise_pairs) == ("tool_call_mismatch", 622, 581)
    assert need.requests == pytest.approx(622 / (0.1 * 100 / 201))
    assert found.requests_per_s == pytest.approx(10.05)
    assert need.seconds == pytest.approx(622 * 201 / 100 / (201 / 200))
    assert planned(settings(path), 1.0).needs[0].seconds == pytest.approx(need.requests)


def test_without_a_ledger_requests_are_the_least_and_times_unknown(tmp_path: Path) -> None:
    found = planned(settings(tmp_path / "none"))
    assert (found.requests_per_s, found.measured, found.needs[0].seconds) == (None, False, None)
    assert found.needs[0].requests == pytest.approx(max(622 / 0.1, 581 / (0.1 * 0.25)))
    assert "--traffic" in found.source
    console = Console(file=io.StringIO(), width=250, color_system=None)
    console.print(plan_table(found))
    assert isinstance(console.file, io.StringIO)
    assert "at least 23,240" in console.file.getvalue()
    assert json.loads(json.dumps(found.as_dict()))["needs"][0]["budget"]["limit"] == 0.03


def test_in_a_staged_rollout_the_references_clients_give_pairs_by_replays_alone(tmp_path: Path) -> None:
    """Up to the step before the last, which waits for the pass: 20 % serve as evidence, of the others a quarter."""
    steps = "[rollout]\nsteps = [{ share = 0.0 }, { share = 0.2 }, { share = 1.0 }]\n"
    mismatch, *_, kl = planned(settings(tmp_path / "none", steps)).needs
    _, *_, kl_without = planned(settings(tmp_path / "none")).needs
    assert mismatch.requests == pytest.approx(max(622 / 0.1, 581 / (0.1 * 0.25)) / (0.2 + 0.8 * 0.25))
    assert kl.budget.name == "logprob_kl"
    assert kl.requests == kl_without.requests  # replayed on both arms in any case


def test_coins_that_never_fall_mean_never(tmp_path: Path) -> None:
    found = planned(settings(tmp_path / "none", "[mirror]\nnoise_rate = 0.0\n"))
    assert found.needs[0].requests is None
    assert found.needs[2].requests is not None  # a KL has no noise contrast


@pytest.mark.parametrize("count", [1, FEWEST_ROWS - 1])
def test_too_few_rows_tell_no_rate(tmp_path: Path, count: int) -> None:
    assert traffic_of(written(tmp_path / "l", [row(n) for n in range(count)])) is None


def test_places_are_told_where_rows_are_left(tmp_path: Path) -> None:
    path = written(tmp_path / "l", [row(3)])
    assert exchanges_at(path, [3, 9]) == {3: ("id-3", 1_000_003.0)}


@pytest.mark.parametrize(("seconds", "said"), [(30, "30 s"), (119, "119 s"), (3_600, "60 min"), (1e6, "11.6 days")])
def test_times_are_read_by_people(seconds: float, said: str) -> None:
    assert plan.duration(seconds) == said
