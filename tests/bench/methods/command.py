"""Every method of `parity quantize` on the shipped model, served by a real vLLM beside BF16, mirrored and scored.

    python -m tests.bench.methods [--recipes NAME ...] [--calibration-study] [--scales-study] [--again]

Writes docs/bench/methods.json and docs/methods.md after each row; rows that are there are not done again without
--again. Needs .venv-vllm and .venv-quantize (make e2e sets them up). Exit code 1 when a row's diagnosis names an axis
that its recipe does not touch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.bench.methods import study
from tests.bench.methods.mirrored import mirrored
from tests.bench.methods.page import page
from tests.bench.methods.recipes import NO_CHECKPOINT, OPTIONAL, ROWS, flags_of, recipe_of, write_recipe
from tests.bench.methods.traffic import FULL, Mix, bodies, write_calibration
from tests.e2e.engines import MODEL, QUANTIZE_PYTHON, ROOT, WORK, vllm_servers

COMMAND = "python -m tests.bench.methods"
MAX_MODEL_LEN = 4096
SAMPLES, MAX_TOKENS = 24, 512  # *choice*: AWQ searches for a minute or two of two cores; the default is 256
CANDIDATES = 160
AUTOAWQ_PYTHON = ROOT / ".venv-autoawq" / "bin" / "python"
PLACE = ROOT / "docs" / "bench" / "methods.json"
PAGE = ROOT / "docs" / "methods.md"


def quantized(name: str, out: Path, *words: str) -> dict[str, Any]:
    """The card of a row's fresh checkpoint at `out`, by the command itself. Raises: AssertionError with its stderr."""
    for old in (out, out.with_name(out.name + ".partial")):
        shutil.rmtree(old, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "proxy.cli", "quantize", str(write_recipe(name, out.parent)), "--out", str(out)]
    argv += ["--python", str(QUANTIZE_PYTHON), "--samples", str(SAMPLES), "--max-tokens", str(MAX_TOKENS), "--json"]
    argv += words
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=3_600, check=False)
    assert done.returncode == 0, f"parity quantize ended with {done.returncode}:\n{done.stderr[-4000:]}"
    card: dict[str, Any] = json.loads(done.stdout)
    return card


def row(name: str, reference: str, mix: Mix) -> dict[str, Any]:
    """One row: made, served, mirrored, scored. Units: seconds, bytes, bits."""
    folder = WORK / "methods"
    made: dict[str, Any] = {"touches": touched(name)}
    checkpoint = MODEL
    if name not in NO_CHECKPOINT:
        checkpoint = folder / name
        calibration = write_calibration(folder / "calibration.jsonl", CANDIDATES)
        more = ("--engine", "autoawq", "--python", str(AUTOAWQ_PYTHON)) if name in OPTIONAL else ()
        card = quantized(name, checkpoint, "--calibration", str(calibration), *more)
        made |= {
            "seconds": card["seconds"],
            "weight_bytes": card["size"]["weight_bytes_after"],
            "bits_per_weight": card["size"]["bits_per_weight_after"],
            "calibration": card["calibration"]["source"],
            "modifiers": [one["name"] for one in card["method"]["modifiers"]],
        }
    else:
        size = (MODEL / "model.safetensors").stat().st_size
        made |= {"seconds": 0.0, "weight_bytes": size, "bits_per_weight": 16.02, "calibration": "none", "modifiers": []}
    try:
        with vllm_servers({name: checkpoint}, MAX_MODEL_LEN, flags_of(name)) as started:
            found = asyncio.run(mirrored(name, started[name].url, reference, bodies(mix), folder / f"{name}.run"))
            if found["client_errors"] == found["requests"]:  # it loads, and its first product fails
                return made | {"not_served": reason(started[name].log.read_text(errors="replace"))}
            return made | found
    except AssertionError:  # it did not start; the log names the cause before its end
        return made | {"not_served": reason((WORK / f"vllm-{name}.log").read_text(errors="replace"))}


def touched(name: str) -> list[str]:
    """The axes that a row's recipe changes, in the diagnosis' words."""
    return [axis for axis, told in recipe_of(name).axes().items() if told != "bf16"]


def reason(log: str) -> str:
    """The line of a failed engine's log that says why: the first that names a kernel, or any error."""
    lines = [line for line in log.splitlines() if re.search(r"(Error|Exception): |Failed to find", line)]
    kernels = [line for line in lines if "Failed to find a kernel" in line or "RuntimeError: " in line]
    named = (kernels or lines or log.strip().splitlines() or ["it ended without a word"])[0]
    return re.sub(r"^.*?(?=\w*(Error|Exception): |Failed to find)", "", named).removesuffix(" Reasons: ")[:200]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when no diagnosis names an axis that its row does not touch, else 1."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", choices=(*ROWS, *OPTIONAL), metavar="NAME", help="only these")
    parser.add_argument("--again", action="store_true", help="do rows again that are there")
    parser.add_argument("--calibration-study", action="store_true", help="the ledger's traffic against unrelated text")
    parser.add_argument(
        "--scales-study", action="store_true", help="a cache and weights with wrong scales, and what is named"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the calibration study")
    given = parser.parse_args(arguments)
    told: dict[str, Any] = json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.exists() else {}
    told = {"rows": {}, **told, "command": COMMAND, "samples": SAMPLES, "max_tokens": MAX_TOKENS}
    signal.signal(signal.SIGTERM, _interrupted)  # so that the engines end with the bench
    studies = given.calibration_study or given.scales_study
    names = given.recipes or (() if studies else tuple(ROWS))
    with vllm_servers({"reference": MODEL}, MAX_MODEL_LEN) as started:
        reference = started["reference"].url
        for name in names:
            if name in told["rows"] and not given.again:
                continue
            began = time.monotonic()
            told["rows"][name] = row(name, reference, FULL)
            print(f"{name}: {time.monotonic() - began:.0f} s, {json.dumps(told['rows'][name])}", flush=True)
            write(told)
        if given.calibration_study:
            for name, one in study.calibration(reference, given.seeds, told.get("calibration_study", {}), quantized):
                told.setdefault("calibration_study", {})[name] = one
                write(told)
        if given.scales_study:
            for name in (recipe for recipe, *_ in study.WRONG.values()):
                if not (WORK / "methods" / name).exists():
                    told["rows"][name] = row(name, reference, FULL)
            for name, one in study.wrong_scales(reference, told.get("scales_study", {})):
                told.setdefault("scales_study", {})[name] = one
                write(told)
    return int(any(wrong(one) for one in told["rows"].values()))


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def wrong(one: dict[str, Any]) -> bool:
    """Whether a row's diagnosis names one of the three axes, and one that the row does not touch."""
    axes = ("weights", "activations", "kv_cache")
    return any(one.get(key) in axes and one[key] not in one["touches"] for key in ("suspect", "suspect_if_over"))


def write(told: dict[str, Any]) -> None:
    """Both files; after each row, because an hour's bench may be ended."""
    told["rows"] = {name: told["rows"][name] for name in (*ROWS, *OPTIONAL) if name in told["rows"]}
    PLACE.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(told), encoding="utf-8")
