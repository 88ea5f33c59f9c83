"""Every tensor of a checkpoint read back: none is missing, none holds what is no number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Unsound(Exception):
    """A checkpoint that must not be served; str() names the tensor."""


def check(folder: Path) -> dict[str, Any]:
    """How many tensors there are, and how many matrices have scales of their own.

    Raises:  Unsound.
    """
    import torch
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Unsound("it holds no safetensors file")
    seen: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  safetensors' handle cannot be iterated
                tensor = opened.get_tensor(name)
                seen[name] = file.name
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor.to(torch.float32)).all()):
                    raise Unsound(f"{name} holds an infinity or a NaN")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        listed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        missing = sorted(set(listed.items()) ^ set(seen.items()))
        if missing:
            raise Unsound(f"{missing[0][0]}: the index and the files do not agree")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not config.get("quantization_config"):
        raise Unsound("its config.json names no quantization")
    scaled = sum(name.endswith((".weight_scale", ".scales")) for name in seen)
    return {"tensors": len(seen), "scaled_matrices": scaled, "kv_scales": sum(map(_kv_scale, seen))}


def _kv_scale(name: str) -> bool:
    return name.endswith((".k_scale", ".v_scale"))
