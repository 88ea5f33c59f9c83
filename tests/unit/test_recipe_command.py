"""The words of `parity recipe`: exit codes, JSON, help, and complaints that name the option."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from backends.recipes.written import as_toml
from proxy.cli import cli
from tests.unit.recipe_rig import AWQ, FP8, recipe

ROOT = Path(__file__).resolve().parents[2]
SUGGEST = ("--workload", "chat", "--hardware", "h200", "--context", "4096", "--concurrency", "32")


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["recipe", *words], env={"NO_COLOR": "1", "COLUMNS": "200"})


def write(folder: Path, name: str, **axes: object) -> str:
    path = folder / f"{name}.toml"
    path.write_text(as_toml(recipe(name=name, **axes)))
    return str(path)


@pytest.mark.parametrize("command", ["suggest", "check", "diff", "roofline", "budget"])
def test_help_teaches(command: str) -> None:
    assert command in run("--help").stdout
    shown = run(command, "--help")
    assert shown.exit_code == 0
    assert "--json" in shown.stdout


def test_suggest_writes_what_check_takes(tmp_path: Path) -> None:
    path = tmp_path / "candidate.toml"
    done = run("suggest", "--model-size", "70B", *SUGGEST, "--out", str(path))
    assert done.exit_code == 0, done.output
    for title in ("why", "what it does not buy", "weighed", "prove in this order"):
        assert title in done.stdout
    assert "parity recipe check" in done.stderr
    assert path.read_text().startswith("# weights: INT4 AWQ")
    assert run("check", str(path)).exit_code == 0
    again = run("suggest", "--model-size", "70B", *SUGGEST, "--out", str(path))
    assert (again.exit_code, "exists" in again.stderr) == (2, True)


def test_suggest_as_json() -> None:
    told = orjson.loads(run("suggest", "--model-size", "7B", *SUGGEST, "--json").stdout)
    assert told["recipe"]["weights"]["format"] == "int4"
    assert {"reasons", "does_not_buy", "weighed", "order_of_proof", "roofline", "findings"} <= set(told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model-size", "71B", *SUGGEST), "--model-size: no model of size"),
        (SUGGEST, "--model-size or --model: give one"),
        (("--model", "/nowhere", *SUGGEST), "--model: /nowhere"),
        (
            ("--model-size", "7B", *SUGGEST[2:], "--workload", "chatt"),
            '--workload: there is no "chatt"; did you mean "chat"?',
        ),
        (("--model-size", "7B", *SUGGEST[:2], "--hardware", "h20", *SUGGEST[4:]), '--hardware: there is no card "h20"'),
        (("--model-size", "7B", *SUGGEST[:4], "--context", "0", *SUGGEST[6:]), "--context"),
    ],
)
def test_suggest_names_the_option(words: tuple[str, ...], told: str) -> None:
    done = run("suggest", *words)
    assert done.exit_code == 2
    assert told in done.stderr


def test_a_suggestion_that_does_not_fit_is_a_failure() -> None:
    done = run("suggest", "--model-size", "405B", *SUGGEST[:2], "--hardware", "rtx-4090", *SUGGEST[4:])
    assert (done.exit_code, "does not fit" in done.stdout) == (1, True)


def test_check_fails_on_errors_and_passes_on_warnings(tmp_path: Path) -> None:
    emulated = write(tmp_path, "emulated", hardware="a100", gpus=4, weights=FP8)
    done = run("check", emulated, "--json")
    told = orjson.loads(done.stdout)
    assert (done.exit_code, told["counts"]["error"]) == (1, 1)
    assert {"level", "key", "found", "fix", "rule", "source"} == set(told["findings"][0])
    assert run("check", emulated, "--allow-emulated").exit_code == 0
    clipped = run("check", write(tmp_path, "clipped", weights=AWQ, kv_cache=FP8))
    assert (clipped.exit_code, "warning kv_cache.per" in clipped.stdout) == (0, True)


def test_check_reads_what_was_measured(tmp_path: Path) -> None:
    fp4 = {"format": "mxfp4"}
    path = write(tmp_path, "fp4", hardware="b200", workload="agent", weights=fp4, activations=fp4)
    assert run("check", path).exit_code == 0
    down = run("check", path, "--delta", "tool_calls=-5", "--delta", "knowledge=-0.3")
    assert (down.exit_code, "does not ship" in down.stdout) == (1, True)
    assert run("check", path, "--delta", "tool_calls=-5", "--accepted", "6").exit_code == 0
    for wrong in ("tools=-5", "tool_calls", "tool_calls=nan", "tool_calls=-500"):
        assert run("check", path, "--delta", wrong).exit_code == 2, wrong


def test_a_file_that_is_wrong_is_not_a_failed_check(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text(as_toml(recipe(weights=AWQ)).replace("method", "metod"))
    for command in ("check", "roofline"):
        done = run(command, str(path))
        assert (done.exit_code, 'did you mean "method"?' in done.stderr) == (2, True)
    assert run("check", str(tmp_path / "none.toml")).exit_code == 2


def test_diff(tmp_path: Path) -> None:
    plain, one = write(tmp_path, "plain"), write(tmp_path, "one", weights=AWQ)
    two = write(tmp_path, "two", weights=AWQ, kv_cache=FP8)
    assert run("diff", plain, one).exit_code == 0
    both = run("diff", plain, two)
    assert (both.exit_code, "2 knobs at once" in both.stdout) == (1, True)
    told = orjson.loads(run("diff", one, two, "--json").stdout)
    assert ([change["axis"] for change in told["axes"]], told["one_knob"]) == (["kv_cache"], True)


def test_roofline_against_another_and_against_the_parent(tmp_path: Path) -> None:
    awq = write(tmp_path, "awq", weights=AWQ, context_tokens=512)
    fp8 = write(tmp_path, "fp8", weights=FP8, activations=FP8, context_tokens=512)
    picture = tmp_path / "roof.svg"
    shown = run("roofline", awq, "--against", fp8, "--batch", "32", "--svg", str(picture))
    assert shown.exit_code == 0, shown.output
    assert "fp8 overtakes at batch" in shown.stdout
    assert picture.read_text().startswith("<svg")
    told = orjson.loads(run("roofline", awq, "--json").stdout)
    assert told["against"] == "bf16"
    assert told["gain"]["decode"] > 3
    assert told["gain"]["prefill"] == pytest.approx(1)
    child = Path(write(tmp_path, "child", weights=AWQ, context_tokens=512, kv_cache=FP8, parent="awq.toml"))
    assert orjson.loads(run("roofline", str(child), "--json").stdout)["against"] == "awq"


def test_a_parent_elsewhere_finds_its_model_beside_itself(tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "backends" / "emulator" / "model" / "config.json"
    for folder, model in (("base", "one"), ("child", "other")):
        (tmp_path / folder / model).mkdir(parents=True)
        (tmp_path / folder / model / "config.json").write_bytes(shipped.read_bytes())
    write(tmp_path / "base", "bf16", model={"path": "one"})
    child = write(tmp_path / "child", "int4", model={"path": "other"}, weights=AWQ, parent="../base/bf16.toml")
    done = run("roofline", child, "--json")
    assert (done.exit_code, orjson.loads(done.stdout)["against"]) == (0, "bf16")


def test_a_cpu_has_no_roofline_but_a_check(tmp_path: Path) -> None:
    path = write(tmp_path, "cpu", hardware="cpu", weights=AWQ)
    assert run("check", path).exit_code == 0
    done = run("roofline", path)
    assert (done.exit_code, "no roofline" in done.stderr) == (2, True)


def test_budget() -> None:
    outside = run("budget", "--floor", "78.2", "--floor", "78.6", "--candidate", "76.8")
    assert outside.exit_code == 1
    assert "3 x 0.4 = 1.2" in outside.stdout
    assert run("budget", "--floor", "78.2", "--floor", "78.6", "--candidate", "77.5").exit_code == 0
    assert run("budget", "--floor", "78.2", "--candidate", "77.5").exit_code == 2
    told = orjson.loads(run("budget", "--floor", "78.2", "--floor", "78.6", "--candidate", "76.8", "--json").stdout)
    assert told["within"] is False


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_can_be_served(path: Path) -> None:
    done = run("check", str(path))
    assert done.exit_code == 0, done.output
    assert ("llama-3-70b-w8a8" in run("check", str(path), "--json").stdout) == (path.stem == "w8a8-70b")


@pytest.mark.parametrize(
    ("words", "figures"),
    [
        (
            ("roofline", "docs/recipes/awq.toml", "--against", "docs/recipes/fp8.toml"),
            ("x1.76", "batch 74", "batch 138"),
        ),
        (
            ("suggest", "--model-size", "7B", "--workload", "chat", "--hardware", "a100", "--context", "8192",
             "--concurrency", "16"),
            ("x1.49", "x1.00"),
        ),
        (("suggest", "--model-size", "70B", *SUGGEST), ("x1.41", "x1.93", "59 of 206 FLOP/byte")),
    ],
)  # fmt: skip
def test_the_documents_figures_are_what_the_commands_say(
    words: tuple[str, ...], figures: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    shown, written = run(*words).stdout, (ROOT / "docs" / "recipes.md").read_text().replace("\n", " ")
    for figure in figures:
        assert figure in shown, figure
        assert figure in written, figure


def test_the_documents_picture_is_the_one_that_the_command_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = ("roofline", "docs/recipes/awq.toml", "--against", "docs/recipes/fp8.toml")
    assert run(*words, "--svg", str(tmp_path / "now.svg")).exit_code == 0
    assert (tmp_path / "now.svg").read_text() == (ROOT / "docs" / "recipes-roofline.svg").read_text()
