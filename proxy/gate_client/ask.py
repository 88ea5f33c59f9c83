"""One question to a monitor's gate: the answer, or why there is none; whatever the other side does, no exception."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx
import orjson

from scorers.judge import State

REQUEST_TIMEOUT_S = 10.0  # *choice*: what both Argo and Flagger give a gate by default
MAX_ANSWER_BYTES = 16 * 1024 * 1024  # *choice*: a verdict with every budget in every stratum is below 1 MiB
GATE_PATH = "/gate"

_STATES: tuple[str, ...] = get_args(State)


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict in the shape of `/gate`."""

    verdict: State
    reason: str
    whole: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why there is no verdict, in one line. `passing`: it may well be otherwise a minute later."""

    why: str
    passing: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """Where a monitor's gate is: its address without secrets, and the token that goes in a header."""

    url: str
    recipe: str | None = None
    token: str | None = None


def gate_url(given: str) -> str:
    """The address of `/gate` from what a person typed: a control port, with or without the path.

    Raises:  ValueError with the fix.
    """
    parts = _split(given)
    if parts is None:
        raise ValueError(
            "the address must be an http:// or https:// one of a control port, such as http://127.0.0.1:9090"
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError("the address holds a token, and process lists show it; export it and name it with --token-env")
    if parts.query or parts.fragment:
        raise ValueError("the address has a query; the recipe goes into --recipe")
    path = parts.path.rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path if path.endswith(GATE_PATH) else path + GATE_PATH, "", ""))


def ask(client: httpx.Client, gate: Gate, timeout_s: float = REQUEST_TIMEOUT_S) -> Answer | NoAnswer:
    """What the gate says now. Gives up after about `timeout_s`, however slowly the other side drips.

    Another recipe than the asked one is inconclusive, whatever the other side made of the question.
    """
    until_s = time.monotonic() + timeout_s
    headers = {"accept": "application/json"}
    if gate.token is not None:
        headers["authorization"] = f"Bearer {gate.token}"
    params = {} if gate.recipe is None else {"recipe": gate.recipe}
    try:
        with client.stream("GET", gate.url, params=params, headers=headers, timeout=timeout_s) as reply:
            refusal = _refusal(reply.status_code, gate)
            if refusal is not None:
                return refusal
            body = bytearray()
            for chunk in reply.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    return _no_gate(gate, f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
                if time.monotonic() > until_s:
                    return NoAnswer(f"{gate.url} took longer than {timeout_s:g} s to answer", passing=True)
    except httpx.TimeoutException:
        return NoAnswer(f"{gate.url} did not answer within {timeout_s:g} s", passing=True)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        return NoAnswer(
            f"{gate.url} cannot be reached: {error or type(error).__name__}", passing=not _distrusted(error)
        )
    return read(bytes(body), gate)


def read(body: bytes, gate: Gate) -> Answer | NoAnswer:
    """The verdict in a body that came with a 200."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _no_gate(gate, "it answers, but not in JSON")
    verdict, reason = (told.get("verdict"), told.get("reason")) if isinstance(told, dict) else (None, None)
    if verdict not in _STATES or not isinstance(reason, str):
        return _no_gate(gate, "its JSON holds no verdict")
    state: State = verdict
    if gate.recipe is not None and told.get("recipe") != gate.recipe and state != "inconclusive":
        state, reason = "inconclusive", f'the monitor judges recipe "{told.get("recipe")}", not "{gate.recipe}"'
        told = {**told, "verdict": state, "reason": reason, "reasons": [reason]}
    return Answer(state, reason, told)


def _refusal(status: int, gate: Gate) -> NoAnswer | None:
    if status == 200:
        return None
    if status in (401, 403):
        hint = (
            "name the variable that holds one with --token-env" if gate.token is None else "it does not know this one"
        )
        return NoAnswer(f"{gate.url} wants a token; {hint}", passing=False)
    if status == 421:
        return NoAnswer(f"{gate.url} has no token and answers loopback names only (421)", passing=False)
    if status == 429 or status >= 500:
        return NoAnswer(f"{gate.url} answers {status}", passing=True)
    return _no_gate(gate, f"it answers {status}")


def _no_gate(gate: Gate, why: str) -> NoAnswer:
    return NoAnswer(f"{gate.url} is not a parity gate: {why}", passing=False)


def _distrusted(error: BaseException | None) -> bool:
    """True when TLS failed: the same certificate will be shown a minute later."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None
