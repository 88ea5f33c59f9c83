"""Argo Rollouts and Flagger as a gate meets them: the bytes that they send, and what they make of the answer.

Source:  argo-rollouts 9f8d111 (metricproviders/webmetric, utils/evaluate, analysis/analysis.go), flagger 15bd6ad
(pkg/controller/webhook.go, scheduler_hooks.go), go-retryablehttp 0.7.8 (client.go); the order of the header lines is
that of Go's net/http: Host, User-Agent, Content-Length, then the rest by name, then the transport's own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Phase = Literal["Successful", "Failed", "Inconclusive", "Error"]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


def go_request(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """The bytes that Go's client writes for a request. Credentials in the address become basic authentication."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    sent = dict(headers)
    if parts.username is not None and "Authorization" not in sent:
        plain = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        sent["Authorization"] = "Basic " + base64.b64encode(plain.encode()).decode()
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "User-Agent: Go-http-client/1.1"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {sent[name]}" for name in sorted(sent)]
    lines.append("Accept-Encoding: gzip")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


async def exchange(port: int, request: bytes) -> Reply:
    """The reply to bytes sent to a port of this machine, whatever host they name. Raises: OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert "transfer-encoding" not in headers
        body = await reader.readexactly(int(headers["content-length"]))
        return Reply(int(status.split(" ")[1]), headers, body)
    finally:
        writer.close()


# ---- Argo Rollouts


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement: its phase, and the value or the message that Argo keeps for people."""

    phase: Phase
    value: Any = None
    message: str = ""


def filled(text: str, args: Mapping[str, str]) -> str:
    """A template's text with its arguments in place. Raises: KeyError for one that was not given."""
    return re.sub(r"\{\{\s*args\.([\w-]+)\s*\}\}", lambda found: args[found[1]], text)


async def measure(port: int, metric: Mapping[str, Any], args: Mapping[str, str]) -> Measurement:
    """What Argo measures by a `web` metric."""
    web = metric["provider"]["web"]
    headers = {each["key"]: filled(each["value"], args) for each in web.get("headers", ())}
    try:
        reply = await exchange(port, go_request("GET", filled(web["url"], args), headers))
    except (OSError, asyncio.IncompleteReadError) as error:
        return Measurement("Error", message=str(error))
    if not 200 <= reply.status < 300:
        return Measurement("Error", message=f"received non 2xx response code: {reply.status}")
    found = re.fullmatch(r"\{\$\.(\w+)\}", web["jsonPath"])
    assert found, f"this replay reads no such jsonPath: {web['jsonPath']}"
    result = json.loads(reply.body, parse_constant=_no_constant)[found[1]]
    if holds(metric["failureCondition"], result):
        return Measurement("Failed", result)
    return Measurement("Successful" if holds(metric["successCondition"], result) else "Inconclusive", result)


def holds(condition: str, result: Mapping[str, Any]) -> bool:
    """A condition of the one form that our example has. Any other is an error here, not a guess."""
    found = re.fullmatch(r'result\.(\w+) == (?:"(\w+)"|(true|false))', condition)
    assert found, f"this replay evaluates no such condition: {condition}"
    wanted: Any = found[2] if found[2] is not None else found[3] == "true"
    value = result[found[1]]  # KeyError: to expr an unknown field of a map is nil, and never equal
    return type(value) is type(wanted) and bool(value == wanted)


def _no_constant(name: str) -> Any:
    raise ValueError(f"Go's JSON knows no {name}")


def assess(metric: Mapping[str, Any], phases: Iterable[Phase]) -> tuple[Phase | Literal["Running"], int]:
    """What a metric's run comes to, and after how many measurements: counted as Argo's analysis counts."""
    counts = {"Successful": 0, "Failed": 0, "Inconclusive": 0, "Error": 0}
    errors = successes = taken = 0
    for phase in phases:
        taken += 1
        counts[phase] += 1
        errors = errors + 1 if phase == "Error" else 0
        successes = successes + 1 if phase == "Successful" else 0
        if errors > metric["consecutiveErrorLimit"]:
            return "Error", taken
        if counts["Inconclusive"] > metric["inconclusiveLimit"]:
            return "Inconclusive", taken
        if counts["Failed"] > metric["failureLimit"]:
            return "Failed", taken
        enough = metric.get("consecutiveSuccessLimit", 0)
        if enough and successes >= enough:
            return "Successful", taken
        if taken - counts["Error"] >= metric["count"]:
            return "Inconclusive" if enough else "Successful", taken
    return "Running", taken


# ---- Flagger


@dataclass(frozen=True, slots=True)
class Called:
    """What a webhook came to. `error` is what Flagger puts into its event, None when the hook agreed."""

    error: str | None
    attempts: int
    status: int | None


async def _at_once() -> None:
    """In place of Flagger's back-off, which only waits."""


def flagger_body(hook: Mapping[str, Any], name: str, namespace: str, phase: str, checksum: str) -> bytes:
    """The payload as Go marshals it: fields in their order, map keys sorted, `<`, `>` and `&` escaped."""
    payload = {"name": name, "namespace": namespace, "phase": phase, "checksum": checksum}
    if hook.get("metadata"):
        payload["metadata"] = dict(sorted(hook["metadata"].items()))
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()


async def call_webhook(
    port: int,
    hook: Mapping[str, Any],
    *,
    name: str = "llm",
    namespace: str = "llm",
    phase: str = "Progressing",
    checksum: str = "85d557f47b",
    before_retry: Callable[[], Awaitable[None]] = _at_once,
) -> Called:
    """What Flagger makes of a webhook: it retries a failed connection, 429 and 5xx, and then drops the body."""
    body = flagger_body(hook, name, namespace, phase, checksum)
    request = go_request("POST", hook["url"], {"Content-Type": "application/json"}, body)
    retries = hook.get("retries", 0)
    for attempt in range(1, retries + 2):
        why = ""
        status = None
        try:
            reply = await exchange(port, request)
            status = reply.status
            if status != 429 and (status < 500 or status == 501):
                return Called(reply.body.decode() if status > 202 else None, attempt, status)
            why = "" if status == 429 else f": unexpected HTTP status {status}"
        except (OSError, asyncio.IncompleteReadError) as error:
            why = f": {error}"
        if attempt <= retries:
            await before_retry()
    return Called(
        f"POST {urlsplit(hook['url']).path} giving up after {retries + 1} attempt(s){why}", retries + 1, status
    )
