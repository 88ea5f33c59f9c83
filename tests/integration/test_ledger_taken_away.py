"""A full disk or a lock takes the ledger from a running monitor, and gives it back: nothing is lost, nobody notices."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.scripted import Script, ScriptedServer
from proxy.monitor.ledger_reader import open_read_only
from proxy.report.recompute import recompute
from tests.integration.system_rig import Caller, Program, program, until, write_settings
from tests.integration.traffic_rig import Traffic, answers, ask, traffic

MIRROR = "[mirror]\nneedle_rate = 0.3\n"


class Disk:
    """A file system of its own, soon full."""

    through: tuple[str, ...] = ()
    words = "the disk is full; free some space, or lower ledger.max_bytes"

    @contextmanager
    def place(self, folder: Path) -> Iterator[Path]:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "parity-test", str(folder)], check=True)
        self._folder = folder
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    def begin(self, monitor: Program) -> None: ...

    def end(self, monitor: Program) -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(self._folder)], check=True)


class Quota:
    """A limit on the size of the monitor's files, which is met in the middle of a page."""

    through = ("prlimit", "--fsize=250001:unlimited")
    words = "check the disk's space and health"

    @contextmanager
    def place(self, folder: Path) -> Iterator[Path]:
        yield folder

    def begin(self, monitor: Program) -> None: ...

    def end(self, monitor: Program) -> None:
        resource.prlimit(monitor.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Shell:
    """Somebody's open transaction."""

    through: tuple[str, ...] = ()
    words = "another program holds it locked; close that one"

    @contextmanager
    def place(self, folder: Path) -> Iterator[Path]:
        self._folder = folder
        yield folder

    def begin(self, monitor: Program) -> None:
        self._shell = sqlite3.connect(self._folder / "ledger.sqlite", isolation_level=None)
        self._shell.execute("BEGIN IMMEDIATE")

    def end(self, monitor: Program) -> None:
        self._shell.close()


def may_mount() -> bool:
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return os.getuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "trouble",
    [pytest.param(Disk(), marks=pytest.mark.skipif(not may_mount(), reason="may not mount")), Quota(), Shell()],
    ids=["disk", "quota", "shell"],
)
async def test_what_is_sampled_meanwhile_is_written_afterwards(trouble: Disk | Quota | Shell, tmp_path: Path) -> None:
    script = Script(fresh_sampling=False)
    async with ScriptedServer(script) as candidate, ScriptedServer(script) as reference:
        with trouble.place(tmp_path) as folder:
            config = write_settings(folder, candidate.url, reference.url, rate=1.0, more=MIRROR)
            async with (
                program("relay", config) as relay,
                program("monitor", config, through=trouble.through) as monitor,
                traffic(relay.port, candidate) as sent,
            ):
                gate = await _through(trouble, monitor, sent)
            alone = recompute(folder / "ledger.sqlite")
            live = [row.sequence for row in open_read_only(folder / "ledger.sqlite").rows(1) if row.kind == "live"]
    assert orjson.loads(orjson.dumps(alone)) == gate
    assert sorted(live) == list(range(sent.sampled))
    assert not any("Traceback" in line for line in monitor.errors), monitor.errors


async def _through(trouble: Disk | Quota | Shell, monitor: Program, sent: Traffic) -> Any:
    """The last answer of `/gate`, after the ledger was away and came back."""
    control = Caller(monitor.port)
    await answers(control, "/gate", lambda told: told["coverage"]["sampled"] > 0)
    trouble.begin(monitor)
    gate = await answers(control, "/gate", lambda told: failing(told), 60.0)
    assert gate["verdict"] == "inconclusive"
    assert trouble.words in failing(gate)
    assert not (await ask(control, "/readyz"))["conditions"]["ledger_writable"]
    before = sent.served
    await until(lambda: sent.served >= before + 60)
    sent.check()
    still = await ask(control, "/gate")
    assert failing(still)
    assert still["coverage"] == gate["coverage"]  # evidence is what is durable

    trouble.end(monitor)
    await answers(control, "/gate", lambda told: not failing(told))
    await sent.stop()
    gate = await answers(control, "/gate", lambda told: told["coverage"]["sampled"] >= sent.sampled, 60.0)
    await answers(control, "/state", lambda told: not (told["order"]["unreleased"] + told["ledger"]["waiting_rows"]))
    state = await ask(control, "/state")
    assert state["ledger"]["errors"] > 0
    assert state["ledger"]["rows_dropped"] == 0
    return await ask(control, "/gate")


def failing(gate: dict[str, Any]) -> str:
    """What the verdict says of a ledger that cannot be written; empty when it can."""
    return next((reason for reason in gate["reasons"] if "the ledger cannot be written" in reason), "")
