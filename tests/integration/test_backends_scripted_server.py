"""The scripted vLLM as its users meet it: two servers agree, faults come and go, the official client understands it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from itertools import islice
from typing import Any

import httpx
import openai
import orjson
import pytest

from backends.scripted import Fault, Script, ScriptedServer
from backends.scripted.traffic import TOOLS, sent
from backends.shape import ShadowCall, shape_replay, shape_teacher_forced

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Tell me about lamps"}],
    "temperature": 0,
}
WEATHER = [{"role": "user", "content": 'Get the weather forecast for "Oslo" over 3 days in celsius'}]


@pytest.mark.asyncio
async def test_two_servers_agree_to_the_byte() -> None:
    async with ScriptedServer() as one, ScriptedServer() as other, httpx.AsyncClient() as client:
        for request in islice(sent(11), 60):
            replies = [await client.post(server.url + request.path, json=request.body) for server in (one, other, one)]
            assert replies[0].status_code == 200
            assert replies[0].content == replies[1].content == replies[2].content
            assert replies[0].headers.raw == replies[1].headers.raw


@pytest.mark.asyncio
async def test_teacher_forcing_over_http_repeats_decoding() -> None:
    plan: dict[str, Any] = {"model": None, "top_logprobs": 20, "greedy": True, "seed": None, "max_tokens_cap": None}
    async with ScriptedServer() as server, httpx.AsyncClient() as client:
        call = shape_replay(HELLO, CHAT, **plan)
        assert isinstance(call, ShadowCall)
        headers = {"content-type": "application/json"}
        said = (await client.post(server.url + call.path, content=call.body, headers=headers)).json()
        choice = said["choices"][0]
        forced = shape_teacher_forced(said["prompt_token_ids"], choice["token_ids"], model="m", top_logprobs=20)
        rows = (await client.post(server.url + forced.path, content=forced.body, headers=headers)).json()
    prompt_logprobs = rows["choices"][0]["prompt_logprobs"]
    assert prompt_logprobs[0] is None
    assert len(prompt_logprobs) == len(said["prompt_token_ids"]) + len(choice["token_ids"])
    for row, entry in zip(prompt_logprobs[len(said["prompt_token_ids"]) :], choice["logprobs"]["content"], strict=True):
        decoded = {one["token"].removeprefix("token_id:"): one["logprob"] for one in entry["top_logprobs"]}
        assert {token: value["logprob"] for token, value in row.items()} == decoded


@pytest.mark.asyncio
async def test_the_official_client_understands_everything() -> None:
    async with ScriptedServer() as server, openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x") as typed:
        client: Any = typed  # its own types want its own message classes; a client in the wild sends plain dicts
        called = await client.chat.completions.create(model="m", messages=WEATHER, tools=TOOLS, temperature=0)
        (call,) = called.choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Oslo", "days": 3, "unit": "celsius"}
        assert called.choices[0].finish_reason == "tool_calls"
        stream = await client.chat.completions.create(
            model="m", messages=HELLO["messages"], temperature=0, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        whole = await client.chat.completions.create(model="m", messages=HELLO["messages"], temperature=0)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == openai.types.CompletionUsage(
            prompt_tokens=whole.usage.prompt_tokens,
            completion_tokens=whole.usage.completion_tokens,
            total_tokens=whole.usage.total_tokens,
        )
        assert [model.id for model in (await client.models.list()).data] == ["m"]
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(model="other", messages=HELLO["messages"])


@pytest.mark.asyncio
async def test_faults_are_planted_and_taken_away_over_http() -> None:
    body = {"model": "m", "messages": WEATHER, "tools": TOOLS, "temperature": 0}
    async with ScriptedServer() as server, httpx.AsyncClient(base_url=server.url) as client:
        healthy = (await client.post(CHAT, json=body)).json()
        assert (await client.post("/_scripted/faults", json={"tool_name": 1.0})).json() == {"tool_name": 1.0}
        wrong = (await client.post(CHAT, json=body)).json()
        refused = await client.post("/_scripted/faults", json={"tool_name": 0, "no_such": 1})
        assert refused.status_code == 400
        assert "no_such" in refused.json()["error"]["message"]
        assert (await client.get("/_scripted/faults")).json() == {"tool_name": 1.0}
        assert (await client.get("/_scripted/stats")).json() == {
            "requests": 2,
            "in_flight": 0,
            "struck": {"tool_name": 1},
        }
        await client.post("/_scripted/faults", json={"tool_name": 0})
        assert (await client.post(CHAT, json=body)).json() == healthy
    names = [one["choices"][0]["message"]["tool_calls"][0]["function"]["name"] for one in (healthy, wrong)]
    assert names[0] == "get_weather" != names[1]


@pytest.mark.asyncio
@pytest.mark.parametrize("tools", [True, False])
async def test_another_template_counts_more_where_a_chat_brings_no_system_turn(tools: bool) -> None:
    offered = {"tools": TOOLS} if tools else {}
    bare = {"model": "m", "messages": WEATHER[-1:], "temperature": 0, **offered}
    brought = {**bare, "messages": [{"role": "system", "content": "Desk."}, *WEATHER[-1:]]}
    async with ScriptedServer() as server, httpx.AsyncClient(base_url=server.url) as client:

        async def counts(body: Any) -> tuple[int, int]:
            reply = (await client.post(CHAT, json=body)).json()
            return reply["usage"]["prompt_tokens"], (await client.post("/tokenize", json=body)).json()["count"]

        before = [await counts(body) for body in (bare, brought)]
        server.set_fault(Fault.TEMPLATE, 1.0)
        after = [await counts(body) for body in (bare, brought)]
        assert server.faults.struck == {"template": 1}
    assert [served for served, _ in (*before, *after)] == [told for _, told in (*before, *after)]
    assert after[0][0] > before[0][0]
    assert after[1] == before[1]


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"{", b'{"text": null}'])
async def test_a_bad_control_request_is_a_400(body: bytes) -> None:
    async with ScriptedServer() as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.post("/_scripted/faults", content=body)).status_code == 400
        assert server.faults.rates == {}


@pytest.mark.asyncio
async def test_a_fault_strikes_the_same_requests_however_they_are_asked() -> None:
    plan: dict[str, Any] = {"model": None, "top_logprobs": 5, "greedy": True, "seed": None, "max_tokens_cap": None}
    async with (
        ScriptedServer(Script(faults={"tool_argument": 0.5})) as server,
        ScriptedServer() as healthy,
        httpx.AsyncClient() as client,
    ):
        struck = []
        for number in range(2, 30):
            body = {
                "model": "m",
                "messages": [{"role": "user", "content": f"Track the order OR-{number}00 and its status"}],
                "tools": TOOLS,
                "temperature": 0,
            }
            call = shape_replay(body, CHAT, **plan)
            assert isinstance(call, ShadowCall)
            seen = [
                (await client.post(server.url + CHAT, json=body)).json(),
                (await client.post(server.url + CHAT, json=orjson.loads(call.body))).json(),
                (await client.post(healthy.url + CHAT, json=body)).json(),
            ]
            served, replayed, right = (one["choices"][0]["message"]["tool_calls"][0]["function"] for one in seen)
            assert served == replayed
            struck.append(served != right)
    assert 5 < sum(struck) < 23


@pytest.mark.asyncio
async def test_logprob_fault_moves_the_distribution_and_nothing_else() -> None:
    body = {**HELLO, "logprobs": True, "top_logprobs": 5}
    async with ScriptedServer() as server, httpx.AsyncClient(base_url=server.url) as client:
        before = (await client.post(CHAT, json=body)).json()["choices"][0]
        server.set_fault(Fault.LOGPROBS, 1.0)
        after = (await client.post(CHAT, json=body)).json()["choices"][0]
        assert server.faults.struck == {"logprobs": 1}
    assert after["message"] == before["message"]
    assert after["logprobs"] != before["logprobs"]


@pytest.mark.asyncio
async def test_a_noisy_reference_differs_from_itself_at_its_rate() -> None:
    body = {**HELLO, "logprobs": True, "top_logprobs": 5, "max_tokens": 3}
    async with ScriptedServer(Script(noise=0.2)) as server, httpx.AsyncClient(base_url=server.url) as client:
        seen = [(await client.post(CHAT, json=body)).content for _ in range(200)]
    usual = max(set(seen), key=seen.count)
    assert 15 < sum(one != usual for one in seen) < 70


@pytest.mark.asyncio
async def test_tokens_arrive_at_their_cadence() -> None:
    script = Script(ttft_s=0.15, token_interval_s=0.03)
    body = {**HELLO, "stream": True, "max_tokens": 6}
    async with ScriptedServer(script) as server, httpx.AsyncClient(base_url=server.url) as client:
        started = time.perf_counter()
        async with client.stream("POST", CHAT, json=body) as reply:
            first = time.perf_counter() - started
            times = [time.perf_counter() - started async for line in reply.aiter_lines() if line]
        started = time.perf_counter()
        await client.post(CHAT, json={**body, "stream": False})
        whole = time.perf_counter() - started
    assert first >= 0.14
    assert times[-1] - times[0] >= 0.15
    assert len(times) == 8
    assert whole >= 0.15 + 6 * 0.03 - 0.02


@pytest.mark.asyncio
async def test_a_slow_fault_slows_one_server_down() -> None:
    async with ScriptedServer(Script(faults={"slow": 1.0})) as server, httpx.AsyncClient() as client:
        started = time.perf_counter()
        assert (await client.post(server.url + CHAT, json=HELLO)).status_code == 200
    assert time.perf_counter() - started >= 0.5


@pytest.mark.asyncio
async def test_a_long_prompt_costs_milliseconds() -> None:
    body = {**HELLO, "messages": [{"role": "user", "content": "Record TR-1234 was closed. " * 500 + "So?"}]}
    async with ScriptedServer() as server, httpx.AsyncClient(base_url=server.url) as client:
        fastest = 9.0
        for _ in range(5):
            started = time.perf_counter()
            reply = (await client.post(CHAT, json=body)).json()
            fastest = min(fastest, time.perf_counter() - started)
    assert reply["usage"]["prompt_tokens"] > 6_000
    assert fastest < 0.1  # 6 ms on the machine it was written on; the bound only catches something quadratic


@pytest.mark.asyncio
async def test_as_a_process() -> None:
    arguments = (
        "-m",
        "backends.scripted",
        "--model",
        "q",
        "--fault",
        "tool_name",
        "--fault",
        "needle=0.5",
        "--record",
        "3",
    )
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20.0):
            told = json.loads(await process.stdout.readline())
        async with httpx.AsyncClient(base_url=told["url"]) as client:
            assert (await client.post(CHAT, json={**HELLO, "model": "q"})).status_code == 200
            assert (await client.get("/_scripted/faults")).json() == {"tool_name": 1.0, "needle": 0.5}
            (recorded,) = (await client.get("/_scripted/requests")).json()
            assert recorded["head"].startswith(f"POST {CHAT} HTTP/1.1\r\n")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10.0):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.asyncio
@pytest.mark.parametrize("wrong", [("--fault", "no_such"), ("--fault", "text=2"), ("--fault", "text=x")])
async def test_a_wrong_fault_is_refused_at_the_start(wrong: tuple[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "backends.scripted", *wrong, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20.0):
        _, stderr = await process.communicate()
    assert process.returncode == 2
    assert b"Traceback" not in stderr
