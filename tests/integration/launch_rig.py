"""`parity launch` over real processes: a module named vllm whose engine is the scripted server.

A file in the model's folder tells it what to do beside serving. The rest is the product: guards, sessions, ports, HTTP.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from backends.emulator.server import MODEL
from backends.recipes.written import as_toml
from proxy.launch_command.guard import in_session
from tests.unit.checkpoint_rig import W4A16, compressed, folder
from tests.unit.recipe_rig import recipe

DEADLINE_S = 60.0
GPTQ = {"format": "int4", "method": "gptq"}

# What the module does: `acts` in rig.json of the model's folder, by key, in this order.
ENGINE = """
import json, os, pathlib, signal, subprocess, sys, threading, time
given = dict(zip(sys.argv[1::1], sys.argv[2::1]))
folder = pathlib.Path(given["--model"])
acts = json.loads((folder / "rig.json").read_text()) if (folder / "rig.json").exists() else {}
if "child" in acts:  # what vLLM's core is to vLLM: it outlives a parent that was killed, and hears no SIGTERM
    subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
if "prints" in acts:
    print(acts["prints"], file=sys.stderr, flush=True)
if "exits" in acts:
    os._exit(acts["exits"])
if "kills_itself" in acts:
    os.kill(os.getpid(), acts["kills_itself"])
if "deaf" in acts:
    time.sleep(600)
def dies():
    while not os.path.exists(acts["dies_at"]):
        time.sleep(0.05)
    print("RuntimeError: CUDA out of memory. Tried to allocate", file=sys.stderr, flush=True)
    os._exit(5)
if "dies_at" in acts:
    threading.Thread(target=dies, daemon=True).start()
from backends.scripted.__main__ import parse, run
import asyncio
length = str(acts.get("max_model_len", given["--max-model-len"]))
words = ["--port", given["--port"], "--model", given["--served-model-name"], "--max-model-len", length]
asyncio.run(run(*parse(words)))
"""


def free_ports() -> tuple[int, int]:
    """Two ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


@dataclass
class Launched:
    """A `parity launch` that runs."""

    process: subprocess.Popen[str]
    stderr: Path
    lines: list[str] = field(default_factory=list)

    def until_ready(self) -> dict[str, str]:
        """The urls by side, once it has printed them."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            self.lines.append(line)
            if line.startswith("candidate "):
                return dict(one.split() for one in self.lines)
        raise AssertionError(f"it ended with {self.process.wait()}: {self.told()}")

    def end(self) -> int:
        """The exit code, once it is gone by itself."""
        return self.process.wait(DEADLINE_S)

    def told(self) -> str:
        """What it wrote to stderr so far."""
        return self.stderr.read_text()

    def sessions(self) -> list[int]:
        """The engines' sessions, in the order of their starts."""
        return [int(number) for number in re.findall(r"started, process (\d+)", self.told())]

    def left(self) -> list[int]:
        """Processes of any engine that still run."""
        return [pid for session in self.sessions() for pid in in_session(session)]


class Place:
    """A folder with two models, a recipe, and the module."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.ports = free_ports()
        self.reference = at / "bf16"
        shutil.copytree(MODEL, self.reference, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
        (self.reference / "model.safetensors").symlink_to(MODEL / "model.safetensors")
        self.candidate = folder(at / "w4a16", compressed(W4A16))
        module = at / "modules" / "vllm" / "entrypoints" / "openai"
        module.mkdir(parents=True)
        for package in (module, module.parent, module.parent.parent):
            (package / "__init__.py").touch()
        (module / "api_server.py").write_text(ENGINE)
        self.recipe = self.write("cpu")

    def write(self, hardware: str, **changed: Any) -> Path:
        """The recipe's file: the shipped model's W4A16."""
        path = self.at / f"{hardware}.toml"
        axes: dict[str, Any] = {"weights": GPTQ, "context_tokens": 2048, "model": {"path": str(self.reference)}}
        path.write_text(as_toml(recipe(hardware=hardware, **axes, **changed)))
        return path

    def acts(self, side: str, **acts: Any) -> None:
        """What that side's engine will do beside serving."""
        (getattr(self, side) / "rig.json").write_bytes(orjson.dumps(acts))

    @contextmanager
    def launch(self, *words: str, recipe: Path | None = None) -> Iterator[Launched]:
        """Runs it; at the end nothing of it runs any more, whatever the test found."""
        sides = ("--checkpoint", str(self.candidate), "--reference", str(self.reference))
        ports = ("--candidate-port", str(self.ports[0]), "--reference-port", str(self.ports[1]))
        python = ("--python", sys.executable, "--logs", str(self.at / "logs"))
        path = os.pathsep.join([str(self.at / "modules"), *filter(None, sys.path)])
        stderr = self.at / "stderr.txt"
        command = [sys.executable, "-m", "proxy.cli", "launch", str(recipe or self.recipe), *sides, *ports, *python]
        with stderr.open("w") as sink:
            process = subprocess.Popen(
                [*command, *words],
                stdout=subprocess.PIPE, stderr=sink, text=True,
                env={**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200"},
            )  # fmt: skip
        launched = Launched(process, stderr)
        try:
            yield launched
        finally:
            process.kill()
            process.wait()
            for pid in launched.left():
                os.kill(pid, signal.SIGKILL)
            assert process.stdout is not None
            process.stdout.close()


def until(seen: Callable[[], bool], what: str) -> None:
    """Looks again and again until it is seen, up to the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not seen():
        assert time.monotonic() < deadline, f"not seen in {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)  # between two looks at other processes; nothing waits for its length
