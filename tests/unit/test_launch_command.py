"""`parity launch --print` and `--json`: what a shell takes, what a program takes, what is refused, and the codes."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from pathlib import Path

import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from backends.emulator.server import MODEL
from backends.recipes.carded import CARD
from backends.recipes.written import as_toml
from proxy.cli import cli
from proxy.settings_file import load_settings
from scorers.catalogue import SPECS
from tests.unit.checkpoint_rig import W4A16, compressed, folder
from tests.unit.recipe_rig import AWQ, recipe

FP8_KV = {"format": "fp8-e4m3", "per": "one"}
GPTQ = {"format": "int4", "method": "gptq"}
AWAY = ("--checkpoint", "/models/awq", "--reference", "/models/bf16")


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["launch", *words], env={"NO_COLOR": "1", "COLUMNS": "200", "PATH": "/nowhere"})


def written(folder: Path, **changed: object) -> str:
    path = folder / "recipe.toml"
    path.write_text(as_toml(recipe(**{"size": "8B", **changed})))  # type: ignore[arg-type]
    return str(path)


def commands(printed: str) -> list[list[str]]:
    """Every command of the text, as a shell would split it: comments gone, continued lines joined."""
    lines = "\n".join(line for line in printed.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [shlex.split(line) for line in lines.splitlines() if line.strip()]


def test_what_is_printed_is_what_a_shell_would_run(tmp_path: Path) -> None:
    words = (written(tmp_path, weights=AWQ), *AWAY, "--cards", "0,1", "--served-model-name", "it's a name")
    printed, told = run(*words, "--print"), orjson.loads(run(*words, "--json").stdout)
    assert (printed.exit_code, printed.exception) == (0, None)
    first, second = commands(printed.stdout)
    for command, arm in zip((first, second), told["arms"], strict=True):
        (setting,) = (f"{name}={value}" for name, value in arm["env"].items())
        assert command == [setting, *arm["argv"]]
    assert [arm["arm"] for arm in told["arms"]] == ["reference", "candidate"]
    assert first[:4] == ["CUDA_VISIBLE_DEVICES=1", "vllm", "serve", "/models/bf16"]
    assert "it's a name" in first
    assert "# --tool-call-parser:" in printed.stdout
    assert "is not a folder here" in printed.stderr


def test_hints_and_warnings_fit_the_launch(tmp_path: Path) -> None:
    """A backend that is pinned on both arms is warned of by `recipe check`, and is no difference here."""
    low = {"format": "int8", "per": "token-head"}
    done = run(written(tmp_path, kv_cache=low), *AWAY, "--print", "--cards", "0,1")
    assert done.stdout.count("--attention-backend TRITON_ATTN") == 2
    assert "arms would differ" not in done.stderr
    assert "# VLLM_BATCH_INVARIANT=1 before both" in done.stdout
    assert "BATCH_INVARIANT" not in run(written(tmp_path, hardware="a100"), *AWAY, "--print", "--cards", "0,1").stdout


def test_on_one_card_the_order_is_said(tmp_path: Path) -> None:
    done = run(written(tmp_path, weights=AWQ), *AWAY, "--print")
    assert "# start this one first" in done.stdout
    assert "# start this one once the reference is ready" in done.stdout
    assert orjson.loads(run(written(tmp_path, weights=AWQ), *AWAY, "--json").stdout)["one_by_one"] is True


def test_the_settings_file_names_both_arms_and_is_sound(tmp_path: Path) -> None:
    there = tmp_path / "parity.toml"
    words = (written(tmp_path, weights=AWQ, workload="batch"), *AWAY, "--print", "--config-out", str(there))
    assert run(*words).exit_code == 0
    settings = load_settings(there, {}, SPECS).settings
    assert (settings.candidate.url, settings.reference.url) == ("http://127.0.0.1:8001", "http://127.0.0.1:8002")
    assert settings.candidate.model == settings.reference.model == "awq"
    assert settings.reference.teacher_forcing
    assert settings.gate.recipe_file == tmp_path / "recipe.toml"
    again = run(*words)
    assert (again.exit_code, "exists" in again.stderr) == (2, True)


def test_one_arm_alone(tmp_path: Path) -> None:
    told = orjson.loads(run(written(tmp_path, weights=AWQ), "--checkpoint", "/models/awq", "--json").stdout)
    assert [arm["arm"] for arm in told["arms"]] == ["candidate"]
    told = orjson.loads(run(written(tmp_path), *AWAY, "--arm", "reference", "--json").stdout)
    assert [arm["arm"] for arm in told["arms"]] == ["reference"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--checkpoint", "x", "--arm", "both"), 2, "--reference: give the folder"),
        ((*AWAY, "--candidate-port", "9", "--reference-port", "9"), 2, "--reference-port: both arms on port 9"),
        ((*AWAY, "--cards", "0,0"), 2, "--cards"),
        ((*AWAY, "--cards", "a"), 2, "--cards"),
        ((*AWAY, "--cards", "0", "--reference-gpus", "2"), 1, "takes 2 cards"),
        ((*AWAY, "--python", "/nowhere/python"), 1, "cannot be run as a Python interpreter"),
        (("--checkpoint", "/nowhere"), 0, "is not a folder here"),
    ],
)
def test_words_that_are_wrong(tmp_path: Path, words: tuple[str, ...], code: int, says: str) -> None:
    done = run(written(tmp_path, weights=AWQ), *words, "--print")
    assert (done.exit_code, says in done.stderr) == (code, True), done.stderr


def test_a_recipe_that_cannot_be_read_is_code_2(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text('nmae = "x"\n')
    done = run(str(path), *AWAY, "--print")
    assert done.exit_code == 2
    assert "nmae: unknown key" in done.stderr


def test_the_recipes_own_errors_refuse_unless_told(tmp_path: Path) -> None:
    file = written(tmp_path, weights={"format": "fp8-e4m3"}, activations={"format": "fp8-e4m3"}, hardware="a100")
    done = run(file, *AWAY, "--print")
    assert done.exit_code == 1
    assert "no FP8 hardware" in done.stderr
    assert run(file, *AWAY, "--print", "--allow-emulated").exit_code == 0
    told = orjson.loads(run(file, *AWAY, "--json").stdout)
    assert {one["rule"] for one in told["refused"] if one["level"] == "error"} == {"hardware-gate"}


def test_the_reference_takes_the_cards_of_the_16_bit_parent(tmp_path: Path) -> None:
    (tmp_path / "bf16.toml").write_text(as_toml(recipe("70B", name="bf16", gpus=2)))
    middle = as_toml(recipe("70B", name="fp8", weights={"format": "fp8-e4m3"}, parent="bf16.toml"))
    (tmp_path / "fp8.toml").write_text(middle)
    (tmp_path / "both.toml").write_text(as_toml(recipe("70B", weights=AWQ, kv_cache=FP8_KV, parent="fp8.toml")))
    told = orjson.loads(run(str(tmp_path / "both.toml"), *AWAY, "--cards", "0,1,2", "--json").stdout)
    width = {arm["arm"]: arm["argv"][arm["argv"].index("--tensor-parallel-size") + 1] for arm in told["arms"]}
    assert width == {"candidate": "1", "reference": "2"}


def test_parents_in_a_circle(tmp_path: Path) -> None:
    for name, parent in (("a", "b.toml"), ("b", "a.toml")):
        (tmp_path / f"{name}.toml").write_text(as_toml(recipe("8B", weights=AWQ, parent=parent)))
    done = run(str(tmp_path / "a.toml"), *AWAY, "--print")
    assert (done.exit_code, "a circle" in done.stderr) == (2, True)


def test_a_folder_that_is_here_is_checked_also_for_print(tmp_path: Path) -> None:
    """The shipped BF16 model under a W4A16 recipe: every score would be that of BF16."""
    file = written(tmp_path, weights={"format": "int4", "method": "gptq"}, hardware="cpu")
    done = run(file, "--checkpoint", str(MODEL), "--print")
    assert done.exit_code == 1
    assert "the checkpoint's weights are not quantized" in done.stderr
    assert "0.0B parameters; 8B stands for 8.0B" in done.stderr


def test_the_shipped_model_on_a_cpu(tmp_path: Path) -> None:
    copy = shutil.copytree(MODEL, tmp_path / "model")
    path = tmp_path / "kv.toml"
    path.write_text(
        'name = "fp8-kv"\nworkload = "agent"\nhardware = "cpu"\ncontext_tokens = 4096\nconcurrency = 4\n'
        f'attention_backend = "CPU_ATTN"\n[model]\npath = {orjson.dumps(str(copy)).decode()}\n'
        '[kv_cache]\nformat = "fp8-e4m3"\nper = "one"\n'
    )
    done = run(str(path), "--checkpoint", str(copy), "--reference", str(MODEL), "--json")
    assert done.exit_code == 0, done.output
    told = orjson.loads(done.stdout)
    for arm in told["arms"]:
        argv = arm["argv"]
        assert argv[argv.index("--tool-call-parser") + 1] == "hermes"
        assert argv[argv.index("--attention-backend") + 1] == "CPU_ATTN"
        assert "--enforce-eager" in argv
        assert int(argv[argv.index("--kv-cache-memory-bytes") + 1]) >= 2**28
    assert [one["level"] for one in told["findings"] if one["level"] == "error"] == []


def test_the_card_of_another_recipe_is_refused(tmp_path: Path) -> None:
    at = folder(tmp_path / "made", compressed(W4A16), recipe_yaml="    GPTQModifier:\n")
    made_from = as_toml(recipe(name="g64", model={"path": str(MODEL)}, weights={**GPTQ, "group_size": 64}))
    sealed = {"sha256": hashlib.sha256(made_from.encode()).hexdigest(), "toml": made_from}
    (at / CARD).write_bytes(orjson.dumps({"recipe": sealed}))
    path = tmp_path / "g128.toml"
    path.write_text(as_toml(recipe(name="g128", hardware="cpu", model={"path": str(MODEL)}, weights=GPTQ)))
    done = run(str(path), "--checkpoint", str(at), "--print")
    assert done.exit_code == 1
    assert "g64 was made from int4:group64 by gptq, and this recipe says int4:group128 by gptq" in done.stderr
    assert "1 reason above" in done.stderr
