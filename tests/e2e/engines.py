"""Real engines for the end-to-end tests: a checkpoint made by llm-compressor, and vLLM servers on free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".e2e"
MODEL = ROOT / "backends" / "emulator" / "model"
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
QUANTIZE_PYTHON = ROOT / ".venv-quantize" / "bin" / "python"

START_TIMEOUT_S = 240.0  # choice: 15 to 30 s each when alone; two at once on two busy cores take longer

OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


@dataclass(frozen=True)
class Engine:
    """A vLLM server that runs."""

    name: str
    url: str
    log: Path


def quantize_w4a16(model: Path, name: str) -> Path:
    """The directory of a fresh W4A16 checkpoint of `model`."""
    target = WORK / name
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("quantize_w4a16.py")
    done = subprocess.run(
        [str(QUANTIZE_PYTHON), str(script), str(model), str(target)],
        capture_output=True,
        text=True,
        env={**os.environ, **OFFLINE},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"llm-compressor failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return target


@contextmanager
def vllm_servers(models: dict[str, Path], max_model_len: int, flags: Sequence[str] = ()) -> Iterator[dict[str, Engine]]:
    """One vLLM server per name, all started at once, ready when this yields, ended when it closes; `flags` are told to
    each."""
    WORK.mkdir(parents=True, exist_ok=True)
    started: dict[str, tuple[Engine, subprocess.Popen[bytes]]] = {}
    try:
        for name, model in models.items():
            started[name] = _start(name, model, max_model_len, flags)
        deadline = time.monotonic() + START_TIMEOUT_S
        for engine, process in started.values():
            _await_ready(engine, process, deadline)
        yield {name: engine for name, (engine, _) in started.items()}
    finally:
        for _, process in started.values():
            process.terminate()
        for _, process in started.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)


def free_port() -> int:
    """A port that was free a moment ago; vLLM cannot choose its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(name: str, model: Path, max_model_len: int, flags: Sequence[str]) -> tuple[Engine, subprocess.Popen[bytes]]:
    port = free_port()
    log = WORK / f"vllm-{name}.log"
    argv = [str(VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(model), "--served-model-name", "parity-tiny"]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(max_model_len)]
    argv += [
        "--dtype",
        "bfloat16",
        "--enforce-eager",
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
        *flags,
    ]
    with log.open("wb") as sink:
        process = subprocess.Popen(argv, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **OFFLINE})
    return Engine(name, f"http://127.0.0.1:{port}", log), process


def _await_ready(engine: Engine, process: subprocess.Popen[bytes], deadline: float) -> None:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"vLLM {engine.name} ended with {process.returncode}:\n{_tail(engine.log)}")
        try:
            if httpx.get(f"{engine.url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)  # polling a child process for readiness, bounded by the deadline
    raise AssertionError(f"vLLM {engine.name} was not ready in {START_TIMEOUT_S:g} s:\n{_tail(engine.log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
