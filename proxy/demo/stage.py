"""What the demo stands on: two engines, and `parity serve` before them as it is run in production."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from proxy.demo.engines import Engines, emulated, scripted
from proxy.demo.process import running
from proxy.errors import SupervisorError

START_TIMEOUT_S = 30.0

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
[ledger]
path = "{ledger}"
[control]
port = 0
"""

SCRIPTED = """\
[mirror]
noise_rate = 1.0
replay_rate = 1.0
needle_rate = 1.0
teacher_forced_rate = 0.1
timeout_s = 60.0
late_after_s = 120.0
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

# A model of 3.8 million parameters is more brittle than a real one: INT4 weights cost it one fact in twenty of those in
# long lists. The limits are those of a product that accepts this, and wide enough to be decided within two minutes.
EMULATED = """\
[mirror]
concurrency = 4
noise_rate = 1.0
replay_rate = 0.3
needle_rate = 0.05
timeout_s = 120.0
late_after_s = 240.0
[gate]
recipe = "demo"
look_interval_s = 1.0
alpha_rollback = 0.05
[budgets.copy_recall_loss]
limit = 0.15
slack = 0.2
critical = true
strata = ["length"]
[budgets.tool_call_mismatch]
limit = 0.2
slack = 0.2
critical = true
[budgets.logprob_kl]
limit = 0.15
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs while the demo does."""

    engines: Engines
    relay_url: str
    control_url: str

    async def gate(self, http: httpx.AsyncClient) -> dict[str, Any]:
        """The verdict of this moment, as `/gate` answers."""
        reply = await http.get(f"{self.control_url}/gate")
        reply.raise_for_status()
        answer: dict[str, Any] = orjson.loads(reply.content)
        return answer


@asynccontextmanager
async def stage(folder: Path, ledger: Path, recipe: str | None) -> AsyncIterator[Stage]:
    """Engines and proxy, ready to serve; all ended when the block is left.

    `recipe` is the candidate's on the emulator; None takes the scripted engines.
    Raises:  SupervisorError when an engine or the proxy does not come up, with the end of its log.
    """
    async with AsyncExitStack() as stack:
        engines: Engines
        if recipe is None:
            engines, own = await stack.enter_async_context(scripted()), SCRIPTED
        else:
            engines, own = await stack.enter_async_context(emulated(recipe)), EMULATED
        config = folder / "parity.toml"
        text = SETTINGS.format(
            candidate=engines.candidate_url, reference=engines.reference_url, folder=folder, ledger=ledger
        )
        config.write_text(text + own, encoding="utf-8")
        ports = await stack.enter_async_context(serving(config))
        yield Stage(engines, ports["relay"], ports["control"])


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[dict[str, str]]:
    """`parity serve` on that file; yields the urls by role once relay and control port listen."""
    command = (sys.executable, "-m", "proxy.cli", "serve", "--config", str(config), "--log-level", "warning")
    async with running(*command) as program:
        urls: dict[str, str] = {}
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not {"relay", "control"} <= urls.keys() and (told := await program.told()) is not None:
                    if told.get("event") == "listening":
                        urls[told["role"]] = f"http://{told['host']}:{told['port']}"
        except TimeoutError:
            pass  # what is missing is said below, with the log
        if not {"relay", "control"} <= urls.keys():
            raise SupervisorError("the proxy did not come up:\n" + "\n".join(program.log))
        yield urls
