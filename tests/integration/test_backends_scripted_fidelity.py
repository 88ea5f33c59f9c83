"""The scripted vLLM against recorded replies of the real one: same fields, same order, same types, same errors.

The recording (tests/unit/data/vllm_0_32_exchanges.json) holds requests and raw replies of vLLM 0.32.0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.scripted import Script, ScriptedServer

_RECORDING = Path(__file__).parents[1] / "unit" / "data" / "vllm_0_32_exchanges.json"
_EXCHANGES: list[dict[str, Any]] = json.loads(_RECORDING.read_text(encoding="utf-8"))["exchanges"]
_KEYED_BY_TOKEN = ("top_logprobs", "prompt_logprobs")


def shape(value: Any, name: str = "") -> Any:
    """Field names in order and types of leaves; lists by the distinct shapes in them."""
    if isinstance(value, dict):
        if name in _KEYED_BY_TOKEN:
            return {"<token>": sorted({json.dumps(shape(inner)) for inner in value.values()})}
        return {key: shape(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(inner, name)) for inner in value})
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def events(body: str) -> list[Any]:
    """The shapes of a stream's events in order, runs of equal ones folded into one."""
    folded: list[Any] = []
    for line in body.split("\n\n"):
        if not line:
            continue
        data = line.removeprefix("data: ")
        one = data if data == "[DONE]" else shape(json.loads(data))
        if not folded or folded[-1] != one:
            folded.append(one)
    return folded


def read(content_type: str, body: str) -> Any:
    if content_type.startswith("text/event-stream"):
        return events(body)
    return shape(json.loads(body)) if body else ""


@pytest.mark.asyncio
@pytest.mark.parametrize("exchange", _EXCHANGES, ids=lambda exchange: exchange["name"])
async def test_replies_have_the_real_ones_fields(exchange: dict[str, Any]) -> None:
    body = exchange["body"]
    if exchange["name"] == "prompt beyond context":
        body = {**body, "messages": [{"role": "user", "content": "word " * 3_000}]}
    async with ScriptedServer(Script(model="m", max_model_len=2_048)) as server, httpx.AsyncClient() as client:
        url = server.url + exchange["path"]
        reply = await (client.get(url) if body is None else client.post(url, json=body))
    assert reply.status_code == exchange["status"]
    assert reply.headers.get("content-type", "") == exchange["content_type"]
    if exchange["status"] >= 400:
        assert reply.text == exchange["reply"]
    else:
        ours, real = read(exchange["content_type"], reply.text), read(exchange["content_type"], exchange["reply"])
        assert json.dumps(ours, indent=1) == json.dumps(real, indent=1)
