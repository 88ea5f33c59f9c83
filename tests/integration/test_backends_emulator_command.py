"""`python -m backends.emulator` as a process: the listening line, its orderly end, and one line for a mistake."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from backends.emulator.recipes import RECIPES
from tests.unit.emulator_rig import write_model


def said(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "backends.emulator", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.asyncio
async def test_it_says_where_it_listens_serves_and_ends() -> None:
    argv = [sys.executable, "-m", "backends.emulator", "--recipe", "int8-kv", "--served-model-name", "tiny"]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    told = json.loads(await process.stdout.readline())
    assert (told["model"], told["recipe"], told["kv_cache"]) == ("tiny", "int8-kv", "int8:tensor")
    async with httpx.AsyncClient(base_url=told["url"], trust_env=False) as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def test_the_named_recipes_are_listed() -> None:
    listed = said("--recipes")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(RECIPES)
    assert listed.returncode == 0


def test_mistakes_are_one_line_and_say_what_there_is(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "cut")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5_000])
    for arguments, code, told in (
        (("--recipe", "int3"), 2, "there are bf16"),
        (("--port", "70000"), 2, "from 0 to 65535"),
        (("--model", str(tmp_path)), 1, "config.json"),
        (("--model", str(directory)), 1, "truncated"),
        (("--recipe", "weights=int4:group100"), 1, "does not divide 256"),
    ):
        result = said(*arguments)
        assert result.returncode == code, result
        assert told in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr
