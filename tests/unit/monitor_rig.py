"""Doubles and builders for the monitor's tests: a ledger in memory, backends that do as told, exchanges."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from backends.base import Reply
from proxy.errors import LedgerError
from proxy.exchange import Exchange, Outcome, Sampled
from proxy.monitor.prompt_tokens import agreed
from proxy.monitor.rows import LedgerRow, Opening
from proxy.settings import BudgetSettings, LedgerSettings, MirrorSettings, ReferenceSettings, Settings, UpstreamSettings
from scorers.records import Observation

CHAT = "/v1/chat/completions"


def settings(**mirror: Any) -> Settings:
    """Settings with every coin off unless given, and one critical budget."""
    quiet: dict[str, Any] = {"noise_rate": 0.0, "replay_rate": 0.0, "needle_rate": 0.0}
    return Settings(
        candidate=UpstreamSettings(url="http://127.0.0.1:1", model="cand"),
        reference=ReferenceSettings(url="http://127.0.0.1:2", model="ref", teacher_forcing=True),
        mirror=MirrorSettings(**{**quiet, **mirror}),
        ledger=LedgerSettings(keep_share=0.0),
        budgets={"tool_call_mismatch": BudgetSettings(limit=0.03, critical=True)},
    )


def chat_request(text: str = "hello", *, temperature: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": temperature, **more}


def chat_reply(text: str = "fine", *, prompt_tokens: int = 7, **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 2, "total_tokens": prompt_tokens + 2}
    return orjson.dumps({"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


def tool_reply(name: str, **arguments: Any) -> bytes:
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": orjson.dumps(arguments).decode()}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return orjson.dumps({"model": "m", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 4}})


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def mark(sequence: int, worker: str = "w", at: float = 100.0) -> Sampled:
    return Sampled(f"{worker}-{sequence}", worker, sequence, at)


def exchange(
    sequence: int = 0,
    *,
    worker: str = "w",
    request: Mapping[str, Any] | bytes | None = None,
    reply: bytes | None = None,
    **more: Any,
) -> Exchange:
    body = request if isinstance(request, bytes) else orjson.dumps(request or chat_request())
    fields: dict[str, Any] = {
        "id": f"{worker}-{sequence}",
        "worker": worker,
        "sequence": sequence,
        "at_unix_s": 100.0,
        "method": "POST",
        "target": CHAT,
        "request_headers": ((b"content-type", b"application/json"),),
        "request_body": body,
        "status": 200,
        "response_headers": ((b"content-type", b"application/json"),),
        "response_body": chat_reply() if reply is None else reply,
        "outcome": Outcome.COMPLETE,
        "first_byte_s": 0.1,
        "duration_s": 0.2,
    }
    return Exchange(**{**fields, **more})


def row(position: int, **more: Any) -> LedgerRow:
    fields: dict[str, Any] = {
        "position": position,
        "epoch": 1,
        "id": f"w-{position}",
        "worker": "w",
        "sequence": position,
        "kind": "live",
        "sampled_unix_s": 100.0,
        "disposition": "lost",
        "reason": "late",
        "stratum": None,
    }
    return LedgerRow(**{**fields, **more})


@dataclass
class Metrics:
    """Counts what it is told."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    rows: list[LedgerRow] = field(default_factory=list)
    write_errors: int = 0
    dropped: int = 0

    def shadow_call(self, arm: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0.0
        self.calls.append((arm, outcome))

    def row(self, row: LedgerRow) -> None:
        self.rows.append(row)

    def relay_stats(self, worker: str, snapshot: Mapping[str, Any]) -> None: ...

    def relay_connection(self, worker: str, connected: bool) -> None: ...

    def ledger_write_error(self) -> None:
        self.write_errors += 1

    def ledger_rows_dropped(self, count: int) -> None:
        self.dropped += count


Behaviour = Callable[[str, bytes], Awaitable[Reply] | Reply]


class ScriptedBackend:
    """One arm in memory: `behaviour` answers posts; gets and the contract's own posts get 404."""

    def __init__(self, name: str, behaviour: Behaviour) -> None:
        self.name = name
        self.behaviour = behaviour
        self.bodies: list[dict[str, Any]] = []
        self.tokens = b""  # what it tells of the probe; by default it has no such endpoint
        self.active = 0
        self.most_active = 0

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        parsed = orjson.loads(body)
        if path == "/tokenize" and self.tokens:
            return Reply(200, "application/json", self.tokens, 0.0)
        if path == "/tokenize" or parsed.get("prompt") == "parity":
            return Reply(404, "application/json", b"{}", 0.0)
        self.bodies.append(parsed)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            answer = self.behaviour(path, body)
            return answer if isinstance(answer, Reply) else await answer
        finally:
            self.active -= 1

    async def get(self, path: str, timeout_s: float) -> Reply:
        return Reply(404, "application/json", b"{}", 0.0)

    async def aclose(self) -> None: ...


def ok(body: bytes) -> Reply:
    return Reply(200, "application/json", body, 0.01)


@dataclass(frozen=True)
class StoredCheckpoint:
    position: int
    state_json: str


class MemoryLedger:
    """rows.Ledger in memory. `broken` makes every write raise; calls come from the monitor's threads."""

    def __init__(self) -> None:
        self.rows: list[LedgerRow] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.epochs: list[tuple[int, Mapping[str, Any], str]] = []
        self.openings: list[Opening] = []
        self.checkpoints: dict[int, StoredCheckpoint] = {}
        self.broken = ""
        self.pruned_through = -1
        self._guard = threading.Lock()

    def open_epoch(self, contract: Mapping[str, Any], reason: str, at_unix_s: float) -> int:
        self._writable()
        if not self.epochs or dict(self.epochs[-1][1]) != dict(contract):
            self.epochs.append((len(self.epochs) + 1, dict(contract), reason))
            self.openings.append(Opening(len(self.epochs), at_unix_s, reason))
        return self.epochs[-1][0]

    def latest_epoch(self) -> tuple[int, Mapping[str, Any]] | None:
        return self.epochs[-1][:2] if self.epochs else None

    def epoch_openings(self) -> list[Opening]:
        return list(self.openings)

    def next_position(self) -> int:
        return self.rows[-1].position + 1 if self.rows else 0

    def numbers(self, limit: int) -> list[tuple[str, int]]:
        return [(row.worker, row.sequence) for row in self.rows if row.kind == "live" and row.worker][-limit:]

    def append(self, rows: Sequence[LedgerRow]) -> None:
        self._writable()
        with self._guard:
            for row in rows:
                assert not self.rows or row.position > self.rows[-1].position, "rows must rise"
                self.rows.append(row)

    def event(self, kind: str, detail: Mapping[str, Any], at_unix_s: float) -> None:
        self._writable()
        self.events.append((kind, detail))

    def latest_event(self, kind: str) -> Mapping[str, Any] | None:
        return next((detail for told, detail in reversed(self.events) if told == kind), None)

    def observations(self, epoch: int, after: int = -1) -> Iterator[Observation]:
        if after < self.pruned_through:
            raise LedgerError("rows were pruned")
        return iter([row.observation() for row in self.rows if row.epoch == epoch and row.position > after])

    def reset_position(self, epoch: int) -> int | None:
        told = [detail for kind, detail in self.events if kind == "reset" and detail["epoch"] == epoch]
        return max((detail["position"] for detail in told), default=None)

    def sampled_at(self, positions: Sequence[int]) -> dict[int, float]:
        return {row.position: row.sampled_unix_s for row in self.rows if row.position in positions}

    def prompt_token_mismatches(self, epoch: int, after: int = -1) -> int:
        return sum(
            row.prompt_tokens != row.reference_prompt_tokens
            for row in self.rows
            if row.epoch == epoch
            and row.position > after
            and row.kind == "live"
            and None not in (row.prompt_tokens, row.reference_prompt_tokens)
        )

    def prompts_agreed(self, epoch: int, after: int, limit: int) -> list[bool]:
        own = [agreed(row) for row in self.rows if row.epoch == epoch and row.position > after]
        return [one for one in own if one is not None][-limit:]

    def checkpoint(self, epoch: int, position: int, state_json: str) -> None:
        self.checkpoints[epoch] = StoredCheckpoint(position, state_json)

    def checkpoint_of(self, epoch: int) -> StoredCheckpoint | None:
        return self.checkpoints.get(epoch)

    def pairs(self, *, limit: int, before: int | None, score: str | None, mismatched: bool) -> list[LedgerRow]:
        return []

    def pair(self, id: str) -> LedgerRow | None:
        return None

    def prune(self, now_unix_s: float) -> int:
        return 0

    def close(self) -> None: ...

    def _writable(self) -> None:
        if self.broken:
            raise LedgerError(self.broken)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Returns when the condition holds; fails past the deadline."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  conditions of other threads and processes have no event
            await asyncio.sleep(0.01)
