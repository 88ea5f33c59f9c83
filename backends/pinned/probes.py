"""What an engine says and does, over HTTP: what it is, its settings, its token ids, and one heartbeat.

The heartbeat is one greedy token after a prompt of one token, with the logprobs of its alternatives: it passes through
every layer, so an engine that serves other weights than its files say is heard. How exactly an engine repeats it
decides the tolerance: `docs/contract.md` has what was measured.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from backends.base import Backend, BackendUnavailable
from backends.contract import ABSENT, OBSERVE_TIMEOUT_S, PROBE_MESSAGES, observe

TOP_LOGPROBS = 20  # vLLM's default --max-logprobs
HEARTBEAT_TEXT = "A"  # one token in every byte-level vocabulary

_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Forecast for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_USER = {"role": "user", "content": "Weather in Zürich?"}
_CALL = {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Zürich"}'}}

PROBES: Mapping[str, Mapping[str, Any]] = {
    "conversation": {"messages": PROBE_MESSAGES},
    "no_system_turn": {"messages": [_USER]},  # where some templates add one of their own
    "no_generation_prompt": {"messages": [_USER], "add_generation_prompt": False},
    "tools": {"messages": [_USER], "tools": [_TOOL]},
    "tool_result": {
        "messages": [
            _USER,
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call_0", "content": '{"sky": "clear"}'},
        ],
        "tools": [_TOOL],
    },
    "text": {"prompt": "Naïve café  costs 3.50 €;\n\t東京 is UTC+9? Да. \U0001f642 e\u0301 vs é"},
    "digits_and_code": {"prompt": "def f(x):\n    return x ** 2  # 1234567890 0x1F 1e-05\r\n"},
}
"""Fixed with the pin's format: another probe is another format."""

# Of vLLM's cache_config_info: what is measured at the start, or counts one engine of several, is no setting.
_VOLATILE = frozenset({"engine", "num_gpu_blocks", "num_cpu_blocks"})
_VOLATILE_PARTS = ("_size_tokens", "_max_concurrency", "kv_cache_memory_bytes")
_CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Prompt: TypeAlias = tuple[int, ...] | str


@dataclass(frozen=True, slots=True)
class Beat:
    """The logprobs of a heartbeat, by token (`token_id:N`, or its text). Units: nats."""

    prompt: Prompt
    logprobs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Probed:
    """One arm as it answered. What it does not have or tell is absent."""

    engine: Mapping[str, str | int]
    settings: Mapping[str, str]
    probes: Mapping[str, tuple[int, ...]]
    beat: Beat | None
    root: str | None


async def probe(
    backend: Backend, model: str | None, prompt: Prompt | None = None, timeout_s: float = OBSERVE_TIMEOUT_S
) -> Probed:
    """What the arm says and does now. `prompt` is the pinned heartbeat's, by default the first token of `text`.

    Raises:  BackendError.
    """
    listing = await _listing(backend, timeout_s)
    seen = await observe(backend, model, timeout_s=timeout_s)
    name = seen.model or model or ""
    roots = [
        card.get("root") for card in listing.get("data") or () if isinstance(card, dict) and card.get("id") == name
    ]
    found = {key: await _tokens(backend, name, ask, timeout_s) for key, ask in PROBES.items()}
    probes = {key: ids for key, ids in found.items() if ids is not None}
    if prompt is None:
        prompt = probes["text"][:1] if probes.get("text") else HEARTBEAT_TEXT
    engine = {key: value for key, value in seen.as_dict().items() if key not in ("template", "weights")}
    metrics = await backend.get("/metrics", timeout_s)
    return Probed(
        engine=engine,
        settings=_cache_config(metrics.body.decode("utf-8", "replace")) if metrics.ok else {},
        probes=probes,
        beat=await beat(backend, name, prompt, timeout_s),
        root=next((root for root in roots if isinstance(root, str)), None),
    )


