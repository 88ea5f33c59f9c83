"""deploy/systemd/parity.service: what systemd itself says of it, and what must not stand in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.deploy_files import DEPLOY, PROGRAM, unit

UNIT = DEPLOY / "systemd" / "parity.service"
MAX_EXPOSURE = 1.5  # choice; systemd 252 says 1.4, of which 0.9 is that it serves a network


def analyzed(text: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says of a unit whose program is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze (Debian: systemd) is not installed")
    file = folder / "parity.service"
    file.write_text(text.replace(PROGRAM, shutil.which("true") or "/bin/true"))
    command = ["systemd-analyze", *words, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_systemd_takes_it_without_a_word(tmp_path: Path) -> None:
    done = analyzed(UNIT.read_text(), tmp_path, "verify")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("ProtectSystem=strict", "ProtectSytem=strict"),
        ("KillMode=mixed", "KillMode=mixt"),
        ("TimeoutStopSec=60", "TimeoutStopSec=soon"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@sytem-service"),
        ("[Service]", "[Servce]"),
    ],
)
def test_a_planted_mistake_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    assert right in UNIT.read_text()
    done = analyzed(UNIT.read_text().replace(right, wrong, 1), tmp_path, "verify")
    assert wrong.strip("[]").split("=")[-1] in done.stderr or wrong.split("=")[0] in done.stderr, done.stderr


def test_its_exposure_is_low(tmp_path: Path) -> None:
    done = analyzed(UNIT.read_text(), tmp_path, "security", "--offline=true", "--no-pager")
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert float(level[1]) <= MAX_EXPOSURE
    told = re.search(r"rates its exposure ([\d.]+) of 10", (DEPLOY / "README.md").read_text())
    assert told
    assert level[1] == told[1] or "252" not in _version()


def _version() -> str:
    return subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout


def test_nothing_but_the_settings_keeps_clients_from_being_served() -> None:
    assert "ExecStartPre" not in unit()  # check-config refuses what only the monitor misses, a damaged ledger among it
    assert unit()["Restart"] == ["on-failure"]
    assert unit()["RestartPreventExitStatus"] == ["2"]  # parity's code for settings that are wrong
    assert unit()["KillMode"] == ["mixed"]  # the supervisor drains the relays before it ends the monitor
