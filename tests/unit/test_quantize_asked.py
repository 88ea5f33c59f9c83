"""What was asked, held against what is there; and what a resumed run must have again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backends.checkpoints.parent import parent_at
from backends.checkpoints.planned import plan
from backends.recipes.reading import parse_recipe
from proxy.quantize_command.asked import PYTHON, Asked, Refused, Source, hold, model_of, python_of

MODEL = Path(__file__).resolve().parents[2] / "backends" / "emulator" / "model"


def asked(tmp_path: Path, method: str = "gptq") -> Asked:
    chosen = parse_recipe(
        {
            "name": "x", "workload": "chat", "hardware": "cpu", "context_tokens": 4096, "concurrency": 1,
            "model": {"path": str(MODEL)}, "weights": {"format": "int4", "method": method},
        }
    )  # fmt: skip
    python = tmp_path / "python"
    python.touch()
    source = Source("file", tmp_path / "samples.jsonl")
    source.path.write_text("one")
    return Asked(chosen, parent_at(MODEL), plan(chosen), tmp_path / "out", python, source, 4, 64, 0, False)


def test_a_sound_one_has_nothing_to_say(tmp_path: Path) -> None:
    assert hold(asked(tmp_path), tmp_path, force=False) == []


def test_calibration_that_is_not_needed_is_said_not_to_be_read(tmp_path: Path) -> None:
    (note,) = hold(asked(tmp_path, "rtn"), tmp_path, force=False)
    assert "--calibration is not read" in note
    ledger = replace(asked(tmp_path, "rtn"), source=Source("ledger", tmp_path / "l.sqlite"))
    assert "--ledger is not read" in hold(ledger, tmp_path, force=False)[0]


def test_what_a_resumed_run_must_have_again(tmp_path: Path) -> None:
    one = asked(tmp_path)
    before = one.made_from("m")
    assert before == asked(tmp_path).made_from("m")
    assert before["model"] == "m"
    last = "--samples, --max-tokens, --seed or --engine"
    for change in ({"samples": 5}, {"max_tokens": 65}, {"seed": 1}, {"plan": asked(tmp_path, "spinquant").plan}):
        other = replace(one, **change).made_from("m")  # type: ignore[arg-type]
        assert {key for key in before if before[key] != other[key]} == {last}
    assert one.source is not None
    one.source.path.write_text("two")
    assert one.made_from("m")["calibration source"] != before["calibration source"]


def test_a_ledger_that_has_grown_is_the_same_ledger(tmp_path: Path) -> None:
    source = Source("ledger", tmp_path / "l.sqlite")
    before = source.digest()
    source.path.write_text("more")
    assert source.digest() == before != Source("ledger", tmp_path / "m.sqlite").digest()
    assert "ledger.keep_share" in source.fix.format(count=3)


def test_a_size_is_no_model(tmp_path: Path) -> None:
    sized = parse_recipe(
        {
            "name": "x", "workload": "chat", "hardware": "h200", "context_tokens": 4096, "concurrency": 1,
            "model": {"size": "8B"}, "weights": {"format": "int4"},
        }
    )  # fmt: skip
    with pytest.raises(Refused, match="is a size, not a model"):
        model_of(sized, tmp_path / "x.toml")


def test_where_the_interpreter_is() -> None:
    assert python_of(Path("p"), {"PARITY_QUANTIZE_PYTHON": "q"}) == Path("p")
    assert python_of(None, {"PARITY_QUANTIZE_PYTHON": "q"}) == Path("q")
    assert python_of(None, {}) == Path(PYTHON)
