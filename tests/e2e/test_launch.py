"""`parity launch` on a real vLLM: its own parser reads every command, both arms are served, crashes have a cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from backends.recipes.command_line import Arm, Common, command
from backends.recipes.placement import Placed
from backends.recipes.reading import load_recipe
from backends.recipes.recipe import Recipe
from backends.recipes.tool_parsers import PARSERS
from backends.recipes.written import as_toml
from proxy.settings_file import load_settings
from scorers.catalogue import SPECS
from tests.e2e.engines import MODEL, OFFLINE, ROOT, VLLM_PYTHON, free_port, quantize_w4a16
from tests.integration.launch_rig import Launched
from tests.unit.recipe_rig import FP8, recipe

RTN = {"format": "int4", "method": "rtn"}
EXAMPLES = sorted((ROOT / "docs" / "recipes").glob("*.toml"))

READ_ALL = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
read = [vars(parser.parse_args(words)) for words in json.loads(sys.stdin.read())]
keys = ("model_tag", "model", "max_model_len", "max_num_seqs", "kv_cache_dtype", "attention_backend", "quantization",
        "kv_cache_dtype_skip_layers", "enable_prefix_caching")
print(json.dumps({"read": [{key: one.get(key) for key in keys} for one in read],
                  "parsers": sorted(ToolParserManager.list_registered())}, default=str))
"""


def every_command() -> list[tuple[Recipe, str, list[str]]]:
    """Both arms of every example, and of recipes with the flags that these lack."""
    more = [
        recipe(kv_cache={"format": "fp8-e5m2", "skipped_layers": ["0", "79"]}),
        recipe(kv_cache={"format": "int8", "per": "token-head"}),
        recipe(kv_cache={"format": "int4", "per": "token-head"}),
        recipe(hardware="b200", kv_cache={"format": "nvfp4"}),
        recipe(kv_cache={**FP8, "per": "head"}, attention_backend="FLASH_ATTN"),
        recipe(hardware="cpu", kv_cache={**FP8, "per": "one"}),
        recipe(weights={**FP8, "method": "online"}, activations=FP8),
        recipe(weights={**FP8, "per": "tensor", "method": "online"}, activations=FP8),
        recipe(hardware="b200", weights={"format": "mxfp8", "method": "online"}, activations={"format": "mxfp8"}),
    ]
    found = []
    for chosen in [*(load_recipe(path) for path in EXAMPLES), *more]:
        placed = Placed(None, 0.45, None, 1) if chosen.card.rates else Placed(None, None, 2**30, 1)
        common = Common(chosen, "m", "127.0.0.1", "hermes", 20)
        for side, own in (("candidate", chosen), ("reference", chosen.reference())):
            one = command(Arm(side, own, "/models/m", 8001, placed), common)  # type: ignore[arg-type]
            found.append((chosen, side, one.argv(["vllm", "serve"])[2:]))
    return found


