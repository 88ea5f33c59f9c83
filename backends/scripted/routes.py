"""The scripted vLLM's own controls.

GET  /_scripted/faults     the rates in force          POST  {"tool_name": 1.0}: some rates, the others stay
GET  /_scripted/stats      counts                      GET   /_scripted/requests: the recorded ones, raw
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.dialect.ask import error_body
from backends.dialect.identity import Identity, Routes
from backends.dialect.listener import Listener
from backends.dialect.wire import Request
from backends.scripted.ask import ScriptedTokenizer
from backends.scripted.faults import Fault, FaultPlan
from backends.scripted.generate import key_of
from backends.scripted.script import Script
from backends.scripted.template import Prompt, with_default_system


class _Templated(ScriptedTokenizer):
    """The tokenizer as `/tokenize` uses it: with the planted chat template where it strikes."""

    def __init__(self, faults: FaultPlan) -> None:
        self._faults = faults

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], body: Mapping[str, Any]
    ) -> Prompt:
        prompt = super().chat(messages, tools, body)
        if Fault.TEMPLATE in self._faults.strikes(key_of(prompt)):
            return with_default_system(prompt, generate=body.get("add_generation_prompt", True) is not False)
        return prompt


@dataclass(frozen=True, slots=True)
class Controls:
    """What the routes show and change while a server runs."""

    faults: FaultPlan
    requests: deque[Request]
    listener: Listener

    def routes(self, script: Script) -> Routes:
        """All routes but the completions: a vLLM's, and these controls."""
        identity = Identity(
            script.model,
            script.root or f"scripted/{script.model}",
            script.max_model_len,
            script.version,
            script.created_unix_s,
            _Templated(self.faults),
        )
        return {
            **identity.routes(),
            "/_scripted/faults": {"GET": self._read_faults, "POST": self._plant_faults},
            "/_scripted/stats": {"GET": self._read_stats},
            "/_scripted/requests": {"GET": self._recorded},
        }

    def _read_faults(self, request: Request) -> tuple[int, bytes]:
        return 200, orjson.dumps(self.faults.rates)

    def _plant_faults(self, request: Request) -> tuple[int, bytes]:
        try:
            rates = orjson.loads(request.body)
            if not isinstance(rates, dict):
                raise ValueError("a JSON object of fault names and rates is wanted")
            self.faults.update(rates)
        except ValueError as error:
            return 400, error_body(400, str(error), "BadRequestError")
        return 200, orjson.dumps(self.faults.rates)

    def _read_stats(self, request: Request) -> tuple[int, bytes]:
        counts = {**self.listener.stats, "in_flight": self.listener.in_flight - 1, "struck": dict(self.faults.struck)}
        return 200, orjson.dumps(counts)

    def _recorded(self, request: Request) -> tuple[int, bytes]:
        rows = [
            {"head": one.head.decode("latin-1"), "body": base64.b64encode(one.body).decode()} for one in self.requests
        ]
        return 200, orjson.dumps(rows)
