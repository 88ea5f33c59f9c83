"""Tokens per second and memory of the emulator on one core.

    python -m tests.bench.emulator_speed [--out docs/bench/emulator_speed.json] [--requests 2000]

Three parts. `decode` and `prefill`: the engine's arithmetic alone, single stream, for the shipped model and for one of
3.0 million parameters with random weights; each is timed in short spans, by the clock and by the thread's own time on
a core, since a shared machine takes whole spans away. `served`: a process of its own, many requests over HTTP, its
resident memory sampled meanwhile. BLAS runs on one thread; OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE, where a machine
sets them, are told with the figures, since they choose other kernels.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402 - numpy reads the above when it is imported
import asyncio  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import httpx  # noqa: E402

from backends.emulator.cache import CHUNK, Arena, Slot  # noqa: E402
from backends.emulator.forward import Forward  # noqa: E402
from backends.emulator.network import load  # noqa: E402
from backends.emulator.recipes import parsed  # noqa: E402
from backends.emulator.server import MODEL  # noqa: E402
from backends.emulator.tasks.requests import requests  # noqa: E402
from tests.unit.emulator_rig import CONFIG, write_model  # noqa: E402

MIN_DECODE = 1_500  # tokens/s of one core at BF16, 3M parameters (issue 4)
MAX_RSS_BYTES = 400 << 20  # *choice*: two arms and the rest of the demo stay below 1 GB
MAX_GROWTH_BYTES = 24 << 20  # *choice*: over the second half of the requests
SPAN = 25  # tokens a span
THREE_MILLION: dict[str, Any] = {  # the shape of the trial model
    **CONFIG,
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2_048,
}


def arithmetic(directory: Path, recipe: str = "bf16") -> dict[str, Any]:
    """Single-stream rates of one model. Units: tokens/s, at some 20 to 500 tokens of context."""
    network = load(directory, parsed(recipe))
    forward, arena = Forward(network), Arena(network.shape, slots=1)
    slot = _slot(arena)
    forward.prefill(slot, range(3, 23))

    def decode() -> None:
        for _ in range(SPAN):
            forward.decode([slot], [7])[0].argmax()

    decoding = _rates(decode, SPAN, spans=39)
    prompt = [3 + at % 1_000 for at in range(1_024)]

    def prefill() -> None:
        slot.length = 0
        for start in range(0, len(prompt), CHUNK):
            forward.prefill(slot, prompt[start : start + CHUNK])

    reading = _rates(prefill, len(prompt), spans=9)
    parameters = sum(
        one.size for layer in network.layers for one in (layer.qkv, layer.output, layer.gate_up, layer.down)
    )
    return {
        "parameters": parameters + network.embedding.size,
        "recipe": recipe,
        "decode_tokens_per_s": decoding,
        "prefill_1024_tokens_per_s": reading,
    }


async def served(count: int, concurrency: int = 8) -> dict[str, Any]:
    """Many requests of every kind against a process of its own. Units: bytes, tokens/s."""
    argv = [sys.executable, "-m", "backends.emulator", "--recipe", "int4-kv-per-tensor"]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None:
            raise AssertionError("stdout is piped")
        url = json.loads(await process.stdout.readline())["url"]
        kinds = ("tool_one", "chat", "needle_text", "tool_parallel", "arithmetic", "needle_list")
        bodies = iter(list(requests(1, "heldout", count, kinds, bucket=None)))
        resident = [_resident(process.pid)]
        began = time.perf_counter()
        async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:

            async def one_after_another() -> None:
                for number, body in enumerate(bodies):
                    asked = {"messages": body["messages"], "tools": body["tools"] or [], "temperature": 0}
                    if number % 3 == 0:
                        asked |= {"logprobs": True, "top_logprobs": 20}
                    (await client.post("/v1/chat/completions", json=asked)).raise_for_status()
                    resident.append(_resident(process.pid))

            await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
            stats = (await client.get("/_emulator/stats")).json()
        took = time.perf_counter() - began
    finally:
        process.terminate()
        await process.wait()
    half = resident[len(resident) // 2 :]
    return {
        "requests": count,
        "concurrency": concurrency,
        "seconds": round(took, 1),
        "prompt_tokens": stats["prompt_tokens"],
        "tokens": stats["tokens"],
        "rss_at_start_bytes": resident[0],
        "rss_peak_bytes": max(resident),
        "rss_growth_in_the_second_half_bytes": max(half) - half[0],
    }


def _rates(span: Callable[[], None], tokens: int, spans: int) -> dict[str, int]:
    """Tokens per second of the clock and of this thread's time on a core, the median and the best of the spans."""
    span()
    clock, core = [], []
    for _ in range(spans):
        began, worked = time.perf_counter(), time.thread_time()
        span()
        clock.append(time.perf_counter() - began)
        core.append(time.thread_time() - worked)
    return {
        "median": round(tokens / statistics.median(clock)),
        "best": round(tokens / min(clock)),
        "median_core": round(tokens / statistics.median(core)),
        "best_core": round(tokens / min(core)),
    }


def _slot(arena: Arena) -> Slot:
    slot = arena.take()
    if slot is None:
        raise AssertionError("a new arena has a slot")
    return slot


def _resident(pid: int) -> int:
    """Units: bytes. Linux only, like the other benches."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the speed and the memory promised were kept, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/emulator_speed.json"))
    parser.add_argument("--requests", type=int, default=2_000)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        models = {"shipped": MODEL, "three million": write_model(Path(folder), THREE_MILLION)}
        rates = {name: arithmetic(directory) for name, directory in models.items()}
    for name, one in rates.items():
        print(f"{name}: {one['parameters']:,} parameters, decode {one['decode_tokens_per_s']} tokens/s,", end=" ")
        print(f"prefill {one['prefill_1024_tokens_per_s']} tokens/s")
    load = asyncio.run(served(given.requests))
    print(
        f"served {load['requests']} requests in {load['seconds']} s; RSS {load['rss_at_start_bytes'] / 1e6:.0f} MB at",
        end=" ",
    )
    print(f"the start, {load['rss_peak_bytes'] / 1e6:.0f} MB at most, ", end="")
    print(f"{load['rss_growth_in_the_second_half_bytes'] / 1e6:.1f} MB more in the second half")
    kept = (
        rates["three million"]["decode_tokens_per_s"]["median_core"] >= MIN_DECODE
        and load["rss_peak_bytes"] < MAX_RSS_BYTES
        and load["rss_growth_in_the_second_half_bytes"] < MAX_GROWTH_BYTES
    )
    blas = {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS")}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "blas": blas}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"kept": kept, **machine, "arithmetic": rates, "served": load}
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{'kept' if kept else 'BROKEN'}; written to {given.out}")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
