"""`parity quantize` from the outside: whole or not at all, resumed step by step, and every refusal before any work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from proxy.monitor.ledger import SqliteLedger
from proxy.settings import LedgerSettings
from tests.integration.quantize_rig import BITS, MODEL, command, done, recipe, samples, stand_in
from tests.unit.monitor_samples import bodies, is_mismatch, row

pytestmark = pytest.mark.together


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """A sound command, whose interpreter is the stand-in."""
    return [
        recipe(tmp_path), "--out", tmp_path / "out", "--python", stand_in(tmp_path), "--samples", 4,
        "--calibration", samples(tmp_path),
    ]  # fmt: skip


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def interrupted(folder: Path, words: list[object], at: str, by: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Ends the command by a signal once the worker is at that step. Returns its exit code and what it said."""
    process = command(folder, *words, stop=at)
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip() == "quantize":
            break
    process.send_signal(by)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_checkpoint_with_its_card_and_nothing_else_is_left(tmp_path: Path, words: list[object]) -> None:
    code, told, errors = done(tmp_path, *words, "--json")
    assert code == 0, errors
    out = tmp_path / "out"
    assert {one.name for one in out.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json", "parity-card.json", "README.md",
    }  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (MODEL / name).read_bytes()
    card = json.loads((out / "parity-card.json").read_text())
    assert card == json.loads(told)
    assert card["calibration"]["samples"] == 4
    assert card["seconds"] == 3.0
    assert card["size"]["weight_bytes_after"] == 1 << 20
    assert not (tmp_path / "out.partial").exists()


def test_what_is_not_the_recipe_is_never_put_in_its_place(
    tmp_path: Path, words: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BITS, "8")
    code, _, errors = done(tmp_path, *words)
    assert code == 1
    assert "what was made is not what the recipe says" in errors
    assert not (tmp_path / "out").exists()


def test_a_card_tells_nothing_of_the_machine(tmp_path: Path, words: list[object]) -> None:
    assert done(tmp_path, *words)[0] == 0
    host = os.uname().nodename
    for name in ("parity-card.json", "README.md"):
        text = (tmp_path / "out" / name).read_text()
        assert str(tmp_path) not in text
        assert str(MODEL.parent) not in text
        assert host not in text
        assert "path = " in text.replace('\\"', '"')


def test_the_prompts_stay_only_when_asked_and_the_cards_hash_is_their_files(
    tmp_path: Path, words: list[object]
) -> None:
    assert done(tmp_path, *words, "--keep-calibration")[0] == 0
    kept = (tmp_path / "out" / "parity-calibration.jsonl").read_bytes()
    card = json.loads((tmp_path / "out" / "parity-card.json").read_text())
    assert card["calibration"]["sha256"] == hashlib.sha256(kept).hexdigest()
    assert [json.loads(line)["text"] for line in kept.splitlines()] == [f"question {number}" for number in range(4)]


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_what_to_do_and_goes_on_from_there(
    tmp_path: Path, words: list[object], by: signal.Signals
) -> None:
    code, errors = interrupted(tmp_path, words, "make", by)
    assert code == 130
    assert "--resume goes on from it" in errors
    assert not (tmp_path / "out").exists()
    assert calls(tmp_path) == ["calibrate", "make"]
    code, _, errors = done(tmp_path, *words)
    assert (code, "Give --resume" in errors) == (1, True)
    code, _, errors = done(tmp_path, *words, "--resume")
    assert code == 0, errors
    assert calls(tmp_path) == ["calibrate", "make", "make", "check"]  # what was chosen was not chosen again


def test_made_but_not_carded_it_is_not_made_again(tmp_path: Path, words: list[object]) -> None:
    assert interrupted(tmp_path, words, "check")[0] == 130
    assert done(tmp_path, *words, "--resume")[0] == 0
    assert calls(tmp_path) == ["calibrate", "make", "check", "check"]


