"""The weights inside a W4A16 checkpoint, unpacked without torch.

Source: compressed-tensors 0.19 `compressors/pack_quantized/helpers.py`: eight offset four-bit numbers an int32, first
lowest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_DTYPES = {"I32": np.dtype(np.int32), "I64": np.dtype(np.int64), "BF16": np.dtype(ml_dtypes.bfloat16)}


def unpacked(directory: Path) -> dict[str, np.ndarray]:
    """Every quantized matrix by name, as steps times scale in float32. Shapes: (out, in)."""
    held = _tensors(directory / "model.safetensors")
    found = {}
    for name in sorted(one for one in held if one.endswith(".weight_packed")):
        stem = name.removesuffix(".weight_packed")
        packed, scale = held[name], held[f"{stem}.weight_scale"].astype(np.float32)
        nibbles = (packed.view(np.uint32)[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 0xF
        rows, columns = (int(one) for one in held[f"{stem}.weight_shape"])
        steps = nibbles.reshape(rows, -1)[:, :columns].astype(np.float32) - 8
        found[f"{stem}.weight"] = steps * np.repeat(scale, columns // scale.shape[1], axis=1)
    return found


def _tensors(path: Path) -> dict[str, np.ndarray]:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in _DTYPES:
            start, end = (8 + size + one for one in entry["data_offsets"])
            found[name] = np.frombuffer(raw[start:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found
