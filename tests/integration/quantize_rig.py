"""`parity quantize` as people start it, and a stand-in for the quantizing environment's interpreter.

The stand-in speaks the worker's protocol and writes files of a checkpoint's kind; which steps it does, and where it
stops, is in its environment. What the real worker makes is in tests/e2e/test_quantize.py.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

MODEL = Path(__file__).resolve().parents[2] / "backends" / "emulator" / "model"
STOP = "STAND_IN_STOPS_AT"  # the step at which it waits to be ended
CALLS = "STAND_IN_CALLS"  # a file that has a line for each step done

SCRIPT = """\
import hashlib, json, os, pathlib, sys

def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)

def step(name):
    with open(os.environ["STAND_IN_CALLS"], "a") as file:
        file.write(name + "\\n")
    if os.environ.get("STAND_IN_STOPS_AT") == name:
        say("phase", phase="make")
        sys.stdin.read()  # until nobody waits any more, as the real one
        sys.exit(130)

job = json.loads(pathlib.Path(sys.argv[-1]).read_text())
say("versions", versions={"llmcompressor": "stand-in"})
asked = job["calibration"]
if asked and not pathlib.Path(asked["tokens_file"]).exists():
    step("calibrate")
    lines = pathlib.Path(asked["candidates_file"]).read_bytes().splitlines(True)[: asked["samples"]]
    pathlib.Path(asked["chosen_file"]).write_bytes(b"".join(lines))
    pathlib.Path(asked["tokens_file"]).write_text("[[1]]")
    say("calibrated", sha256=hashlib.sha256(b"".join(lines)).hexdigest(), samples=len(lines), tokens=1,
        strata={"0-512/plain": len(lines)}, seconds=1.0)
out = pathlib.Path(job["out"])
if not out.exists():
    step("make")
    aside = out.with_name(out.name + ".writing")
    aside.mkdir()
    model = pathlib.Path(job["model"])
    (aside / "config.json").write_bytes((model / "config.json").read_bytes())
    (aside / "recipe.yaml").write_text("x")
    (aside / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[: 1 << 20])
    aside.rename(out)
    say("made", seconds=2.0)
step("check")
say("checked", tensors=3, scaled_matrices=2, kv_scales=0)
"""


def stand_in(folder: Path) -> Path:
    """The interpreter's path."""
    file = folder / "python"
    file.write_text(f"#!{sys.executable}\n{SCRIPT}")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def recipe(folder: Path, name: str = "gptq", model: Path = MODEL, **weights: Any) -> Path:
    """A recipe file for the shipped model."""
    said = {"format": "int4", "method": "gptq", **weights}
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in said.items())
    file = folder / f"{name}.toml"
    file.write_text(
        f'name = "{name}"\nworkload = "agent"\nhardware = "cpu"\ncontext_tokens = 4096\nconcurrency = 4\n'
        f'[model]\npath = "{model}"\n[weights]\n{table}\n'
    )
    return file


def samples(folder: Path, count: int = 4, word: str = "question") -> Path:
    """A calibration file."""
    file = folder / "samples.jsonl"
    file.write_text("".join(json.dumps({"text": f"{word} {number}"}) + "\n" for number in range(count)))
    return file


def command(folder: Path, *words: object, stop: str = "") -> subprocess.Popen[str]:
    """`parity quantize WORDS`, started; its cache and the stand-in's notes are in `folder`."""
    env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), CALLS: str(folder / "calls"), STOP: stop}
    return subprocess.Popen(
        [sys.executable, "-m", "proxy.cli", "quantize", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip


def done(folder: Path, *words: object) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of one that ran to its end."""
    process = command(folder, *words)
    told, errors = process.communicate(timeout=60)
    return process.returncode, told, errors
