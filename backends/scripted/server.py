"""The scripted vLLM: routes, timing, planted faults. Start it in a process of its own, or inside a test's loop."""

from __future__ import annotations

import secrets
from collections import Counter, deque
from dataclasses import replace
from types import TracebackType
from typing import Self

from backends.dialect.identity import COMPLETIONS, answer_plain
from backends.dialect.listener import Listener
from backends.dialect.wire import Connection, Request
from backends.scripted.ask import Ask, read_ask
from backends.scripted.delivery import Delivery
from backends.scripted.distribution import Drift
from backends.scripted.faults import Fault, FaultPlan
from backends.scripted.generate import FAULT_SHIFT, JITTER, Run, key_of
from backends.scripted.lacking import checked, is_missing, lessened, without
from backends.scripted.routes import Controls
from backends.scripted.script import Script
from backends.scripted.template import with_default_system


class ScriptedServer:
    """One scripted vLLM on a socket of its own. `requests` holds the latest `script.record` requests, raw.

    `stats` counts: requests, aborted (the client left before the reply was whole), and each fault that showed.
    """

    def __init__(self, script: Script | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.script = script or Script()
        checked(self.script.lacks)
        self.faults = FaultPlan(self.script.faults, fresh=self.script.fresh_faults)
        self._listener = Listener(self._answer, host, port)
        self._recorded: deque[Request] = deque(maxlen=self.script.record)
        routes = Controls(self.faults, self._recorded, self._listener).routes(self.script)
        self._routes = without(self.script.lacks, routes)

    @property
    def url(self) -> str:
        return self._listener.url

    @property
    def requests(self) -> list[Request]:
        return list(self._recorded)

    @property
    def stats(self) -> Counter[str]:
        return self._listener.stats

    @property
    def in_flight(self) -> int:
        return self._listener.in_flight

    @property
    def port(self) -> int:
        return self._listener.port

    def set_fault(self, name: str, rate: float) -> None:
        """One fault from now on; rate 0 takes it away. Raises: ValueError."""
        self.faults.set(name, rate)

    async def start(self) -> None:
        """Listening from here on; `url` is known. Raises: OSError when the port is taken."""
        await self._listener.start()

    async def aclose(self) -> None:
        """The port closed and every connection ended, whatever it was doing."""
        await self._listener.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _answer(self, connection: Connection, request: Request) -> bool:
        path = request.target.partition("?")[0]
        if not path.startswith("/_scripted/"):
            self._recorded.append(request)
            self.stats["requests"] += 1
        if is_missing(self.script.lacks, path):
            await connection.reply(404, b'{"detail":"Not Found"}', close=not request.keeps_alive)
            return True
        request = lessened(self.script.lacks, self.script.most_top_logprobs, request)
        if request.method == "POST" and path in COMPLETIONS:
            return await self._complete(connection, request, chat=COMPLETIONS[path])
        status, body = answer_plain(self._routes, request)
        await connection.reply(status, body, close=not request.keeps_alive)
        return True

    async def _complete(self, connection: Connection, request: Request, *, chat: bool) -> bool:
        script = self.script
        ask = read_ask(chat, request.body, request.header(b"content-type"), script.model, script.max_model_len)
        run = self._run(ask)
        if chat and Fault.TEMPLATE in run.faults:
            otherwise = tuple(with_default_system(prompt) for prompt in ask.prompts)
            if otherwise != ask.prompts:
                self.faults.struck[Fault.TEMPLATE] += 1
                ask = replace(ask, prompts=otherwise)
        return await Delivery(script, self.faults.struck, connection, request, ask, run).send()

    def _run(self, ask: Ask) -> Run:
        faults = self.faults.strikes(key_of(ask.prompts[0]))
        noisy = self.script.noise > 0 and secrets.randbelow(1_000_000) < self.script.noise * 1_000_000
        shift = self.script.shift + (FAULT_SHIFT if Fault.LOGPROBS in faults else 0.0)
        drift = Drift(shift, JITTER if noisy else 0.0, secrets.randbits(64) if noisy else 0)
        return Run(drift, faults, noisy, self.script.fresh_sampling)