async def beat(backend: Backend, model: str, prompt: Prompt, timeout_s: float = OBSERVE_TIMEOUT_S) -> Beat | None:
    """One heartbeat; None when the engine gives no logprobs. Raises: BackendError."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": TOP_LOGPROBS,
        "return_tokens_as_token_ids": True,
    }
    reply = await _post(backend, "/v1/completions", body, timeout_s)
    try:
        listed = reply["choices"][0]["logprobs"]["top_logprobs"][0]
        return Beat(prompt, {str(token): float(value) for token, value in sorted(listed.items())})
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


async def spread(backend: Backend, model: str, first: Beat, count: int, timeout_s: float = OBSERVE_TIMEOUT_S) -> float:
    """How far `count` more heartbeats are from the first, at most: half of them alone, half at once beside longer
    prompts, because another batch is where engines differ. Units: nats. Raises: BackendError."""
    alone = [await beat(backend, model, first.prompt, timeout_s) for _ in range(count - count // 2)]
    long = [PROBES["text"]["prompt"] * (1 + n % 4) for n in range(count // 2)]
    beats = asyncio.gather(*(beat(backend, model, first.prompt, timeout_s) for _ in long))
    others = asyncio.gather(*(beat(backend, model, text, timeout_s) for text in long))
    beside, _ = await asyncio.gather(beats, others)
    return max((gap(first.logprobs, one.logprobs) for one in (*alone, *beside) if one is not None), default=0.0)


def gap(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The largest shift of a logprob between two lists of the likeliest tokens. Units: nats.

    A token that only one list holds lies at or below the end of the other: that is how far it moved at least.
    """
    if not before or not after:
        return float("inf") if before or after else 0.0
    ends = min(before.values()), min(after.values())
    shifts = [abs(before[token] - after[token]) for token in before.keys() & after.keys()]
    shifts += [max(0.0, before[token] - ends[1]) for token in before.keys() - after.keys()]
    shifts += [max(0.0, after[token] - ends[0]) for token in after.keys() - before.keys()]
    return max(shifts)


async def _tokens(backend: Backend, model: str, ask: Mapping[str, Any], timeout_s: float) -> tuple[int, ...] | None:
    """The token ids of one probe: by /tokenize, else as a completion reports its prompt."""
    found = (await _post(backend, "/tokenize", {"model": model, **ask}, timeout_s)).get("tokens")
    if not found:
        path = "/v1/chat/completions" if "messages" in ask else "/v1/completions"
        more = {"model": model, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
        reply = await _post(backend, path, {**ask, **more}, timeout_s)
        choices = reply.get("choices")
        first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        found = reply.get("prompt_token_ids") or first.get("prompt_token_ids")
    if not isinstance(found, list) or not all(type(token) is int for token in found):
        return None
    return tuple(found)


def _cache_config(text: str) -> dict[str, str]:
    found = _CACHE_CONFIG.search(text)
    labels = dict(_LABEL.findall(found.group(1))) if found else {}
    return {
        name: value
        for name, value in sorted(labels.items())
        if name not in _VOLATILE and not name.endswith(_VOLATILE_PARTS)
    }


async def _listing(backend: Backend, timeout_s: float) -> dict[str, Any]:
    """The models that the arm lists. Raises: BackendUnavailable when it does not let us ask: that is no absence."""
    reply = await backend.get("/v1/models", timeout_s)
    if reply.status in (401, 403):
        raise BackendUnavailable(f"{backend.name}: /v1/models answered {reply.status}: it wants another API key")
    return _object(reply.body) if reply.ok else {}


async def _post(backend: Backend, path: str, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    reply = await backend.post(path, orjson.dumps(body), {"content-type": "application/json"}, timeout_s)
    if reply.ok:
        return _object(reply.body)
    if reply.status in ABSENT:
        return {}
    raise BackendUnavailable(f"{backend.name}: {path} answered {reply.status}, so what it is remains unknown")


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
