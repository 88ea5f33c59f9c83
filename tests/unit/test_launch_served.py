"""What a ready engine says of itself against what it was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from backends.recipes.command_line import Command, Flag
from proxy.launch_command.served import Seen, see, warnings

FLAGS = (
    Flag("--served-model-name", ("m",)),
    Flag("--max-model-len", ("4096",)),
    Flag("--kv-cache-dtype", ("fp8_e4m3",)),
    Flag("--attention-backend", ("FLASH_ATTN",)),
)
CANDIDATE = Command("candidate", "/c", "127.0.0.1", 1, FLAGS)
REFERENCE = Command("reference", "/r", "127.0.0.1", 2, FLAGS)
SEEN = Seen("candidate", "0.32.0", "m", "/c", 4096, "fp8_e4m3", "True", 9000, "FLASH_ATTN")
OTHER = replace(SEEN, side="reference", root="/r")
METRICS = (
    "# TYPE vllm:cache_config_info gauge\n"
    'vllm:cache_config_info{block_size="128",cache_dtype="fp8_e4m3",enable_prefix_caching="False",'
    'kv_cache_size_tokens="97536",kv_cache_dtype_skip_layers="[]"} 1.0\n'
)
LOG = "INFO [cuda.py:507] Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', 'FLASHINFER'].\n"


def test_what_is_as_asked_says_nothing() -> None:
    assert list(warnings([CANDIDATE, REFERENCE], [SEEN, OTHER])) == []
    silent = Seen("candidate", None, None, None, None, None, None, None, None)
    assert list(warnings([CANDIDATE], [silent])) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "x"}, "serves the name x, and was asked for m"),
        ({"root": "/d"}, "serves the model /d, and was asked for /c"),
        ({"max_model_len": 2048}, "serves max_model_len 2048, and was asked for 4096"),
        ({"cache_dtype": "auto"}, "serves the cache auto, and was asked for fp8_e4m3"),
        ({"attention": "FLASHINFER"}, "serves the attention backend FLASHINFER, and was asked for FLASH_ATTN"),
        (
            {"attention": "FLASHINFER"},
            "the arms differ in the attention backend: candidate FLASHINFER, reference FLASH",
        ),
        ({"version": "0.31.0"}, "the arms differ in vLLM: candidate 0.31.0, reference 0.32.0"),
        ({"cached_tokens": 4000}, "holds 4,000 tokens, less than one sequence of 4,096"),
    ],
)
def test_what_differs_is_told(changed: dict[str, object], says: str) -> None:
    told = list(warnings([CANDIDATE, REFERENCE], [replace(SEEN, **changed), OTHER]))  # type: ignore[arg-type]
    assert any(says in line for line in told), told


def answers(replies: dict[str, httpx.Response]) -> httpx.AsyncClient:
    transport = httpx.MockTransport(lambda request: replies.get(request.url.path, httpx.Response(404)))
    return httpx.AsyncClient(transport=transport)


@pytest.mark.asyncio
async def test_every_endpoint_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    model = {"id": "m", "root": "/c", "max_model_len": 4096}
    replies = {
        "/version": httpx.Response(200, json={"version": "0.32.0"}),
        "/v1/models": httpx.Response(200, json={"data": [model]}),
        "/metrics": httpx.Response(200, text=METRICS),
    }
    async with answers(replies) as http:
        found = await see(CANDIDATE, "http://e", tmp_path / "log", http)
    assert found == Seen("candidate", "0.32.0", "m", "/c", 4096, "fp8_e4m3", "False", 97536, "FLASH_ATTN")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(500),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"data": 3}),
        httpx.Response(200, json={"data": [{"max_model_len": "many", "id": 3}], "version": 1}),
    ],
)
async def test_replies_that_say_nothing(reply: httpx.Response, tmp_path: Path) -> None:
    async with answers(dict.fromkeys(("/version", "/v1/models", "/metrics"), reply)) as http:
        found = await see(CANDIDATE, "http://e", tmp_path / "no-log", http)
    assert found == Seen("candidate", None, None, None, None, None, None, None, None)


def test_two_backends_in_one_log_are_none(tmp_path: Path) -> None:
    from proxy.launch_command.served import _attention

    (tmp_path / "log").write_text(LOG + LOG.replace("Using FLASH_ATTN", "Using FLASHINFER"))
    assert _attention(tmp_path / "log") is None
