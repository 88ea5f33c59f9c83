"""What the demo stands on: two scripted engines in this process, and `parity serve` as it is run in production."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from backends.scripted import Script, ScriptedServer
from proxy.errors import SupervisorError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
KEPT_LINES = 40  # of the proxy's log, for the error when it does not start

# A demo has minutes, not days: everything is mirrored, and every coin falls often.
SETTINGS = """\
[candidate]
url = "{candidate}"
[reference]
url = "{reference}"
teacher_forcing = true
[relay]
port = 0
drain_timeout_s = 5.0
[sampling]
rate = 1.0
large_body_rate = 1.0
[feed]
socket = "{folder}/feed.sock"
[mirror]
noise_rate = 1.0
replay_rate = 1.0
needle_rate = 1.0
teacher_forced_rate = 0.1
timeout_s = 60.0
late_after_s = 120.0
[ledger]
path = "{ledger}"
[control]
port = 0
[gate]
recipe = "demo"
[budgets.tool_call_mismatch]
limit = 0.05
slack = 0.05
critical = true
[budgets.tool_schema_failure]
limit = 0.05
slack = 0.05
[budgets.needle_recall_loss]
limit = 0.1
slack = 0.1
critical = true
[budgets.copy_recall_loss]
limit = 0.1
slack = 0.1
critical = true
[budgets.logprob_tv]
limit = 0.1
slack = 0.1
critical = true
[budgets.logprob_kl]
limit = 0.05
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs while the demo does."""

    candidate: ScriptedServer
    reference: ScriptedServer
    relay_url: str
    control_url: str

    async def gate(self, http: httpx.AsyncClient) -> dict[str, Any]:
        """The verdict of this moment, as `/gate` answers."""
        reply = await http.get(f"{self.control_url}/gate")
        reply.raise_for_status()
        answer: dict[str, Any] = orjson.loads(reply.content)
        return answer


@asynccontextmanager
async def stage(folder: Path, ledger: Path) -> AsyncIterator[Stage]:
    """Engines and proxy, ready to serve; all ended when the block is left.

    Raises:  SupervisorError when the proxy does not come up, with the end of its log.
    """
    candidate = ScriptedServer(Script(ttft_s=0.004).as_healthy_quantized())
    reference = ScriptedServer(Script(ttft_s=0.004).as_noisy_reference())
    async with candidate, reference:
        config = folder / "parity.toml"
        config.write_text(
            SETTINGS.format(candidate=candidate.url, reference=reference.url, folder=folder, ledger=ledger),
            encoding="utf-8",
        )
        async with serving(config) as ports:
            yield Stage(candidate, reference, ports["relay"], ports["control"])


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[dict[str, str]]:
    """`parity serve` on that file; yields the urls by role once relay and control port listen."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--log-level", "warning"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log: deque[str] = deque(maxlen=KEPT_LINES)
    reading = asyncio.create_task(_keep(process.stderr, log))
    try:
        yield await _urls(process.stdout, process, log)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        reading.cancel()


async def _urls(stdout: asyncio.StreamReader, process: asyncio.subprocess.Process, log: deque[str]) -> dict[str, str]:
    urls: dict[str, str] = {}
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not {"relay", "control"} <= urls.keys():
                line = await stdout.readline()
                if not line:
                    await process.wait()
                    break
                try:
                    told = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue  # not one of our lines
                if told.get("event") == "listening":
                    urls[told["role"]] = f"http://{told['host']}:{told['port']}"
    except TimeoutError:
        pass
    if not {"relay", "control"} <= urls.keys():
        raise SupervisorError("the proxy did not come up:\n" + "\n".join(log))
    return urls


async def _keep(stream: asyncio.StreamReader, log: deque[str]) -> None:
    while line := await stream.readline():
        log.append(line.decode(errors="replace").rstrip())
