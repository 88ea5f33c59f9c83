"""The `parity` command as a person or a service manager runs it: exit codes, messages, and clean ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import orjson
import pytest

from backends.scripted import ScriptedServer
from proxy.monitor.ledger import SqliteLedger
from proxy.settings import LedgerSettings
from proxy.settings_file import load_settings
from scorers.catalogue import SPECS
from tests.unit.monitor_samples import row

pytestmark = pytest.mark.together

PARITY = [sys.executable, "-m", "proxy.cli"]


def parity(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    path = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [*PARITY, *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**env, "PYTHONPATH": path},
        check=False,
    )


def settings(folder: Path, candidate: str, reference: str, more: str = "") -> Path:
    file = folder / "parity.toml"
    file.write_text(
        f'[candidate]\nurl = "{candidate}"\n[reference]\nurl = "{reference}"\n[relay]\nport = 0\n[control]\nport = 0\n'
        f'[feed]\nsocket = "{folder}/feed.sock"\n[ledger]\npath = "{folder}/ledger.sqlite"\n[sampling]\nrate = 1.0\n'
        f"[budgets.tool_call_mismatch]\nlimit = 0.03\ncritical = true\n{more}"
    )
    return file


def test_the_written_settings_pass_their_own_check(tmp_path: Path) -> None:
    assert parity("init-config", "parity.toml", cwd=tmp_path).returncode == 0
    checked = parity("check-config", "parity.toml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "tool_call_mismatch" in checked.stdout
    told = orjson.loads(parity("check-config", "--json", "--traffic", "10", cwd=tmp_path).stdout)
    assert told["settings"]["relay"]["port"] == 8080
    assert told["plan"]["needs"][0]["seconds"] == pytest.approx(told["plan"]["needs"][0]["requests"] / 10)


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "parity.toml").write_text("mine")
    refused = parity("init-config", cwd=tmp_path)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert (tmp_path / "parity.toml").read_text() == "mine"


@pytest.mark.parametrize("command", ["check-config", "serve", "relay", "monitor"])
def test_mistakes_end_with_code_2_and_their_fix(tmp_path: Path, command: str) -> None:
    file = settings(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2", "[mirror]\nnoise_rat = 1.0\n")
    words = [command, str(file)] if command == "check-config" else [command, "--config", str(file)]
    done = parity(*words)
    assert done.returncode == 2
    assert 'mirror.noise_rat: unknown key (did you mean "noise_rate"?)' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_message_keeps_its_brackets(tmp_path: Path) -> None:
    """Rich would take [candidate] for markup and swallow the fix."""
    (tmp_path / "parity.toml").write_text("")
    done = parity("check-config", str(tmp_path / "parity.toml"))
    assert "add [candidate] with url" in done.stderr
    assert "e.g. [budgets.tool_call_mismatch]" in done.stderr


def test_what_is_allowed_and_hardly_meant_is_noted(tmp_path: Path) -> None:
    file = settings(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2", "[mirror]\nnoise_rate = 0.0\n")
    done = parity("check-config", str(file))
    assert done.returncode == 0
    assert "mirror.noise_rate is 0" in done.stdout


def test_weights_that_are_not_there_are_refused_by_the_check_alone(tmp_path: Path) -> None:
    file = settings(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2")
    text = file.read_text()
    for there in (False, True):
        weights = tmp_path if there else tmp_path / "nowhere"
        file.write_text(text.replace("[reference]", f'weights = "{weights}"\n[reference]'))
        done = parity("check-config", str(file))
        assert done.returncode == (0 if there else 2)
        assert ("candidate.weights: there is no" in done.stderr) == (not there)
        load_settings(file, {}, SPECS)  # a relay serves, whatever is mounted


def test_a_redaction_path_that_is_not_understood_is_refused_before_serving(tmp_path: Path) -> None:
    file = settings(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2").read_text()
    (tmp_path / "parity.toml").write_text(file.replace("[sampling]", 'redact = ["messages"]\n[sampling]'))
    done = parity("check-config", str(tmp_path / "parity.toml"))
    assert done.returncode == 2
    assert "ledger.redact" in done.stderr


def test_a_ledger_that_is_none_is_one_line(tmp_path: Path) -> None:
    for name, content in (("absent.sqlite", None), ("text.sqlite", b"this is text" * 100)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for words in (("verdict",), ("verdict", "--explain"), ("export",)):
            done = parity(*words, str(tmp_path / name))
            assert done.returncode == 1
            assert name in done.stderr
            assert "Traceback" not in done.stderr


def test_an_export_is_a_new_file_and_a_reader_that_has_seen_enough_ends_it_cleanly(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with closing(SqliteLedger(LedgerSettings(path=path), is_mismatch=lambda score: False)) as ledger:
        ledger.open_epoch({"recipe": "x"}, "first", 1.0)
        ledger.append([row(n) for n in range(5_000)])
    done = parity("export", str(path), "--format", "csv", "--out", str(tmp_path / "rows.csv"))
    assert (done.returncode, done.stderr) == (0, "5,000 rows\n")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 5_001
    refused = parity("export", str(path), "--out", str(tmp_path / "rows.csv"))
    assert refused.returncode == 1
    assert "exists; give another --out" in refused.stderr
    command = f"{sys.executable} -m proxy.cli export {path} | head -1"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    head = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert (head.returncode, head.stderr) == (0, "")
    assert orjson.loads(head.stdout)["position"] == 0


@pytest.mark.parametrize("words", [("--json",), ("--fault", "flood"), ("--requests", "1")])
def test_demo_words_that_make_no_sense_are_refused(words: tuple[str, ...]) -> None:
    assert parity("demo", *words).returncode == 2


async def _listening(process: asyncio.subprocess.Process) -> dict[str, str]:
    assert process.stdout is not None
    urls: dict[str, str] = {}
    async with asyncio.timeout(30):
        while len(urls) < 2:
            told = orjson.loads(await process.stdout.readline())
            urls[told["role"]] = f"http://{told['host']}:{told['port']}"
    return urls


@pytest.mark.asyncio
async def test_serve_serves_restarts_its_monitor_and_drains(tmp_path: Path) -> None:
    async with ScriptedServer() as candidate, ScriptedServer() as reference, httpx.AsyncClient(timeout=10) as http:
        file = settings(tmp_path, candidate.url, reference.url)
        process = await asyncio.create_subprocess_exec(
            *PARITY, "serve", "--config", str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            urls = await _listening(process)
            body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
            served = await http.post(f"{urls['relay']}/v1/chat/completions", json=body)
            assert served.status_code == 200
            monitor = await _monitor_pid(process.pid)
            os.kill(monitor, signal.SIGKILL)
            assert (await http.post(f"{urls['relay']}/v1/chat/completions", json=body)).status_code == 200
            async with asyncio.timeout(30):
                while True:  # the monitor comes back on the same port, and takes what was sampled meanwhile
                    try:
                        gate = (await http.get(f"{urls['control']}/gate")).json()
                        if gate["coverage"]["sampled"] >= 2:
                            break
                    except httpx.HTTPError:
                        pass  # it is not back yet; the time-out above bounds this
                    await asyncio.sleep(0.1)
            process.terminate()
            async with asyncio.timeout(20):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    file.unlink()  # the ledger alone must do
    done = parity("verdict", str(tmp_path / "ledger.sqlite"), "--json")
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout)["coverage"]["sampled"] == 2


async def _monitor_pid(parent: int) -> int:
    listed = await asyncio.create_subprocess_exec(
        "ps", "-o", "pid=,args=", "--ppid", str(parent), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await listed.communicate()
    return next(int(line.split()[0]) for line in out.decode().splitlines() if " monitor " in line)


def test_a_job_that_asks_the_gate_does_not_load_the_service() -> None:
    """Half of the start-up time was the control port's and the demo's libraries."""
    heavy = ("openai", "fastapi", "uvicorn", "uvloop", "proxy.app", "proxy.demo")
    code = f"import sys, proxy.cli; print([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "[]"
