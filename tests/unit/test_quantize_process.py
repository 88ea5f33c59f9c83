"""The process in the quantizing environment: heard, ended by its id, and its failures told with the end of its log."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.quantize_command.process import WorkerError, run


def stand_in(folder: Path, script: str) -> Path:
    """An interpreter that does what `script` says, whatever it is asked to run."""
    file = folder / "python"
    file.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def heard(python: Path, tmp_path: Path) -> list[Mapping[str, Any]]:
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"engine": "llmcompressor", "calibration": None}))
    found: list[Mapping[str, Any]] = []
    run(python, job, tmp_path / "worker.log", found.append)
    return found


def test_each_line_is_heard_and_noise_is_not(tmp_path: Path) -> None:
    script = 'print(json.dumps({"event": "one"})); print("noise"); print(json.dumps({"event": "two", "x": 1}))'
    assert heard(stand_in(tmp_path, script), tmp_path) == [{"event": "one"}, {"event": "two", "x": 1}]


def test_a_refusal_is_the_workers_own_sentence(tmp_path: Path) -> None:
    script = 'print(json.dumps({"event": "refused", "why": "too few; ask for fewer"})); sys.exit(3)'
    with pytest.raises(WorkerError, match=r"^too few; ask for fewer$"):
        heard(stand_in(tmp_path, script), tmp_path)


def test_a_failure_shows_the_end_of_the_log_and_names_the_file(tmp_path: Path) -> None:
    script = 'print("\\n".join(f"line {n}" for n in range(50)), file=sys.stderr); sys.exit(7)'
    with pytest.raises(WorkerError) as raised:
        heard(stand_in(tmp_path, script), tmp_path)
    told = str(raised.value)
    assert "exit code 7" in told
    assert str(tmp_path / "worker.log") in told
    assert "line 49" in told
    assert "line 29" not in told


def test_killed_for_memory_is_said(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="want of memory"):
        heard(stand_in(tmp_path, "os.kill(os.getpid(), 9)"), tmp_path)


def test_no_interpreter_is_said(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot be started"):
        heard(tmp_path / "none", tmp_path)


def test_this_environment_has_no_llm_compressor_and_the_real_worker_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="has no llmcompressor"):
        heard(Path(sys.executable), tmp_path)


def test_a_ctrl_c_ends_the_worker(tmp_path: Path) -> None:
    pid: list[int] = []

    def hear(told: Mapping[str, Any]) -> None:
        pid.append(told["pid"])
        signal.raise_signal(signal.SIGINT)

    script = 'print(json.dumps({"event": "begun", "pid": os.getpid()}), flush=True); time.sleep(600)'
    job = tmp_path / "job.json"
    job.write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        run(stand_in(tmp_path, script), job, tmp_path / "worker.log", hear)
    with pytest.raises(ProcessLookupError):
        os.kill(pid[0], 0)


def test_the_real_worker_ends_when_nobody_waits_any_more(tmp_path: Path) -> None:
    """Its stdin closes when we are gone, however we went."""
    import subprocess

    import backends
    from proxy.quantize_command.process import BOOT

    root = Path(backends.__file__).resolve().parents[1]
    held, closing = os.pipe()
    job = tmp_path / "job"
    os.mkfifo(job)  # reading it blocks, so the worker is in the middle of its work
    process = subprocess.Popen([sys.executable, "-c", BOOT, str(root), str(job)], stdin=held, stdout=subprocess.DEVNULL)
    os.close(held)
    threading.Timer(0.0, os.close, (closing,)).start()
    assert process.wait(timeout=60) == 130