def test_vllms_own_parser_reads_every_command_as_it_is_meant() -> None:
    commands = every_command()
    done = subprocess.run(
        [str(VLLM_PYTHON), "-c", READ_ALL], input=json.dumps([words for _, _, words in commands]),
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **OFFLINE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert set(told["parsers"]) >= PARSERS
    for (chosen, side, words), read in zip(commands, told["read"], strict=True):
        assert read["max_model_len"] == chosen.context_tokens
        assert read["max_num_seqs"] == chosen.concurrency
        assert read["model_tag"] == "/models/m"
        assert read["enable_prefix_caching"] in ((False,) if side == "reference" else (None, True))
        assert read["kv_cache_dtype"] == words[words.index("--kv-cache-dtype") + 1]
        for key in ("attention_backend", "quantization"):
            flag = f"--{key.replace('_', '-')}"
            assert (words[words.index(flag) + 1] in str(read[key])) if flag in words else read[key] is None
        if side == "candidate" and chosen.kv_cache.skipped_layers:
            assert read["kv_cache_dtype_skip_layers"] == list(chosen.kv_cache.skipped_layers)


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return quantize_w4a16(MODEL, "launch-w4a16")


def written(folder: Path, **axes: Any) -> Path:
    path = folder / "recipe.toml"
    around = {"hardware": "cpu", "context_tokens": 4096, "concurrency": 4, "workload": "agent"}
    path.write_text(as_toml(recipe(**{**around, "model": {"path": str(MODEL)}, "weights": RTN, **axes})))
    return path


@contextmanager
def launched(folder: Path, *words: str) -> Iterator[Launched]:
    stderr = folder / "stderr.txt"
    with stderr.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy.cli", "launch", *words, "--python", str(VLLM_PYTHON),
             "--logs", str(folder / "logs")],
            stdout=subprocess.PIPE, stderr=sink, text=True, cwd=ROOT, env={**os.environ, **OFFLINE, "NO_COLOR": "1"},
        )  # fmt: skip
    running = Launched(process, stderr)
    try:
        yield running
    finally:
        process.terminate()
        process.wait(60)
        for pid in running.left():
            os.kill(pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()


def test_both_arms_of_a_recipe_are_served_and_ended(checkpoint: Path, tmp_path: Path) -> None:
    config = tmp_path / "parity.toml"
    """The candidate's cache is FP8 too, so that the flags for it are served, and seen over HTTP."""
    chosen = written(tmp_path, kv_cache={**FP8, "per": "one"}, attention_backend="CPU_ATTN")
    words = (str(chosen), "--checkpoint", str(checkpoint), "--reference", str(MODEL))
    ports = ("--candidate-port", str(free_port()), "--reference-port", str(free_port()))
    with launched(tmp_path, *words, *ports, "--config-out", str(config), "--served-model-name", "tiny") as running:
        urls = running.until_ready()
        weather = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": weather}}
        question = {
            "model": "tiny", "messages": [{"role": "user", "content": "What is the weather in Oslo?"}], "tools": [tool],
            "temperature": 0, "max_tokens": 64, "logprobs": True, "top_logprobs": 20,
        }  # fmt: skip
        for side, url in urls.items():
            reply = httpx.post(f"{url}/v1/chat/completions", json=question, timeout=60)
            assert reply.status_code == 200, reply.text
            assert len(reply.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) >= 20
            metrics = httpx.get(f"{url}/metrics", timeout=30).text
            assert f'cache_dtype="{"fp8_e4m3" if side == "candidate" else "bfloat16"}"' in metrics
            assert f'enable_prefix_caching="{side == "candidate"}"' in metrics
            (card,) = httpx.get(f"{url}/v1/models").json()["data"]
            assert card["root"] == str(checkpoint if side == "candidate" else MODEL)
        assert len(running.left()) >= 8, "a guard, a server, a core and a worker for each arm"
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.told()
        assert running.left() == []
        told = [line.split(":")[0] for line in running.told().splitlines() if line.startswith("warning")]
        assert sorted(told) == ["warning kv_cache.format", "warning kv_cache.per", "warning weights.method"], (
            "the recipe's own, and nothing that is served otherwise than asked"
        )
    settings = load_settings(config, {}, SPECS).settings
    assert (settings.candidate.url, settings.reference.url) == (urls["candidate"], urls["reference"])


@pytest.mark.parametrize(
    ("words", "changed", "says", "fix"),
    [
        (("--tool-call-parser", "moon"), {}, 'this vLLM has no tool parser "moon"', "--tool-call-parser NAME"),
        ((), {"architectures": ["MoonForCausalLM"]}, "does not know", "a newer vLLM"),
    ],
)
def test_a_real_crash_has_its_cause(
    words: tuple[str, ...], changed: dict[str, Any], says: str, fix: str, checkpoint: Path, tmp_path: Path
) -> None:
    """One arm, which ends before it has loaded anything."""
    at = tmp_path / "checkpoint"
    at.mkdir()
    for file in checkpoint.iterdir():
        (at / file.name).symlink_to(file)
    config = orjson.loads((at / "config.json").read_bytes())
    (at / "config.json").unlink()
    (at / "config.json").write_bytes(orjson.dumps({**config, **changed}))
    port = ("--candidate-port", str(free_port()))
    with launched(tmp_path, str(written(tmp_path)), "--checkpoint", str(at), *port, *words) as running:
        assert running.process.wait(120) == 1
        told = running.told()
        assert "the candidate ended before it was ready, exit code" in told
        assert says in told
        assert f"-> {fix}" in told
        assert running.left() == []


def test_a_real_checkpoint_that_is_not_its_recipe_starts_nothing(checkpoint: Path, tmp_path: Path) -> None:
    gptq = written(tmp_path, weights={"format": "int4", "method": "gptq", "group_size": 64})
    with launched(tmp_path, str(gptq), "--checkpoint", str(checkpoint)) as running:
        assert running.process.wait(60) == 1
        told = running.told()
        assert "the recipe says groups of 64; the checkpoint's have 128" in told
        assert "the recipe says gptq; the checkpoint's own files say rtn" in told
        assert running.sessions() == []
