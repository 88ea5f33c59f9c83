"""Two questions beside the table: what the calibration's text is worth, and what is named when one axis is wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.bench.methods.mirrored import STRICT, mirrored
from tests.bench.methods.recipes import flags_of
from tests.bench.methods.traffic import FULL, bodies, training_bodies, write_unrelated
from tests.e2e.engines import MODEL, WORK, vllm_servers

MAX_MODEL_LEN = 4096
METHODS = ("gptq-w4a16", "awq-w4a16")
CANDIDATES = 140  # what the ledger saw, and how many unrelated pieces there are
WRONG: Mapping[str, tuple[str, str, tuple[float, ...]]] = {
    "cache": ("fp8-kv", "kv_cache", (1.0, 2.0, 100.0, 0.6, 0.3)),
    "weights": ("rtn-w4a16", "weights", (1.0, 0.9, 0.8)),
}
"""By what is damaged: the row whose checkpoint it is, the axis it lies on, and what its scales are multiplied by.
*choice*: twice a cache's scales leaves room above what calibration saw; a hundred times is near scale 1.0 on this
model; six tenths clip the largest keys and values, three tenths so many that nothing works."""
_SCALES = {"cache": (".k_scale", ".v_scale"), "weights": (".weight_scale",)}

Quantized = Callable[..., dict[str, Any]]


def calibration(
    reference: str, seeds: int, known: Mapping[str, Any], quantized: Quantized
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method calibrated on a ledger's traffic and on unrelated text, at one number of samples, by seed."""
    folder = WORK / "methods"
    ledger = folder / "traffic.run" / "ledger.sqlite"
    if not ledger.exists():
        with vllm_servers({"traffic": MODEL}, MAX_MODEL_LEN) as started:  # a second server: one engine beside itself
            seen = training_bodies(CANDIDATES, 23)  # is refused as settings that compare nothing
            asyncio.run(mirrored("bf16", started["traffic"].url, reference, seen, ledger.parent))
    for seed in range(seeds):
        for method in METHODS:
            for source in ("ledger", "unrelated"):
                name = f"{method} {source} {seed}"
                if name in known:
                    continue
                words = ("--ledger", str(ledger))
                if source == "unrelated":
                    words = ("--calibration", str(write_unrelated(folder / "unrelated.jsonl", CANDIDATES, seed)))
                out = folder / name.replace(" ", "-")
                card = quantized(method, out, *words, "--seed", str(seed))
                with vllm_servers({"study": out}, MAX_MODEL_LEN) as started:
                    run = folder / f"{out.name}.run"
                    found = asyncio.run(mirrored(name, started["study"].url, reference, bodies(FULL), run))
                found |= {"method": method, "source": source, "seed": seed, "tokens": card["calibration"]["tokens"]}
                print(f"{name}: {json.dumps(found)}", flush=True)
                yield name, found


def wrong_scales(reference: str, known: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checkpoints of the table, their scales times a factor: damage that lies on one axis alone, by strict limits."""
    folder = WORK / "methods"
    for what, (recipe, axis, factors) in WRONG.items():
        for factor in factors:
            name = f"{what} x{factor:g}"
            if name in known:
                continue
            out = scaled(folder / recipe, folder / f"{recipe}-x{factor:g}", factor, _SCALES[what])
            with vllm_servers({"study": out}, MAX_MODEL_LEN, flags_of(recipe)) as started:
                run = folder / f"{out.name}.run"
                found = asyncio.run(mirrored(name, started["study"].url, reference, bodies(FULL), run, STRICT))
            print(f"{name}: {json.dumps(found)}", flush=True)
            yield name, found | {"axis": axis}


def scaled(source: Path, target: Path, factor: float, endings: tuple[str, ...]) -> Path:
    """A copy of a checkpoint in which the tensors of these names are `factor` times what they were."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    file = target / "model.safetensors"
    raw = bytearray(file.read_bytes())
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    kinds = {"BF16": np.dtype(ml_dtypes.bfloat16), "F32": np.dtype(np.float32)}
    changed = 0
    for name, one in header.items():
        if name.endswith(endings):
            start, end = (8 + size + place for place in one["data_offsets"])
            held = np.frombuffer(raw[start:end], kinds[one["dtype"]]).astype(np.float32) * factor
            raw[start:end] = held.astype(kinds[one["dtype"]]).tobytes()
            changed += 1
    assert changed, f"{source} holds none of {endings}"
    file.write_bytes(raw)
    return target
