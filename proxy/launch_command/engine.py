"""One engine as a child: started behind its guard, asked for its health, its log read back, ended as a whole."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from proxy.errors import LaunchError
from proxy.launch_command.guard import GONE_S, GRACE_S, kill_session
from proxy.supervisor.child import SUPERVISED

TAIL_BYTES = 64 * 1024  # *choice*: a traceback of vLLM is some KB, and each of its processes prints one
ASK_TIMEOUT_S = 5.0  # *choice*: /health waits for the engine's core, which may be busy
GUARD = "proxy.launch_command.guard"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_OVERRULES = ("VLLM_CPU_KVCACHE_SPACE",)  # in vLLM 0.32 it wins over the flag that is given


class Engine:
    """One arm's engine. `log` is written anew; `started_s` is the loop's clock."""

    def __init__(self, side: str, argv: Sequence[str], environment: Mapping[str, str], url: str, log: Path) -> None:
        self.side, self.argv, self.url, self.log = side, tuple(argv), url, log
        self.environment = dict(environment)
        self.ready = False
        self.started_s = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[int] | None = None

    async def start(self) -> None:
        """Raises: LaunchError when the log cannot be written."""
        kept = {name: value for name, value in os.environ.items() if name not in _OVERRULES}
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("wb") as sink:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", GUARD, *self.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    env={**kept, **self.environment, SUPERVISED: str(os.getpid())},
                    start_new_session=True,  # a terminal's Ctrl-C comes to us alone, and the session is one engine
                )  # fmt: skip
        except OSError as error:
            raise LaunchError(f"{self.log} cannot be written: {error.strerror or error}; give --logs") from None
        self.started_s = asyncio.get_running_loop().time()
        self._ended = asyncio.ensure_future(self._process.wait())

    @property
    def pid(self) -> int | None:
        """The guard's process id, which is the session's."""
        return None if self._process is None else self._process.pid

    @property
    def ended(self) -> asyncio.Task[int]:
        """Done, with the exit code, once the engine is gone; 128 + n for signal n."""
        assert self._ended is not None
        return self._ended

    async def healthy(self, http: httpx.AsyncClient) -> bool:
        """Whether /health says 200."""
        try:
            return (await http.get(f"{self.url}/health", timeout=ASK_TIMEOUT_S)).status_code == 200
        except httpx.HTTPError:
            return False

    def tail(self, lines: int) -> list[str]:
        """The log's last lines that say something, out of its last TAIL_BYTES, without what would move a cursor."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = file.read(TAIL_BYTES).decode(errors="replace")
        except OSError:
            return []
        plain = ("".join(filter(str.isprintable, _ANSI.sub("", line))).rstrip() for line in text.splitlines())
        return [line for line in plain if line][-lines:]

    async def end(self) -> bool:
        """Whether anything of it had to be killed. Nothing of it runs any more."""
        if self._process is None or self._ended is None:
            return False
        killed = False
        if not self._ended.done():
            self._signal(signal.SIGTERM)
            done, _ = await asyncio.wait({self._ended}, timeout=GRACE_S + GONE_S)
            if not done:
                killed = True
                self._signal(signal.SIGKILL)
                await asyncio.wait({self._ended})
        # Its guard has done so already, unless somebody killed the guard.
        return await asyncio.to_thread(kill_session, self._process.pid) > 0 or killed

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            pass  # it ended at this moment; that is all we wanted
