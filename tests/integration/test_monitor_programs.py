"""Relay and monitor as processes: what travels with a shadow call, and what a monitor that leaves leaves behind."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path

import httpx
import orjson
import pytest

from backends.scripted import Script, ScriptedServer
from proxy.monitor.ledger_reader import open_read_only
from tests.integration.system_rig import Program, program, until, write_settings

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


async def ask(http: httpx.AsyncClient, relay: Program, **headers: str) -> None:
    reply = await http.post(f"http://127.0.0.1:{relay.port}/v1/chat/completions", json=BODY, headers=headers)
    assert reply.status_code == 200


def rows(folder: Path) -> list[tuple[int, str, str | None]]:
    """(sequence, disposition, reason) of every row of the first epoch."""
    reader = open_read_only(folder / "ledger.sqlite")
    return [(row.sequence, row.disposition, row.reason) for row in reader.rows(1)]


@pytest.mark.asyncio
async def test_a_forwarded_header_reaches_the_reference_and_nothing_else_of_the_client_does(tmp_path: Path) -> None:
    more = '[mirror]\nforward_headers = ["X-Tenant"]\n'
    async with ScriptedServer() as candidate, ScriptedServer(Script(record=100)) as reference:
        config = write_settings(tmp_path, candidate.url, reference.url, rate=1.0, more=more)
        async with program("monitor", config), program("relay", config) as relay, httpx.AsyncClient() as http:
            await ask(http, relay, **{"x-tenant": "blue", "authorization": "Bearer theirs", "x-other": "no"})
            await until(lambda: any(b"hello" in r.body for r in reference.requests))
    (call,) = [r for r in reference.requests if b"hello" in r.body][:1]  # the others ask what the engine can do
    sent = {name.lower(): value for name, value in call.headers}
    assert sent[b"x-tenant"] == b"blue"
    assert not {b"authorization", b"x-other"} & set(sent)
    assert orjson.loads(call.body)["messages"] == BODY["messages"]


@pytest.mark.asyncio
async def test_what_is_sampled_while_a_monitor_leaves_is_the_next_ones(tmp_path: Path) -> None:
    async with ScriptedServer() as candidate, ScriptedServer(Script(record=100)) as reference:
        config = write_settings(tmp_path, candidate.url, reference.url, rate=1.0)
        async with program("relay", config) as relay, httpx.AsyncClient() as http:
            async with program("monitor", config) as monitor:
                url = f"http://127.0.0.1:{monitor.port}/readyz"
                while not all((await http.get(url)).json()["conditions"].values()):  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.01)
                reference.script = replace(reference.script, ttft_s=2.0)  # the first exchange holds the monitor
                await ask(http, relay)
                await until(lambda: any(b"hello" in r.body for r in reference.requests))
                monitor.process.terminate()
                for _ in range(4):
                    await ask(http, relay)
                await monitor.process.wait()
            reference.script = replace(reference.script, ttft_s=0.0)
            assert rows(tmp_path)[0] == (0, "scored", None)
            async with program("monitor", config):
                await until(lambda: len(rows(tmp_path)) >= 5)
    assert rows(tmp_path) == [(n, "scored", None) for n in range(5)]


ALONE = ("unshare", "--pid", "--fork", "--kill-child")


@pytest.mark.skipif(
    subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0,
    reason="not permitted to make a pid namespace",
)
@pytest.mark.asyncio
async def test_a_relay_that_is_restarted_in_its_container_is_another_worker(tmp_path: Path) -> None:
    """It has the same pid there, and numbers from 0 again: its exchanges must not pass for those of the one before."""
    async with ScriptedServer() as candidate, ScriptedServer() as reference:
        config = write_settings(tmp_path, candidate.url, reference.url, rate=1.0)
        async with program("monitor", config), httpx.AsyncClient() as http:
            for life in (1, 2):
                async with program("relay", config, through=ALONE) as relay:
                    for _ in range(3):
                        await ask(http, relay)
                    await until(lambda life=life: len(rows(tmp_path)) >= 3 * life)  # type: ignore[misc]
                    relay.kill()  # unshare itself does not listen to SIGTERM
    assert rows(tmp_path) == [(n, "scored", None) for n in range(3)] * 2
