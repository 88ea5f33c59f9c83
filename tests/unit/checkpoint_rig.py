"""Checkpoint folders for tests: the shipped model's config with a quantization_config, and weights in name only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from backends.emulator.server import MODEL

W4A16: dict[str, Any] = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
FP8_CHANNEL: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
FP8_TOKEN: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
INT8_CHANNEL: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
INT8_TOKEN: dict[str, Any] = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
KV_TENSOR: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
NVFP4: dict[str, Any] = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
MXFP4: dict[str, Any] = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}


def compressed(weights: Any, activations: Any = None, **more: Any) -> dict[str, Any]:
    """A quantization_config as llm-compressor 0.14 writes it."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None, **more,
    }  # fmt: skip


def folder(at: Path, quantization: Any = None, *, recipe_yaml: str | None = None, **config: Any) -> Path:
    """A checkpoint's folder without its weights' bytes."""
    at.mkdir(parents=True, exist_ok=True)
    own = orjson.loads((MODEL / "config.json").read_bytes()) | config
    if quantization is not None:
        own["quantization_config"] = quantization
    (at / "config.json").write_bytes(orjson.dumps(own))
    for name in ("chat_template.jinja", "generation_config.json"):
        (at / name).write_bytes((MODEL / name).read_bytes())
    (at / "model.safetensors").write_bytes(b"")
    if recipe_yaml is not None:
        (at / "recipe.yaml").write_text(recipe_yaml)
    return at
