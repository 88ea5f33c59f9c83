"""What the scripted vLLM answers beside completions: its identity, its tokenizer, and its own controls.

GET  /_scripted/faults     the rates in force          POST  {"tool_name": 1.0}: some rates, the others stay
GET  /_scripted/stats      counts                      GET   /_scripted/requests: the recorded ones, raw
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import orjson

from backends.scripted.ask import check_model, error_body, read_object, rendered
from backends.scripted.faults import Fault, FaultPlan
from backends.scripted.generate import key_of
from backends.scripted.script import Script
from backends.scripted.template import with_default_system
from backends.scripted.tokens import decode
from backends.scripted.wire import Request


@dataclass(slots=True)
class State:
    """What changes while a server runs. `stats`: requests, and aborted (the client left before the reply was whole)."""

    faults: FaultPlan
    requests: deque[Request]
    stats: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0


_PERMISSION = {
    "id": "modelperm-0000000000000000",
    "object": "model_permission",
    "created": 1_767_225_600,
    "allow_create_engine": False,
    "allow_sampling": True,
    "allow_logprobs": True,
    "allow_search_indices": False,
    "allow_view": True,
    "allow_fine_tuning": False,
    "organization": "*",
    "group": None,
    "is_blocking": False,
}

Route: TypeAlias = Callable[[Script, State, Request], tuple[int, bytes]]


def answer_plain(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    """Status and body for everything that is no completion. Raises: ask.Refused."""
    route = _ROUTES.get(request.target.partition("?")[0])
    if route is None:
        return 404, b'{"detail":"Not Found"}'
    handler = route.get(request.method)
    if handler is None:
        return 405, b'{"detail":"Method Not Allowed"}'
    return handler(script, state, request)


def _models(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    card = {
        "id": script.model,
        "object": "model",
        "created": script.created_unix_s,
        "owned_by": "vllm",
        "root": script.root or f"scripted/{script.model}",
        "parent": None,
        "max_model_len": script.max_model_len,
        "permission": [_PERMISSION],
    }
    return 200, orjson.dumps({"object": "list", "data": [card]})


def _version(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    return 200, orjson.dumps({"version": script.version})


def _health(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    return 200, b""


def _tokenize(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    body = read_object(request.body, request.header(b"content-type"))
    check_model(body, script.model)
    prompt = rendered(body)
    if "messages" in body and Fault.TEMPLATE in state.faults.strikes(key_of(prompt)):
        prompt = with_default_system(prompt, generate=body.get("add_generation_prompt", True) is not False)
    ids = prompt.ids
    reply = {"count": len(ids), "max_model_len": script.max_model_len, "tokens": ids, "token_strs": None}
    return 200, orjson.dumps(reply)


def _detokenize(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    body = read_object(request.body, request.header(b"content-type"))
    tokens = body.get("tokens")
    ids = [token for token in tokens if isinstance(token, int)] if isinstance(tokens, list) else []
    return 200, orjson.dumps({"prompt": decode(ids)})


def _read_faults(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    return 200, orjson.dumps(state.faults.rates)


def _plant_faults(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    try:
        rates = orjson.loads(request.body)
        if not isinstance(rates, dict):
            raise ValueError("a JSON object of fault names and rates is wanted")
        state.faults.update(rates)
    except ValueError as error:
        return 400, error_body(400, str(error), "BadRequestError")
    return 200, orjson.dumps(state.faults.rates)


def _read_stats(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    return 200, orjson.dumps({**state.stats, "in_flight": state.in_flight - 1, "struck": dict(state.faults.struck)})


def _recorded(script: Script, state: State, request: Request) -> tuple[int, bytes]:
    rows = [{"head": one.head.decode("latin-1"), "body": base64.b64encode(one.body).decode()} for one in state.requests]
    return 200, orjson.dumps(rows)


_ROUTES: Mapping[str, Mapping[str, Route]] = {
    "/v1/chat/completions": {},
    "/v1/completions": {},
    "/v1/models": {"GET": _models},
    "/version": {"GET": _version},
    "/health": {"GET": _health},
    "/ping": {"GET": _health, "POST": _health},
    "/tokenize": {"POST": _tokenize},
    "/detokenize": {"POST": _detokenize},
    "/_scripted/faults": {"GET": _read_faults, "POST": _plant_faults},
    "/_scripted/stats": {"GET": _read_stats},
    "/_scripted/requests": {"GET": _recorded},
}
