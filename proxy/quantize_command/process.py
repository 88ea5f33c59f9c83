"""The process in the quantizing environment: started, listened to, ended by its process id."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import backends
from proxy.errors import ParityError

# This project's own folder is on the path only while the worker's files are imported, which need but each other:
# an installed parity has its dependencies beside it, and those are not the quantizing environment's.
BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from backends.checkpoints.worker.__main__ import main; "
    "sys.path.remove(sys.argv[1]); sys.exit(main(sys.argv[2:]))"
)
LOG_TAIL_LINES = 20  # *choice*: a traceback's end
END_TIMEOUT_S = 10.0  # *choice*: the worker holds nothing that it would have to put in order

# Nothing is fetched, and nobody is told.
QUIET = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1",
}  # fmt: skip

OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of this interpreter, and wrong for the other one

Hear = Callable[[Mapping[str, Any]], None]


class WorkerError(ParityError):
    """The worker ended without having done its job; str() has the end of its log, and where the whole is."""


def run(python: Path, job: Path, log: Path, hear: Hear) -> None:
    """Does the job; `hear` is given each line that the worker tells. A Ctrl-C, as any other end, ends the worker too.

    Raises:  WorkerError.
    """
    root = Path(backends.__file__).resolve().parents[1]
    refused = None
    with log.open("ab") as sink:
        try:
            process = subprocess.Popen(
                [str(python), "-c", BOOT, str(root), str(job)],
                stdin=subprocess.PIPE,  # held open: the worker ends when it closes, whatever becomes of us
                stdout=subprocess.PIPE,
                stderr=sink,
                env={key: value for key, value in os.environ.items() if key not in OURS} | QUIET,
                start_new_session=True,  # the terminal's Ctrl-C is for us, and we end it
            )
        except OSError as error:
            raise WorkerError(f"{python} cannot be started: {error.strerror or error}") from error
        try:
            assert process.stdout is not None
            for line in process.stdout:
                with suppress(ValueError):  # a library that writes where it should not, past the worker's own guard
                    told = json.loads(line)
                    refused = told["why"] if told["event"] == "refused" else refused
                    hear(told)
            code = process.wait()
        finally:
            _end(process)
    if refused is not None:
        raise WorkerError(refused)
    if code != 0:
        raise WorkerError(f"the worker ended with {_told(code)}. {_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _told(code: int) -> str:
    if code == -9:
        return "signal 9: most likely the kernel's, for want of memory"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    last = [line for line in lines if line.strip()][-LOG_TAIL_LINES:]
    return f"The end of its log, {log}:\n" + "\n".join(f"  {line}" for line in last)
