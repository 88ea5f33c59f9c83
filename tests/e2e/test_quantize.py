"""`parity quantize` with the real llm-compressor: its words for formats, the model's own template, a resumed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.checkpoints.planned import plan
from backends.emulator.tasks.requests import requests
from backends.emulator.vocabulary import Vocabulary
from tests.bench.methods.recipes import ROWS, recipe_of, write_recipe
from tests.e2e.engines import MODEL, QUANTIZE_PYTHON, ROOT

# Preset, and the row that must be the same but for who says the targets.
PRESETS = {
    "W4A16": "rtn-w4a16", "W4A16_ASYM": "awq-w4a16", "W8A8": "rtn-w8a8", "FP8": "fp8-static",
    "FP8_DYNAMIC": "fp8-dynamic", "NVFP4": "nvfp4", "NVFP4A16": "nvfp4-a16", "MXFP4": "mxfp4", "MXFP4A16": "mxfp4-a16",
}  # fmt: skip

COMPARE = """
import json, sys
from compressed_tensors.quantization.quant_scheme import QuantizationScheme, preset_name_to_scheme
told = {}
for name, group in json.load(sys.stdin).items():
    ours, theirs = (one.model_dump(mode="json") for one in (
        QuantizationScheme.model_validate(group), preset_name_to_scheme(name, group["targets"])))
    told[name] = [ours, theirs]
print(json.dumps(told))
"""


def test_the_formats_are_llm_compressors_presets() -> None:
    groups = {
        preset: plan(recipe_of(row)).modifiers[-1].arguments["config_groups"]["group_0"]
        for preset, row in PRESETS.items()
    }
    done = subprocess.run(
        [str(QUANTIZE_PYTHON), "-c", COMPARE], input=json.dumps(groups), capture_output=True, text=True, timeout=180,
        check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(PRESETS)
    for preset, (ours, theirs) in found.items():
        assert ours == theirs, preset


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "proxy.cli", "quantize", *map(str, words), "--python", str(QUANTIZE_PYTHON)]


def calibration(folder: Path, count: int) -> tuple[Path, list[dict[str, Any]]]:
    """A file of requests with and without tools, and the requests."""
    asked = list(requests(17, "train", count, ("tool_one", "tool_result", "chat", "arithmetic")))
    file = folder / "calibration.jsonl"
    file.write_bytes(
        b"".join(orjson.dumps({k: one[k] for k in ("messages", "tools") if one[k]}) + b"\n" for one in asked)
    )
    return file, asked


def run(*words: object) -> dict[str, Any]:
    done = subprocess.run(command(*words, "--json"), capture_output=True, text=True, timeout=600, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    card: dict[str, Any] = json.loads(done.stdout)
    return card


def test_interrupted_while_it_quantizes_and_resumed(tmp_path: Path) -> None:
    file, asked = calibration(tmp_path, 8)
    recipe, out = write_recipe("gptq-w4a16", tmp_path), tmp_path / "out"
    words = (recipe, "--out", out, "--calibration", file, "--samples", 8, "--max-tokens", 2_048)
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip() == "quantize":
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    work = tmp_path / "out.partial" / "work"
    assert not out.exists()
    # What the template wrote is what both engines read: the emulator's own ids of the same requests.
    ids = json.loads((work / "tokens.json").read_text())
    vocabulary = Vocabulary.of(MODEL)
    assert sorted(ids) == sorted(list(vocabulary.chat(one["messages"], one["tools"] or [], {}).ids) for one in asked)
    before = (work / "chosen.jsonl").read_bytes()
    card = run(*words, "--resume", "--keep-calibration")
    assert (out / "parity-calibration.jsonl").read_bytes() == before
    assert card["calibration"]["samples"] == 8
    assert card["checkpoint"]["scaled_matrices"] == 42
    assert 4.9 < card["size"]["bits_per_weight_after"] < 5.1
    for name in os.listdir(out):
        content = (out / name).read_bytes()
        assert str(ROOT).encode() not in content, name
        assert str(tmp_path).encode() not in content, name


def test_too_few_prompts_that_differ_are_refused_with_the_way_out(tmp_path: Path) -> None:
    file, asked = calibration(tmp_path, 4)
    file.write_bytes(file.read_bytes() * 3)
    words = (write_recipe("gptq-w4a16", tmp_path), "--out", tmp_path / "out", "--calibration", file, "--samples", 5)
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert f"has {len(asked)} that differ (12 in all)" in " ".join(done.stderr.split())
    assert "Ask for fewer with --samples 4" in done.stderr
    assert not (tmp_path / "out").exists()


ROTATED = """
import json, sys
import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.transform.spinquant import SpinQuantModifier
from transformers import AutoModelForCausalLM
from backends.checkpoints.worker.making import uncentred

def logprobs(model):
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.arange(3, 200)[None]).logits, -1)

told = {}
for kind in ("hadamard", "random-hadamard"):
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
    before = logprobs(model)
    with uncentred(model):
        oneshot(model=model, recipe=[SpinQuantModifier(rotations=["R1", "R2"], transform_type=kind)])
    told[kind] = float((before.exp() * (before - logprobs(model))).sum(-1).mean())
print(json.dumps(told))
"""


def test_a_rotation_alone_is_the_same_model() -> None:
    """In float32, before any rounding. With llm-compressor's centring of the embeddings it is 1e-4 nats away."""
    done = subprocess.run(
        [str(QUANTIZE_PYTHON), "-c", ROTATED, str(MODEL)], capture_output=True, text=True, timeout=300, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(abs(kl) < 1e-6 for kl in found.values()), found


def test_the_rotations_are_the_tools_own_whatever_the_seed(tmp_path: Path) -> None:
    """llm-compressor 0.14 gives its transforms no seed, and their generator's default never changes."""
    recipe = write_recipe("quarot-w4a16", tmp_path)
    digests = [run(recipe, "--out", tmp_path / f"{seed}", "--seed", seed)["checkpoint"]["sha256"] for seed in (1, 2)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_recipe_that_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    from backends.recipes.reading import load_recipe

    assert load_recipe(write_recipe(name, tmp_path)) == recipe_of(name)
