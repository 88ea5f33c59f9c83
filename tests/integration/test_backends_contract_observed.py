"""The contract over a real socket: a scripted vLLM tells all of it, and a changed one is noticed."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from backends.contract import observe
from backends.openai import OpenAIBackend
from backends.scripted import Fault, Script, ScriptedServer


@pytest.mark.asyncio
async def test_observed_and_compared() -> None:
    script = Script(model="m", max_model_len=4096)
    changed = replace(script, version="0.33.0", max_model_len=2048, fingerprint="vllm-0.33.0-ffffffff")
    seen = []
    for played in (script, script.as_healthy_quantized(), changed):
        async with ScriptedServer(played) as server:
            backend = OpenAIBackend(
                "reference", server.url, api_key=None, connect_timeout_s=2.0, max_reply_bytes=1 << 20, max_connections=2
            )
            seen.append(await observe(backend, "m"))
            server.set_fault(Fault.LOGPROBS, 1.0)
            seen.append(await observe(backend, None))
            await backend.aclose()
    assert set(seen[0].as_dict()) == {
        "engine_version",
        "model",
        "max_model_len",
        "root",
        "template",
        "system_fingerprint",
    }
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert [f.name for f in fields(seen[0]) if getattr(seen[0], f.name) != getattr(seen[4], f.name)] == [
        "engine_version",
        "max_model_len",
        "system_fingerprint",
    ]
