"""The probe over real sockets: a scripted engine that can do everything, and one that lacks each thing in each way."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import orjson
import pytest

from backends.capabilities import LACKING, Asking, Capabilities, Capability, Finding, asking, find
from backends.openai import OpenAIBackend
from backends.scripted import Fault, Script, ScriptedServer

pytestmark = pytest.mark.asyncio

HAS, UNKNOWN = Finding.HAS, Finding.UNKNOWN


def client(url: str, name: str = "reference") -> OpenAIBackend:
    return OpenAIBackend(name, url, api_key=None, connect_timeout_s=1.0, max_reply_bytes=1 << 20, max_connections=2)


async def found(script: Script, *, forcing: bool = True, model: str | None = "m", top: int = 20) -> Capabilities:
    async with ScriptedServer(script) as server:
        backend = client(server.url)
        try:
            return await find(backend, model, top_logprobs=top, teacher_forcing=forcing)
        finally:
            await backend.aclose()


def lacking(of: Capabilities) -> dict[str, str]:
    return {str(capability): str(finding) for capability, finding in of.findings.items() if finding in LACKING}


async def test_a_whole_engine_is_known_by_few_requests() -> None:
    of = await found(Script(record=32))
    assert set(of.findings) == set(Capability)
    assert set(of.findings.values()) == {HAS}
    assert of.answered
    assert (of.top_logprobs, of.max_model_len, of.engine) == (20, 32_768, "vllm")
    assert of.requests <= 11
    assert orjson.loads(orjson.dumps(of.as_dict()))["findings"]["prompt_logprobs"] == "has"


@pytest.mark.parametrize(
    ("lacks", "shows"),
    [
        ({"logprobs": "ignored"}, {"logprobs": "ignored", "top_logprobs": "ignored", "token_id_keys": "ignored",
                                   "stream_logprobs": "ignored"}),
        ({"logprobs": "refused"}, {"logprobs": "refused", "top_logprobs": "refused", "token_id_keys": "refused",
                                   "stream_logprobs": "refused"}),
        ({"top_logprobs": "ignored"}, {"top_logprobs": "ignored"}),
        ({"top_logprobs": "refused"}, {"top_logprobs": "refused"}),
        ({"token_ids": "ignored"}, {"token_ids": "ignored"}),
        ({"token_ids": "refused"}, {"token_ids": "refused"}),
        ({"token_id_keys": "ignored"}, {"token_id_keys": "ignored"}),
        ({"token_id_keys": "refused"}, {"token_id_keys": "refused"}),
        ({"prompt_logprobs": "ignored"}, {"prompt_logprobs": "ignored"}),
        ({"prompt_logprobs": "refused"}, {"prompt_logprobs": "refused"}),
        ({"tools": "ignored"}, {"tools": "ignored", "tool_choice": "ignored"}),
        ({"tools": "refused"}, {"tools": "refused", "tool_choice": "refused"}),
        ({"tool_choice": "ignored"}, {"tool_choice": "ignored"}),
        ({"tool_choice": "refused"}, {"tool_choice": "refused"}),
        ({"seed": "refused"}, {"seed": "refused"}),
        ({"stream_logprobs": "ignored"}, {"stream_logprobs": "ignored"}),
        ({"stream_logprobs": "refused"}, {"stream_logprobs": "refused"}),
        ({"tokenize": "missing"}, {"tokenize": "missing"}),
        ({"tokenize": "ignored"}, {"tokenize": "ignored"}),
        ({"version": "missing"}, {"version": "missing"}),
        ({"max_model_len": "ignored"}, {"max_model_len": "ignored"}),
        ({"completions": "missing"}, {"completions": "missing", "prompt_logprobs": "missing"}),
        ({"token_ids": "refused", "token_id_keys": "refused", "seed": "refused"},
         {"token_ids": "refused", "token_id_keys": "refused", "seed": "refused"}),
    ],
    ids=lambda given: ",".join(f"{name}={how}" for name, how in given.items()),
)  # fmt: skip
async def test_each_lack_shows_as_itself_and_as_nothing_else(
    lacks: Mapping[str, str], shows: Mapping[str, str]
) -> None:
    of = await found(Script(lacks=lacks))
    assert lacking(of) == shows
    assert of.answered
    assert of.requests <= 20
    for capability, finding in of.findings.items():
        assert finding is not Finding.REFUSED or capability in of.why, capability


async def test_without_chats_nothing_is_known_of_them() -> None:
    of = await found(Script(lacks={"chat": "missing"}))
    assert lacking(of) == {"chat": "missing"}
    assert of.of(Capability.TOOLS) is UNKNOWN
    assert of.of(Capability.PROMPT_LOGPROBS) is HAS
    assert of.answered


async def test_the_cap_of_the_lists_is_found() -> None:
    for how, most, says in (("refused", 5, 5), ("refused", 12, 10), ("ignored", 7, 7), ("refused", 3, 1)):
        of = await found(Script(lacks={"top_logprobs": how}, most_top_logprobs=most))
        assert of.top_logprobs == says
    assert not lacking(await found(Script(lacks={"top_logprobs": "refused"}, most_top_logprobs=5), top=5))


async def test_an_arm_that_serves_clients_is_never_asked_for_prompt_logprobs() -> None:
    async with ScriptedServer(Script(record=64)) as server:
        backend = client(server.url)
        of = await find(backend, "m", top_logprobs=20, teacher_forcing=False)
        await backend.aclose()
        assert Capability.PROMPT_LOGPROBS not in of.findings
        assert len(server.requests) == of.requests
        assert not any(b"prompt_logprobs" in request.body for request in server.requests)
        asked = [orjson.loads(request.body) for request in server.requests if b"max_tokens" in request.body]
        assert max(body["max_tokens"] for body in asked) <= 64


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.GARBAGE, Fault.CLOSE_AT_ONCE])
async def test_an_engine_that_fails_lacks_nothing_that_is_known(fault: Fault) -> None:
    """The identity is answered, so the probe begins; then nothing more is known: a 500 to a plain chat is no lack."""
    of = await found(Script(faults={fault: 1.0}))
    assert of.of(Capability.VERSION) is HAS
    assert lacking(of) == {}
    assert of.of(Capability.LOGPROBS) is UNKNOWN
    assert of.why[Capability.CHAT]


async def test_a_model_that_is_not_there_is_no_lack_of_chats() -> None:
    of = await found(Script(), model="other")
    assert of.of(Capability.CHAT) is UNKNOWN
    assert "does not exist" in of.why[Capability.CHAT]


async def test_nobody_there_is_unknown_and_ends_at_once() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        backend = client(f"http://127.0.0.1:{holder.getsockname()[1]}")
        of = await find(backend, "m", top_logprobs=20, teacher_forcing=True)
        await backend.aclose()
    assert set(of.findings.values()) == {UNKNOWN}
    assert of.requests == 2  # once more, in case a connection had been closed
    assert "cannot connect" in of.why[Capability.CHAT]


async def test_what_shadow_calls_leave_out() -> None:
    whole = await found(Script())
    assert asking(whole, whole, 20) == (Asking(20), Asking(20))
    strict = await found(Script(lacks={"token_ids": "refused", "token_id_keys": "refused", "seed": "refused"}))
    plain, told = asking(whole, strict, 20)
    assert plain == Asking(20, frozenset({"return_tokens_as_token_ids"}))
    assert told.leave_out == {"return_token_ids", "return_tokens_as_token_ids", "seed"}
    short = await found(Script(lacks={"top_logprobs": "refused"}, most_top_logprobs=5))
    assert [one.top_logprobs for one in asking(whole, short, 20)] == [5, 5]
    silent = await found(Script(lacks={"logprobs": "refused"}))
    assert asking(whole, silent, 20)[1].leave_out == {"logprobs", "return_tokens_as_token_ids"}
    assert asking(whole, Capabilities(), 20) == (Asking(20), Asking(20))


@pytest.mark.parametrize("lacks", [{"wings": "ignored"}, {"chat": "ignored"}, {"seed": "missing"}])
async def test_a_lack_that_is_none_is_told(lacks: Mapping[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(lacks))):
        ScriptedServer(Script(lacks=lacks))
