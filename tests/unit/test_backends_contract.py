"""The contract from a backend's replies: what is read, what absent means, and what says nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import orjson
import pytest

from backends.base import BackendTimeout, BackendUnavailable, Reply
from backends.contract import Contract, observe

CARDS = {
    "data": [
        {"id": "other", "root": "/models/other", "max_model_len": 1},
        {"id": "m", "root": "/home/someone/m", "max_model_len": 2048},
    ]
}


class Played:
    """A backend that answers from a table: path to (status, JSON or bytes) or an exception."""

    name = "reference"

    def __init__(self, table: Mapping[str, tuple[int, object] | Exception]) -> None:
        self.table = dict(table)
        self.asked: list[str] = []

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        return await self.get(path, timeout_s)

    async def get(self, path: str, timeout_s: float) -> Reply:
        self.asked.append(path)
        answer = self.table.get(path, (404, {"detail": "Not Found"}))
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        return Reply(status, "application/json", body if isinstance(body, bytes) else orjson.dumps(body), 0.0)

    async def aclose(self) -> None:
        return None


def vllm() -> dict[str, tuple[int, object] | Exception]:
    return {
        "/version": (200, {"version": "0.32.0"}),
        "/v1/models": (200, CARDS),
        "/tokenize": (200, {"tokens": [1, 2, 3]}),
        "/v1/completions": (200, {"system_fingerprint": "vllm-0.32.0-abc"}),
    }


@pytest.mark.asyncio
async def test_everything_a_vllm_tells() -> None:
    contract = await observe(Played(vllm()), "m")
    assert (contract.engine_version, contract.model, contract.max_model_len) == ("0.32.0", "m", 2048)
    assert contract.system_fingerprint == "vllm-0.32.0-abc"
    assert "someone" not in str(contract.as_dict())
    assert Contract(**contract.as_dict()) == contract
    assert await observe(Played(vllm()), "m") == contract


class Llama(Played):
    """llama.cpp: a template and a tokenizer one after the other, and sizes instead of a place."""

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        asked = orjson.loads(body)
        if path == "/tokenize" and "content" in asked:
            assert (asked["content"], asked["add_special"], asked["parse_special"]) == ("<s>hi", True, True)
            return Reply(200, "application/json", b'{"tokens":[5,6,7]}', 0.0)
        return await super().post(path, body, headers, timeout_s)


def llama(**meta: int) -> dict[str, tuple[int, object] | Exception]:
    shown = {"n_ctx": 1024, "n_ctx_train": 5120, "n_params": 10, "size": 20, **meta}
    return {
        "/v1/models": (200, {"data": [{"id": "m", "owned_by": "llamacpp", "meta": shown}]}),
        "/tokenize": (200, {"tokens": []}),
        "/apply-template": (200, {"prompt": "<s>hi"}),
        "/v1/completions": (200, {"system_fingerprint": "b1-0c1e570"}),
    }


@pytest.mark.asyncio
async def test_everything_a_llama_cpp_tells() -> None:
    contract = await observe(Llama(llama()), "m")
    assert (contract.engine_version, contract.max_model_len, contract.system_fingerprint) == (None, 1024, "b1-0c1e570")
    told = await observe(Played({**vllm(), "/tokenize": (200, {"tokens": [5, 6, 7]})}), "m")
    assert contract.template == told.template  # the same tokens, by whichever way they are told
    assert contract.root is not None
    assert (await observe(Llama(llama(size=8)), "m")).root != contract.root
    assert (await observe(Llama(llama(n_ctx=512)), "m")).root == contract.root


@pytest.mark.asyncio
async def test_an_engine_that_tells_no_tokens_of_a_conversation_has_no_template() -> None:
    """An empty list once counted as a tokenization, and so as another template than any other engine's."""
    contract = await observe(Played({**vllm(), "/tokenize": (200, {"tokens": []})}), "m")
    assert contract.template is None


@pytest.mark.asyncio
async def test_without_a_name_the_first_model_counts() -> None:
    assert (await observe(Played(vllm()), None)).model == "other"


@pytest.mark.asyncio
async def test_a_model_that_is_not_served_has_no_name() -> None:
    contract = await observe(Played(vllm()), "missing")
    assert contract.model is None
    assert contract.root is None


@pytest.mark.asyncio
async def test_missing_endpoints_are_absent_fields() -> None:
    contract = await observe(Played({"/v1/models": (200, {"data": [{"id": "gpt"}]})}), "gpt")
    assert contract.as_dict() == {"model": "gpt"}


@pytest.mark.asyncio
async def test_no_token_is_spent_unless_asked() -> None:
    played = Played(vllm())
    contract = await observe(played, "m", ask_for_token=False)
    assert "/v1/completions" not in played.asked
    assert contract.system_fingerprint is None


@pytest.mark.asyncio
@pytest.mark.parametrize("body", [b"<html>", b"", b"[1]", b'"x"', b'{"data": 5}', b'{"data": [5]}', b'{"version": 7}'])
async def test_strange_bodies_are_absent_fields(body: bytes) -> None:
    table: dict[str, tuple[int, object] | Exception] = dict.fromkeys(vllm(), (200, body))
    assert (await observe(Played(table), "m")).as_dict() == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("path", ["/version", "/v1/models", "/tokenize", "/v1/completions"])
async def test_a_server_in_trouble_says_nothing_about_what_it_is(path: str, status: int) -> None:
    with pytest.raises(BackendUnavailable, match=f"{path} answered {status}"):
        await observe(Played({**vllm(), path: (status, {})}), "m")


@pytest.mark.asyncio
async def test_transport_errors_pass_through() -> None:
    with pytest.raises(BackendTimeout):
        await observe(Played({**vllm(), "/tokenize": BackendTimeout("late")}), "m")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/version", {"version": "0.33.0"}, "engine_version"),
        ("/v1/models", {"data": [{"id": "m", "root": "/elsewhere", "max_model_len": 2048}]}, "root"),
        ("/v1/models", {"data": [{"id": "m", "root": "/home/someone/m", "max_model_len": 1024}]}, "max_model_len"),
        ("/tokenize", {"tokens": [1, 2, 4]}, "template"),
        ("/v1/completions", {"system_fingerprint": "vllm-0.32.0-def"}, "system_fingerprint"),
    ],
)
async def test_each_change_is_noticed_alone(path: str, body: object, field: str) -> None:
    before = await observe(Played(vllm()), "m")
    after = await observe(Played({**vllm(), path: (200, body)}), "m")
    assert [f.name for f in fields(before) if getattr(before, f.name) != getattr(after, f.name)] == [field]
