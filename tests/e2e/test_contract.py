"""The contract of a real vLLM: pinned, the same after a restart, its heartbeat under load, one changed byte named."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from pathlib import Path

import httpx

from backends.pinned.compare import Difference
from backends.pinned.pin import Pin, read_pin, write_pin
from backends.pinned.probes import Beat, beat, gap
from proxy.contract.arms import Arm
from proxy.contract.check import Checked, check
from proxy.contract.take import Wanted, take
from tests.e2e.engines import MODEL, WORK, vllm_servers

ALONE, BESIDE, STREAMS = 300, 150, 24  # *choice*: a minute


def test_a_pin_holds_over_a_restart_and_under_load_and_a_changed_byte_breaks_it(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    path = tmp_path / "contract.toml"
    with vllm_servers({"pinned": model}, 2048) as engines:
        arm = Arm("reference", engines["pinned"].url, None, model, None)
        pin, _ = take({"reference": arm}, Wanted(tmp_path), None, lambda count: None)
        write_pin(path, pin)
        assert pin.reference.heartbeat is not None
        assert pin.reference.settings["cache_dtype"] == "auto"
        assert len(pin.reference.probes) == 7
        far = asyncio.run(_repeated(arm, Beat(pin.reference.heartbeat.prompt, pin.reference.heartbeat.logprobs)))
        (WORK / "heartbeat.json").write_text(json.dumps(far, indent=1) + "\n")
        assert far["alone_nats"] == far["beside_load_nats"] == 0.0  # the CPU build; a GPU's is measured by the pin
    shard = model / "model.safetensors"
    content = bytearray(shard.read_bytes())
    content[4_000_001] ^= 0x40
    with vllm_servers({"again": model}, 2048) as engines:
        assert checked(path, engines["again"].url, model).state == "same"
        shard.write_bytes(content)
        assert named(checked(path, engines["again"].url, model)) == ["weights model.safetensors"]
    with vllm_servers({"changed": model}, 2048) as engines:
        assert "weights model.safetensors" in named(checked(path, engines["changed"].url, model))


def checked(path: Path, url: str, model: Path) -> Checked:
    pin: Pin = read_pin(path)
    arms = {"reference": Arm("reference", url, "parity-tiny", model, None)}
    return check(pin, path.parent, arms, None, None, lambda count: None)


def named(done: Checked) -> list[str]:
    differences: tuple[Difference, ...] = done.differences
    return [f"{one.part} {one.name}".strip() for one in differences]


async def _repeated(arm: Arm, first: Beat) -> dict[str, float]:
    """How far heartbeats are from the first: alone, and beside sampled completions of many lengths. Units: nats."""
    backend = arm.backend()
    dice = random.Random(7)

    async def load(client: httpx.AsyncClient) -> None:
        while True:
            prompt = [dice.randrange(5, 1000) for _ in range(dice.randrange(10, 120))]
            body = {"model": "parity-tiny", "prompt": prompt, "max_tokens": 30, "temperature": 1.0}
            (await client.post("/v1/completions", json=body)).raise_for_status()

    async def furthest(count: int) -> float:
        beats = [await beat(backend, "parity-tiny", first.prompt, 60.0) for _ in range(count)]
        return max(gap(first.logprobs, one.logprobs) for one in beats if one is not None)

    try:
        alone = await furthest(ALONE)
        async with httpx.AsyncClient(base_url=arm.url, timeout=60.0, trust_env=False) as client:
            streams = [asyncio.create_task(load(client)) for _ in range(STREAMS)]
            beside = await furthest(BESIDE)
            broken = [task for task in streams if task.done()]
            for task in streams:
                task.cancel()
        assert not broken
    finally:
        await backend.aclose()
    return {"alone_nats": alone, "alone": ALONE, "beside_load_nats": beside, "beside_load": BESIDE, "streams": STREAMS}