def test_killed_outright_it_goes_on_too(tmp_path: Path, words: list[object]) -> None:
    code, _ = interrupted(tmp_path, words, "make", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert done(tmp_path, *words, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("samples", "another calibration source"),
        ("recipe", "another recipe"),
        ("seed", "another --samples, --max-tokens, --seed or --engine"),
        ("model", "another model"),
    ],
)
def test_resumed_with_something_else_it_names_what(
    tmp_path: Path, words: list[object], changed: str, named: str
) -> None:
    model = Path(shutil.copytree(MODEL, tmp_path / "model"))
    recipe(tmp_path, model=model)
    interrupted(tmp_path, words, "make")
    more: list[object] = []
    if changed == "samples":
        samples(tmp_path, word="another")
    elif changed == "recipe":
        recipe(tmp_path, model=model, ignored_layers=["lm_head", "x"])
    elif changed == "seed":
        more = ["--seed", 7]
    else:
        raw = bytearray((model / "model.safetensors").read_bytes())
        raw[-1] ^= 1
        (model / "model.safetensors").write_bytes(raw)
    code, _, errors = done(tmp_path, *words, *more, "--resume")
    assert code == 1
    assert named in errors


def test_chosen_prompts_that_were_touched_are_chosen_anew(tmp_path: Path, words: list[object]) -> None:
    interrupted(tmp_path, words, "make")
    (tmp_path / "out.partial" / "work" / "chosen.jsonl").write_text("{}\n")
    assert done(tmp_path, *words, "--resume")[0] == 0
    assert calls(tmp_path) == ["calibrate", "make", "calibrate", "make", "check"]


def test_a_resumed_run_needs_the_ledger_no_more(tmp_path: Path, words: list[object]) -> None:
    """What was chosen from it stays chosen; a ledger goes on growing, and its bodies go by age."""
    ledger = tmp_path / "ledger.sqlite"
    kept = SqliteLedger(LedgerSettings(path=ledger), is_mismatch=is_mismatch)
    kept.open_epoch({}, "first", 1.0)
    kept.append([row(number, bodies=bodies(f"reply {number}")) for number in range(6)])
    kept.close()
    at = words.index("--calibration")
    words = [*words[:at], *words[at + 2 :], "--ledger", ledger]
    assert interrupted(tmp_path, words, "make")[0] == 130
    for file in tmp_path.glob("ledger.sqlite*"):
        file.unlink()
    code, _, errors = done(tmp_path, *words, "--resume", "--keep-calibration")
    assert code == 0, errors
    kept_lines = (tmp_path / "out" / "parity-calibration.jsonl").read_text().splitlines()
    assert [json.loads(line)["messages"][-1]["content"] for line in kept_lines] == [f"reply {n}" for n in (5, 4, 3, 2)]


def test_an_empty_ledger_says_how_to_fill_it(tmp_path: Path, words: list[object]) -> None:
    ledger = tmp_path / "ledger.sqlite"
    kept = SqliteLedger(LedgerSettings(path=ledger), is_mismatch=is_mismatch)
    kept.open_epoch({}, "first", 1.0)
    kept.append([row(0)])
    kept.close()
    at = words.index("--calibration")
    code, _, errors = done(tmp_path, *words[:at], *words[at + 2 :], "--ledger", ledger)
    assert code == 1
    assert "keeps no request" in errors
    assert "raise ledger.keep_share" in errors


def refused(folder: Path, *words: object) -> tuple[int, str]:
    code, told, errors = done(folder, *words)
    assert told == ""
    assert not (folder / "out").exists()
    assert not (folder / "out.partial").exists()
    assert not (folder / "calls").exists()
    return code, errors


def test_a_typo_is_told_with_its_fix(tmp_path: Path, words: list[object]) -> None:
    recipe(tmp_path, method="gpqt")
    code, errors = refused(tmp_path, *words)
    assert (code, 'did you mean "gptq"?' in errors) == (2, True)


@pytest.mark.parametrize(
    ("drop", "add", "code", "told"),
    [
        ("--calibration", [], 1, "gptq needs calibration prompts: give --ledger"),
        ("--out", [], 2, "--out: give a new folder"),
        ("", ["--ledger", "x.sqlite"], 2, "give one of them"),
        ("", ["--engine", "gptqmodel"], 2, 'there is no "gptqmodel"'),
        ("", ["--engine", "autoawq"], 1, "AutoAWQ makes AWQ alone"),
        ("--python", ["--python", "/no/such"], 1, "make .venv-quantize/.ready"),
    ],
)
def test_words_that_cannot_go(
    tmp_path: Path, words: list[object], drop: str, add: list[object], code: int, told: str
) -> None:
    at = words.index(drop) if drop else len(words)
    found, errors = refused(tmp_path, *words[:at], *words[at + 2 :], *add)
    assert found == code
    assert told in errors


def test_a_model_that_is_none(tmp_path: Path, words: list[object]) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(MODEL / "config.json", bare)
    recipe(tmp_path, model=bare)
    code, errors = refused(tmp_path, *words)
    assert (code, "holds no safetensors file" in errors) == (1, True)
    recipe(tmp_path, model=tmp_path / "nowhere")
    code, errors = refused(tmp_path, *words)
    assert (code, "there is no such file" in errors) == (2, True)


def test_not_enough_memory_is_proven_before_it_is_said(tmp_path: Path, words: list[object]) -> None:
    """20,000 samples of a million tokens need 10 TB of activations."""
    more = ["--samples", 20_000, "--max-tokens", 1_000_000]
    code, errors = refused(tmp_path, *words, *more)
    assert code == 1
    assert "MemAvailable" in errors
    assert done(tmp_path, *words, *more, "--force")[0] == 0


def test_too_few_lines_and_broken_ones(tmp_path: Path, words: list[object]) -> None:
    (tmp_path / "samples.jsonl").write_text('{"text": "fine"}\nnonsense\n')
    code, _, errors = done(tmp_path, *words)
    assert code == 1
    assert "line 2: not JSON" in errors
    assert not (tmp_path / "out").exists()


def test_an_existing_out_is_refused_before_anything(tmp_path: Path, words: list[object]) -> None:
    (tmp_path / "out").mkdir()
    code, _, errors = done(tmp_path, *words)
    assert (code, "not overwritten" in errors) == (1, True)
    assert not (tmp_path / "calls").exists()


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    file = recipe(tmp_path, method="awq")
    code, told, _ = done(tmp_path, file, "--dry-run", "--json")
    plan: dict[str, Any] = json.loads(told)
    assert code == 0
    assert [one["name"] for one in plan["modifiers"]] == ["AWQModifier", "QuantizationModifier"]
    code, told, _ = done(tmp_path, file, "--dry-run")
    assert (code, "AWQModifier" in told, "calibration: needed" in told) == (0, True, True)


def test_k_quants_are_llama_cpps_or_a_refusal_that_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = recipe(tmp_path, format="q4_k_m", method="gguf")
    file.write_text(file.read_text().replace("[model]", 'engine = "llama.cpp"\n[model]'))
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    code, errors = refused(tmp_path, file, "--out", tmp_path / "out")
    assert code == 1
    assert "convert_hf_to_gguf.py and llama-quantize are not on PATH" in errors
    (empty / "convert_hf_to_gguf.py").write_text('#!/bin/sh\n/bin/cp "$1/model.safetensors" "$3"\n')
    (empty / "llama-quantize").write_text('#!/bin/sh\n/usr/bin/head -c 1000 "$1" > "$2"; echo "as $3"\n')
    for tool in empty.iterdir():
        tool.chmod(0o755)
    code, _, errors = done(tmp_path, file, "--out", tmp_path / "out")
    assert code == 0, errors
    assert (tmp_path / "out" / "model-Q4_K_M.gguf").stat().st_size == 1000
    card = json.loads((tmp_path / "out" / "parity-card.json").read_text())
    assert set(card["tools"]) == {"convert_hf_to_gguf.py", "llama-quantize"}
    (empty / "llama-quantize").write_text("#!/bin/sh\necho out of room >&2\nexit 4\n")
    code, _, errors = done(tmp_path, file, "--out", tmp_path / "other")
    assert code == 1
    assert "llama-quantize ended with 4" in errors
    assert "out of room" in errors
