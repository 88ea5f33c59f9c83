"""The emulator over real sockets: what clients of vLLM read, and what happens when they leave, crowd in or err."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from backends.contract import observe
from backends.emulator.recipes import RECIPES
from backends.openai import OpenAIBackend
from backends.shape import ShadowCall, shape_replay, shape_teacher_forced
from scorers.decode import decode_reply, decode_teacher_forced
from tests.integration.emulator_world import ASK_WEATHER, SUM, WEATHER, chat, emulator, until
from tests.integration.test_backends_scripted_fidelity import _EXCHANGES, read
from tests.unit.emulator_rig import CONFIG, write_model

pytestmark = [pytest.mark.asyncio, pytest.mark.together]

LONG = [{"role": "user", "content": "word " * 1_500}]


@pytest.mark.parametrize("exchange", _EXCHANGES, ids=lambda exchange: exchange["name"])
async def test_replies_have_the_fields_of_the_real_one(exchange: dict[str, Any], tmp_path: Path) -> None:
    """The recording was made with a model of random weights; so is this one."""
    body = exchange["body"]
    if exchange["name"] == "prompt beyond context":
        body = {**body, "messages": [{"role": "user", "content": "word " * 3_000}]}
    directory = write_model(tmp_path, {**CONFIG, "max_position_embeddings": 2_048})
    async with emulator(directory=directory) as (_, client):
        path = exchange["path"]
        reply = await (client.get(path) if body is None else client.post(path, json=body))
    assert reply.status_code == exchange["status"]
    assert reply.headers.get("content-type", "") == exchange["content_type"]
    if exchange["status"] >= 400:
        assert reply.text == exchange["reply"]
    else:
        ours, real = read(exchange["content_type"], reply.text), read(exchange["content_type"], exchange["reply"])
        assert json.dumps(ours, indent=1) == json.dumps(real, indent=1)


async def test_the_official_client_whole_and_streamed() -> None:
    async with emulator() as (server, _), openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="-") as client:
        whole = await client.chat.completions.create(
            model="m", messages=SUM, temperature=0, logprobs=True, top_logprobs=3
        )
        assert whole.choices[0].message.content == "17 + 25 = 42"
        assert whole.choices[0].finish_reason == "stop"
        steps = whole.choices[0].logprobs.content
        assert "".join(step.token for step in steps) == "17 + 25 = 42<|im_end|>"
        assert all(len(step.top_logprobs) == 3 and step.logprob <= 0 for step in steps)
        assert whole.usage.completion_tokens == len(steps)
        stream = await client.chat.completions.create(
            model="m", messages=SUM, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "17 + 25 = 42"
        assert chunks[-1].usage == whole.usage.model_copy(
            update={"prompt_tokens_details": None, "completion_tokens_details": None}
        )
        assert {chunk.system_fingerprint for chunk in chunks if chunk.system_fingerprint} == {whole.system_fingerprint}


async def test_tool_calls_whole_and_streamed() -> None:
    async with emulator() as (server, _), openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="-") as client:
        asked: dict[str, Any] = {"model": "m", "messages": ASK_WEATHER, "tools": [WEATHER], "temperature": 0}
        whole = (await client.chat.completions.create(**asked)).choices[0]
        (call,) = whole.message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "get_weather",
            {"city": "Lisbon", "days": 3},
        )
        assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")
        name = arguments = ""
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            for delta in chunk.choices[0].delta.tool_calls or []:
                name += delta.function.name or ""
                arguments += delta.function.arguments or ""
            finish = chunk.choices[0].finish_reason
        assert (name, arguments, finish) == ("get_weather", call.function.arguments, "tool_calls")


async def test_forced_calls_and_no_calls() -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    async with emulator() as (_, client):
        for choice, finish in ((named, "stop"), ("required", "tool_calls")):
            (one,) = (await chat(client, ASK_WEATHER, tools=[WEATHER], tool_choice=choice))["choices"]
            assert one["message"]["tool_calls"][0]["function"]["name"] == "get_weather"
            assert one["finish_reason"] == finish
        (one,) = (await chat(client, ASK_WEATHER, tools=[WEATHER], tool_choice="none"))["choices"]
        assert "tool_calls" not in one["message"]
        assert one["message"]["content"].startswith('<tool_call>{"name": "get_weather"')


async def test_what_the_product_reads() -> None:
    """Its own client, its own shadow calls, its own decoder: aligned and teacher-forced logprobs of one reply."""
    headers = {"content-type": "application/json"}
    body = {"model": "m", "messages": SUM, "temperature": 0}
    async with emulator() as (server, _):
        backend = OpenAIBackend(
            "reference", server.url, api_key=None, connect_timeout_s=2.0, max_reply_bytes=1 << 22, max_connections=2
        )
        seen = await observe(backend, "m")
        assert all(value is not None for value in seen.as_dict().values())
        assert (seen.max_model_len, seen.model) == (5_120, "m")
        assert seen == await observe(backend, None)
        call = shape_replay(
            body, "/v1/chat/completions", model=None, top_logprobs=20, greedy=True, seed=1, max_tokens_cap=None
        )
        assert isinstance(call, ShadowCall)
        reply = await backend.post(call.path, call.body, headers, 30.0)
        decoded = decode_reply("chat", reply.content_type, reply.body)
        raw = json.loads(reply.body)
        prompt, said = raw["prompt_token_ids"], raw["choices"][0]["token_ids"]
        assert decoded.choices[0].text == "17 + 25 = 42"
        forced = shape_teacher_forced(prompt, said, model=None, top_logprobs=20)
        scored = await backend.post(forced.path, forced.body, headers, 30.0)
        await backend.aclose()
    decode_teacher_forced(scored.body, len(prompt), len(said))
    rows = json.loads(scored.body)["choices"][0]["prompt_logprobs"]
    assert rows[0] is None
    assert len(rows) == len(prompt) + len(said)
    for step, row, token in zip(raw["choices"][0]["logprobs"]["content"], rows[len(prompt) :], said, strict=True):
        assert abs(step["logprob"] - row[str(token)]["logprob"]) < 0.05  # one prefill rounds otherwise than many steps


async def test_equal_requests_get_equal_replies_whatever_runs_beside_them() -> None:
    async with emulator() as (_, client):
        alone = await chat(client, SUM, logprobs=True, top_logprobs=5)
        crowd = [chat(client, [{"role": "user", "content": f"What is {n} + 4?"}]) for n in range(12)]
        replies = await asyncio.gather(chat(client, SUM, logprobs=True, top_logprobs=5), *crowd)
        assert replies[0]["choices"] == alone["choices"]
        told = [reply["choices"][0]["message"]["content"] for reply in replies[1:]]
        assert told == [f"{n} + 4 = {n + 4}" for n in range(12)]


async def test_seeds_and_choices() -> None:
    asked = {"prompt": "hello there", "temperature": 1.5, "max_tokens": 12, "n": 3}
    async with emulator() as (_, client):
        replies = [(await client.post("/v1/completions", json={**asked, "seed": seed})).json() for seed in (5, 5, 6)]
    texts = [[choice["text"] for choice in reply["choices"]] for reply in replies]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 3


async def test_streams_progress_together_and_echo_shows_the_prompt() -> None:
    async with emulator() as (_, client):
        order: list[int] = []

        async def listen(number: int) -> None:
            asked = {"messages": SUM, "temperature": 0, "stream": True, "ignore_eos": True, "max_tokens": 60}
            async with client.stream("POST", "/v1/chat/completions", json=asked) as reply:
                async for line in reply.aiter_lines():
                    order.extend([number] * line.startswith("data: {"))

        await asyncio.gather(*(listen(number) for number in range(3)))
        first_ends = min(max(at for at, one in enumerate(order) if one == number) for number in range(3))
        assert {order.index(number) < first_ends for number in range(3)} == {True}
        body = {"prompt": "hello there", "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 2}
        (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
        assert choice["text"].startswith("hello there")
        logprobs = choice["logprobs"]
        assert "".join(logprobs["tokens"]) == choice["text"]
        assert logprobs["token_logprobs"][0] is None
        assert len(logprobs["tokens"]) == len(choice["prompt_logprobs"]) + 3


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_generation(stream: bool) -> None:
    asked = {"messages": LONG, "stream": stream, "ignore_eos": True, "max_tokens": 3_000}
    async with emulator() as (server, client):
        task = asyncio.create_task(_hang(client, asked))
        await until(lambda: server.engine.stats["tokens"] > 3)
        task.cancel()
        await until(lambda: server.engine.load == {"waiting": 0, "running": 0})
        assert server.engine.stats["cancelled"] == 1
        assert server.engine.stats["tokens"] < 3_000
        assert (await chat(client, SUM))["choices"][0]["message"]["content"] == "17 + 25 = 42"


async def test_a_full_queue_is_503_and_the_rest_is_answered() -> None:
    asked = {"messages": SUM, "temperature": 0, "ignore_eos": True, "max_tokens": 400}
    async with emulator(max_waiting=2) as (_, client):
        calls = [client.post("/v1/chat/completions", json=asked) for _ in range(30)]
        replies = await asyncio.gather(*calls)
        stats = (await client.get("/_emulator/stats")).json()
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 503}
    assert statuses.count(503) == stats["refused"]
    refused = next(reply for reply in replies if reply.status_code == 503)
    assert refused.json()["error"]["type"] == "ServiceUnavailableError"
    assert "queue holds 2" in refused.json()["error"]["message"]


async def test_recipes_are_switched_between_replies() -> None:
    asked = {"messages": SUM, "temperature": 0, "ignore_eos": True, "max_tokens": 200, "logprobs": True}
    async with emulator() as (server, client):
        undisturbed = (await client.post("/v1/chat/completions", json=asked)).json()
        before = (await client.get("/_emulator/recipe")).json()
        running = asyncio.create_task(client.post("/v1/chat/completions", json=asked))
        await until(lambda: server.engine.stats["tokens"] > 203)
        switched = await client.post("/_emulator/recipe", json={"recipe": "int4-kv-per-tensor"})
        assert switched.json() == RECIPES["int4-kv-per-tensor"].as_dict()
        old = (await running).json()
        new = await chat(client, SUM)
        now = (await client.get("/_emulator/recipe")).json()
        listed = (await client.get("/_emulator/recipes")).json()
    assert old["choices"] == undisturbed["choices"]
    assert old["system_fingerprint"] == before["system_fingerprint"] != new["system_fingerprint"]
    assert new["system_fingerprint"] == now["system_fingerprint"]
    assert [one["recipe"] for one in listed] == list(RECIPES)


async def test_a_recipe_reads_no_keys_that_another_left() -> None:
    """The same long prompt before and after a switch, against an engine that never had another recipe."""
    facts = " ".join(f"The code of box {number} is {number * 37 % 1000}." for number in range(40))
    asked = {
        "messages": [{"role": "user", "content": f"{facts} What is the code of box 7?"}],
        "temperature": 0,
        "max_tokens": 20,
        "logprobs": True,
        "top_logprobs": 5,
    }
    async with emulator() as (server, client):
        await client.post("/v1/chat/completions", json=asked)
        again = (await client.post("/v1/chat/completions", json=asked)).json()
        assert server.engine.stats["cached_tokens"] > 256
        assert again["usage"]["prompt_tokens"] > 512
        await client.post("/_emulator/recipe", json={"recipe": "int4-kv-per-tensor"})
        switched = (await client.post("/v1/chat/completions", json=asked)).json()
    async with emulator() as (_, client):
        await client.post("/_emulator/recipe", json={"recipe": "int4-kv-per-tensor"})
        afresh = (await client.post("/v1/chat/completions", json=asked)).json()
    assert switched["choices"] == afresh["choices"]
    assert switched["choices"] != again["choices"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"recipe": "int3"}, "there are bf16"),
        ({"recipe": "weights=int4:group100"}, "a group of 100 does not divide 256 inputs"),
        ({"recipe": "kv=int4:block24"}, "a block of 24 does not divide a head of 64"),
        ({"recipe": 5}, '{"recipe": NAME} is wanted'),
        ([], '{"recipe": NAME} is wanted'),
    ],
)
async def test_a_recipe_that_cannot_be_leaves_the_old_one(body: object, told: str) -> None:
    async with emulator() as (_, client):
        reply = await client.post("/_emulator/recipe", json=body)
        assert (reply.status_code, told in reply.json()["error"]["message"]) == (400, True)
        assert (await client.get("/_emulator/recipe")).json()["recipe"] == "bf16"
        assert (await chat(client, SUM))["choices"][0]["message"]["content"] == "17 + 25 = 42"


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/completions", {"prompt": [1, 5_000]}, "5000 is out of vocabulary"),
        ("/v1/completions", {"prompt": list(range(3, 1_000)) * 6}, "maximum context length is 5120 tokens"),
        ("/v1/completions", {"prompt": ""}, "cannot be empty"),
        ("/v1/chat/completions", {"messages": SUM, "response_format": {"type": "json_object"}}, "structured outputs"),
        ("/v1/chat/completions", {"messages": SUM, "top_p": 7}, "top_p must be in"),
        ("/v1/chat/completions", {"messages": SUM, "temperature": 1, "n": 50}, "at most 32"),
        ("/v1/chat/completions", {"messages": SUM, "continue_final_message": True}, "continue_final_message"),
        (
            "/v1/chat/completions",
            {"messages": SUM, "tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "fly"}}},
            "`fly`",
        ),
    ],
)
async def test_what_cannot_be_done_is_said(path: str, body: dict[str, Any], told: str) -> None:
    async with emulator() as (_, client):
        reply = await client.post(path, json=body)
        assert reply.status_code == 400, reply.text
        assert told in reply.json()["error"]["message"]


async def test_a_step_that_fails_ends_its_requests_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async with emulator() as (server, client):
        whole = server.engine._forward.decode

        def broken(*arguments: Any) -> Any:
            monkeypatch.undo()
            raise FloatingPointError("planted")

        monkeypatch.setattr(server.engine._forward, "decode", broken)
        reply = await client.post("/v1/chat/completions", json={"messages": SUM, "temperature": 0})
        assert reply.status_code == 500
        assert reply.json()["error"]["type"] == "InternalServerError"
        assert server.engine._forward.decode == whole
        assert (await chat(client, SUM))["choices"][0]["message"]["content"] == "17 + 25 = 42"
        assert server.engine.stats["failed"] == 1


async def test_closing_tells_whoever_waits() -> None:
    asked = {"messages": SUM, "temperature": 0, "ignore_eos": True, "max_tokens": 4_000}
    async with emulator() as (server, client):
        task = asyncio.create_task(client.post("/v1/chat/completions", json=asked))
        await until(lambda: server.engine.stats["tokens"] > 3)
    with pytest.raises(httpx.TransportError):
        await task
    assert not server.engine.alive


async def _hang(client: httpx.AsyncClient, asked: dict[str, Any]) -> None:
    async with client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        async for _ in reply.aiter_bytes():
            pass
