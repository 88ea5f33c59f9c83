"""The gate and several knobs at once: real recipe files, real ledgers, the real settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backends.recipes.written import as_toml
from proxy.cli import cli
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.watch import gate_of
from proxy.report.knobs import holds
from proxy.settings import GateSettings, LedgerSettings, ProvenSettings
from scorers.judge import Budget, GateRules
from tests.unit.monitor_samples import is_mismatch
from tests.unit.recipe_rig import AWQ, FP8, recipe
from tests.unit.test_report import TOOLS, scored


def write(folder: Path, name: str, **axes: object) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(as_toml(recipe(name=name, **axes)))
    return path


def ledger(folder: Path, name: str, mismatches: float = 0.0, budgets: Sequence[Budget] = (TOOLS,)) -> Path:
    """A ledger of 800 pairs; without mismatches its verdict is a pass."""
    path = folder / f"{name}.sqlite"
    with closing(SqliteLedger(LedgerSettings(path=path), is_mismatch=is_mismatch)) as written:
        written.open_epoch({"recipe": name, "gate": gate_of(list(budgets), GateRules())}, "first", 1.0)
        written.append([scored(number, mismatches) for number in range(800)])
    return path


def test_one_knob_or_no_recipe_file_holds_nothing(tmp_path: Path) -> None:
    assert holds(GateSettings()) == []
    assert holds(GateSettings(recipe_file=write(tmp_path, "awq", weights=AWQ))) == []


def test_two_knobs_hold_a_pass_until_each_has_evidence(tmp_path: Path) -> None:
    both = write(tmp_path, "both", weights=AWQ, kv_cache=FP8)
    (told,) = holds(GateSettings(recipe_file=both))
    assert "turns 2 knobs at once, weights and kv_cache" in told
    assert "weights (bf16 -> int4:group128 by awq)" in told
    weights = ProvenSettings(recipe_file=write(tmp_path, "w", weights=AWQ), ledger=ledger(tmp_path, "w"))
    (told,) = holds(GateSettings(recipe_file=both, proven=(weights,)))
    assert "without evidence for kv_cache (bf16 -> fp8-e4m3:tensor):" in told
    cache = ProvenSettings(recipe_file=write(tmp_path, "kv", kv_cache=FP8), ledger=ledger(tmp_path, "kv"))
    assert holds(GateSettings(recipe_file=both, proven=(weights, cache))) == []


def test_evidence_may_stand_on_what_was_proven_before(tmp_path: Path) -> None:
    both = write(tmp_path, "both", weights=AWQ, kv_cache=FP8)
    first = ProvenSettings(recipe_file=write(tmp_path, "w", weights=AWQ), ledger=ledger(tmp_path, "w"))
    second = ProvenSettings(
        recipe_file=write(tmp_path, "then-kv", weights=AWQ, kv_cache=FP8, parent="w.toml"),
        ledger=ledger(tmp_path, "then-kv"),
    )
    assert holds(GateSettings(recipe_file=both, proven=(first, second))) == []


def test_the_owner_may_say_so(tmp_path: Path) -> None:
    both = write(tmp_path, "both", weights=AWQ, kv_cache=FP8)
    assert holds(GateSettings(recipe_file=both, several_axes=True)) == []


@pytest.mark.parametrize(
    ("axes", "mismatches", "named", "told"),
    [
        ({"kv_cache": FP8}, 1.0, "kv", "verdict of"),
        ({"kv_cache": FP8}, 0.0, "other", 'is of recipe "other", not "kv"'),
        ({"kv_cache": FP8 | {"per": "head"}}, 0.0, "kv", "its kv_cache are fp8-e4m3:head"),
        ({"kv_cache": FP8, "weights": AWQ}, 0.0, "kv", "changes 2 axes"),
        ({"kv_cache": FP8, "hardware": "h100"}, 0.0, "kv", "another card"),
        ({"kv_cache": FP8, "model": {"size": "8B"}}, 0.0, "kv", "another model"),
    ],
)
def test_what_is_no_evidence(tmp_path: Path, axes: dict[str, object], mismatches: float, named: str, told: str) -> None:
    both = write(tmp_path, "both", weights=AWQ, kv_cache=FP8)
    weights = ProvenSettings(recipe_file=write(tmp_path, "w", weights=AWQ), ledger=ledger(tmp_path, "w"))
    said = ProvenSettings(recipe_file=write(tmp_path, "kv", **axes), ledger=ledger(tmp_path, named, mismatches))
    found = holds(GateSettings(recipe_file=both, proven=(weights, said)))
    assert "without evidence for kv_cache" in found[0]
    assert told in found[1]


def test_files_that_cannot_tell_hold_a_pass(tmp_path: Path) -> None:
    (told,) = holds(GateSettings(recipe_file=tmp_path / "none.toml"))
    assert "no such file" in told
    both = write(tmp_path, "both", weights=AWQ, kv_cache=FP8)
    gone = ProvenSettings(recipe_file=write(tmp_path, "w", weights=AWQ), ledger=tmp_path / "none.sqlite")
    assert len(holds(GateSettings(recipe_file=both, proven=(gone,)))) == 2
    other = write(tmp_path, "other", weights=AWQ, model={"size": "8B"}, parent="both.toml")
    assert "different models" in holds(GateSettings(recipe_file=other))[0]


def test_check_config_says_what_will_hold_a_pass(tmp_path: Path) -> None:
    both = write(tmp_path, "both", weights=AWQ, kv_cache=FP8)
    config = tmp_path / "parity.toml"
    config.write_text(
        '[candidate]\nurl = "http://127.0.0.1:8001"\n[reference]\nurl = "http://127.0.0.1:8002"\n'
        f'[ledger]\npath = "{tmp_path}/l.sqlite"\n[gate]\nworkload = "agent"\nrecipe_file = "{both}"\n'
    )
    done = CliRunner().invoke(cli, ["check-config", str(config)], env={"NO_COLOR": "1", "COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "no pass: the recipe turns 2 knobs at once" in done.stdout
