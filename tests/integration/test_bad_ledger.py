"""A ledger that cannot be used, or not any more: one line that names the fix, and clients that do not notice."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.scripted import Script, ScriptedServer
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.ledger_file import SCHEMA_VERSION
from proxy.monitor.ledger_reader import open_read_only
from proxy.monitor.watch import gate_of
from proxy.settings import LedgerSettings
from scorers.judge import Budget, GateRules
from tests.integration.system_rig import Caller, until, write_settings
from tests.integration.traffic_rig import answers, traffic
from tests.unit.monitor_samples import is_mismatch, row

pytestmark = pytest.mark.together

REPO = Path(__file__).resolve().parents[2]
CONTRACT = {"gate": gate_of([Budget("tool_call_mismatch", 0.03, bounded=True, critical=True)], GateRules())}


def opened(path: Path) -> SqliteLedger:
    return SqliteLedger(LedgerSettings(path=path), is_mismatch=is_mismatch)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger that could be used, where `write_settings` says."""
    path = tmp_path / "ledger.sqlite"
    with closing(opened(path)) as made:
        made.open_epoch(CONTRACT, "first", 1.0)
        made.append([row(n) for n in range(300)])
    return path


def said(words: list[str], code: int = 1) -> str:
    """What a command that ends with this code says: one line on stderr."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=REPO,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "WARNING" not in line]
    assert len(lines) <= 1, lines
    return "".join(lines)


def verdict(path: Path, code: int = 1) -> str:
    return said(["-m", "proxy.cli", "verdict", str(path), "--json"], code)


def monitor(path: Path) -> str:
    config = write_settings(path.parent, "http://127.0.0.1:1", "http://127.0.0.1:2", rate=1.0)
    return said(["-m", "proxy.cli", "monitor", "--config", str(config)])


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(statement)
        raw.commit()


def of_another_version(path: Path) -> None:
    change(path, "PRAGMA user_version = 99")


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def of_something_else(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE t (x)")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (of_another_version, ("version 99", "move the file away")),
        (cut_short, ("corrupt", "restore it from a copy")),
        (of_something_else, ("something else", "ledger.path")),
        (a_folder, ("is a directory", "ledger.path")),
    ],
)
def test_a_ledger_that_cannot_be_used(ledger: Path, spoil: Callable[[Path], None], words: tuple[str, ...]) -> None:
    spoil(ledger)
    for told in (verdict(ledger), monitor(ledger)):
        assert told.startswith("error: ledger ")
        assert str(ledger) in told
        for word in words:
            assert word in told


def test_a_ledger_that_misses_a_row_has_no_verdict(ledger: Path) -> None:
    change(ledger, "DELETE FROM exchanges WHERE position = 150")
    told = verdict(ledger)
    assert "corrupt (300 rows were written and 299 are there); restore it from a copy" in told


def test_a_ledger_that_another_monitor_writes_can_be_read_and_not_written(ledger: Path) -> None:
    with closing(opened(ledger)):
        assert f"another monitor (pid {os.getpid()}) is writing it" in monitor(ledger)
        assert verdict(ledger, code=0) == ""


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_ledger_that_a_shell_holds_locked(ledger: Path, exclusive: bool) -> None:
    with closing(sqlite3.connect(ledger, isolation_level=None)) as shell:
        if exclusive:
            shell.execute("PRAGMA locking_mode = EXCLUSIVE")
        shell.execute("BEGIN EXCLUSIVE")
        assert "another program holds it locked; close that one" in monitor(ledger)
        if exclusive:
            assert "another program holds it locked; close that one" in verdict(ledger)
        else:
            assert verdict(ledger, code=0) == ""  # a writer does not stop a reader


NOBODY = """
import encodings.idna, os, sys  # what is imported late nobody could read where it lies
from proxy import app, cli
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv = ["parity", *sys.argv[1:]]
cli.main()
"""


@pytest.fixture
def public(ledger: Path) -> Iterator[Path]:
    """The ledger in a folder that anybody may read (pytest's own are private)."""
    folder = Path(tempfile.mkdtemp(prefix="parity-"))
    folder.chmod(0o755)
    copy = folder / "ledger.sqlite"
    shutil.copy(ledger, copy)
    copy.chmod(0o444)
    yield copy
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("folder_mode", [0o777, 0o755])
def test_a_ledger_that_this_user_may_only_read(public: Path, folder_mode: int) -> None:
    config = write_settings(public.parent, "http://127.0.0.1:1", "http://127.0.0.1:2", rate=1.0)
    config.chmod(0o644)
    public.parent.chmod(folder_mode)
    assert said(["-c", NOBODY, "verdict", str(public), "--json"], code=0) == ""
    told = said(["-c", NOBODY, "monitor", "--config", str(config)])
    assert ("read-only for this user" if folder_mode == 0o777 else "that this user may write") in told
    assert "ledger.path" in told


@pytest.mark.asyncio
async def test_serve_serves_beside_a_ledger_of_another_version_and_goes_on_once_it_is_put_right(ledger: Path) -> None:
    of_another_version(ledger)
    script = Script(fresh_sampling=False)
    async with ScriptedServer(script) as candidate, ScriptedServer(script) as reference:
        config = write_settings(ledger.parent, candidate.url, reference.url, rate=1.0)
        async with served(config) as (ports, log), traffic(await ports["relay"], candidate) as sent:
            async with asyncio.timeout(30):
                while sum("has version 99" in line for line in log) < 2:  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.05)
            sent.check()
            assert sent.served
            change(ledger, f"PRAGMA user_version = {SCHEMA_VERSION}")
            control = Caller(await asyncio.wait_for(ports["control"], 30))
            await sent.stop()
            await answers(control, "/gate", lambda told: told["epoch"] == 2)  # other arms than the ledger's
            await until(lambda: len(numbers(ledger)) >= 300 + sent.sampled)
    assert numbers(ledger) == sorted([*range(300), *range(sent.sampled)])  # what was there, and all that the relay kept
    assert not any("Traceback" in line for line in log)


def numbers(ledger: Path) -> list[int]:
    reader = open_read_only(ledger)
    return sorted(row.sequence for epoch in (1, 2) for row in reader.rows(epoch) if row.kind == "live")


@asynccontextmanager
async def served(config: Path) -> AsyncIterator[tuple[dict[str, asyncio.Future[int]], list[str]]]:
    """`parity serve`: its ports once they listen, and its log as it grows."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--log-level", "warning"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ports = {role: asyncio.get_running_loop().create_future() for role in ("relay", "control")}
    log: list[str] = []

    async def listen(stream: Any) -> None:
        while line := await stream.readline():
            told = orjson.loads(line)
            ports[told["role"]].set_result(told["port"])

    async def keep(stream: Any) -> None:
        while line := await stream.readline():
            log.append(line.decode())

    reading = [asyncio.ensure_future(listen(process.stdout)), asyncio.ensure_future(keep(process.stderr))]
    try:
        yield ports, log
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()
        await asyncio.gather(*reading)
