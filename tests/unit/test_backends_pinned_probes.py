"""What an engine says and does over HTTP: all of it from a whole engine, what there is from one with less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from backends.base import BackendUnavailable, Reply
from backends.pinned.probes import PROBES, Beat, gap, probe, spread

METRICS = """# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="128",cache_dtype="fp8_e4m3",engine="0",kv_cache_size_tokens="9",num_gpu_blocks="7"} 1
"""
TOP = {"token_id:5": -0.5, "token_id:6": -1.5}


class Engine:
    """An engine that has what `paths` has; each gives a body, or a status."""

    name = "reference"

    def __init__(self, **without: int) -> None:
        self.status = {path.replace("_", "/"): status for path, status in without.items()}
        self.asked: list[Mapping[str, Any]] = []

    def _reply(self, path: str, body: bytes) -> Reply:
        status = self.status.get(path.replace("/", "", 1).split("/")[-1], 200)
        return Reply(status, "application/json", body if status == 200 else b"{}", 0.0)

    async def get(self, path: str, timeout_s: float) -> Reply:
        bodies = {
            "/version": orjson.dumps({"version": "0.32.0"}),
            "/v1/models": orjson.dumps({"data": [{"id": "m", "root": "/models/m", "max_model_len": 64}]}),
            "/metrics": METRICS.encode(),
        }
        return self._reply(path, bodies[path])

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        asked = orjson.loads(body)
        self.asked.append({"path": path, **asked})
        if path == "/tokenize":
            return self._reply(path, orjson.dumps({"tokens": [len(self.asked), 3]}))
        reply = {
            "choices": [{"logprobs": {"top_logprobs": [TOP]}, "prompt_token_ids": [8, 9]}],
            "system_fingerprint": "f",
        }
        return self._reply(path, orjson.dumps(reply))

    async def aclose(self) -> None: ...


@pytest.mark.asyncio
async def test_a_whole_engine_tells_all_of_it() -> None:
    engine = Engine()
    seen = await probe(engine, "m")
    assert seen.engine["engine_version"] == "0.32.0"
    assert "template" not in seen.engine
    assert seen.settings == {
        "block_size": "128",
        "cache_dtype": "fp8_e4m3",
    }  # what is measured is none
    assert seen.probes.keys() == PROBES.keys()
    assert seen.beat == Beat(seen.probes["text"][:1], TOP)
    assert seen.root == "/models/m"
    asked = engine.asked[-1]
    assert (asked["prompt"], asked["max_tokens"], asked["temperature"]) == (list(seen.probes["text"][:1]), 1, 0)
    again = await probe(engine, "m", prompt=(77,))
    assert again.beat is not None
    assert again.beat.prompt == (77,)


@pytest.mark.asyncio
async def test_an_engine_without_a_tokenize_route_tells_its_prompt_tokens_with_a_completion() -> None:
    seen = await probe(Engine(tokenize=404, metrics=404), "m")
    assert seen.probes == dict.fromkeys(PROBES, (8, 9))
    assert seen.settings == {}


@pytest.mark.asyncio
async def test_an_engine_that_is_busy_or_wants_another_key_says_nothing() -> None:
    with pytest.raises(BackendUnavailable, match="it wants another API key"):
        await probe(Engine(models=401), "m")
    with pytest.raises(BackendUnavailable, match="/tokenize answered 503"):
        await probe(Engine(tokenize=503), "m")
    seen = await probe(Engine(completions=404, tokenize=404), "m")
    assert (seen.beat, seen.probes) == (None, {})


@pytest.mark.asyncio
async def test_the_spread_is_the_largest_of_its_repetitions() -> None:
    engine = Engine()
    assert await spread(engine, "m", Beat((1,), TOP), 8) == 0.0
    assert await spread(engine, "m", Beat((1,), {**TOP, "token_id:6": -1.75}), 8) == 0.25
    assert sum(one["prompt"] == [1] for one in engine.asked) == 16


def test_the_gap_counts_tokens_that_only_one_list_holds_by_what_they_moved_at_least() -> None:
    assert gap(TOP, TOP) == 0.0
    assert gap({"a": -1.0, "b": -2.0}, {"a": -1.0, "c": -2.0}) == 0.0  # a tie at the end of the list
    assert gap({"a": -1.0, "b": -1.5, "z": -3.0}, {"a": -1.0, "c": -2.0, "z": -3.0}) == 1.5
    assert gap({"a": -1.0}, {}) == float("inf")
    assert gap({}, {}) == 0.0
