"""Bodies that are no requests: the relay passes them on, the engine's answer comes back, the monitor counts them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.scripted import ScriptedServer
from proxy.demo.stage import serving

BODIES = {
    "malformed": b'{"model": "m", "messages": [',
    "not utf-8": b'{"model": "m", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "empty": b"",
    "a list": b"[1, 2]",
    "deep": b"[" * 20_000,
    "nan": b'{"model": "m", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
    "wrong types": b'{"model": 7, "messages": "hello", "tools": 3, "stream": "yes"}',
    "another model": b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}',
    "prompt beside messages": b'{"model": "m", "prompt": "' + b"x " * 400 + b'", "messages": ["x"], "temperature": 0}',
}


@pytest.mark.asyncio
async def test_bad_input_is_the_engines_to_answer(tmp_path: Path) -> None:
    assert sys.getrecursionlimit() < 20_000, "the deep body must be deeper than a recursive parser goes"
    async with ScriptedServer() as candidate, ScriptedServer() as reference, httpx.AsyncClient(timeout=30) as http:
        config = tmp_path / "parity.toml"
        config.write_text(
            f'[candidate]\nurl = "{candidate.url}"\n[reference]\nurl = "{reference.url}"\n[relay]\nport = 0\n'
            f'[control]\nport = 0\n[feed]\nsocket = "{tmp_path}/feed.sock"\n[ledger]\npath = "{tmp_path}/l.sqlite"\n'
            "[sampling]\nrate = 1.0\n[budgets.tool_call_mismatch]\nlimit = 0.03\ncritical = true\n"
        )
        async with serving(config) as urls:
            for path in ("/v1/chat/completions", "/v1/completions"):
                for name, body in BODIES.items():
                    headers = {"content-type": "application/json"}
                    served = await http.post(urls["relay"] + path, content=body, headers=headers)
                    direct = await http.post(candidate.url + path, content=body, headers=headers)
                    assert (served.status_code, served.content) == (direct.status_code, direct.content), (path, name)
            sent = 2 * len(BODIES)
            coverage = await _coverage(http, urls["control"], "sampled", sent)
            assert coverage["scored"] + sum(coverage["ineligible"].values()) + sum(coverage["lost"].values()) == sent
            good = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}
            assert (await http.post(f"{urls['relay']}/v1/chat/completions", json=good)).status_code == 200
            await _coverage(http, urls["control"], "scored", coverage["scored"] + 1)


async def _coverage(http: httpx.AsyncClient, control: str, count: str, least: int) -> dict[str, Any]:
    """The coverage once one of its counts has come up to `least`."""
    async with asyncio.timeout(30):
        while True:
            coverage: dict[str, Any] = (await http.get(f"{control}/gate")).json()["coverage"]
            if coverage[count] >= least:
                return coverage
            await asyncio.sleep(0.1)
