"""A model directory: its shape, checked, and its tensors. Says what it found and what it can run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from backends.emulator.formats import Floats, bf16

ARCHITECTURES = {"Qwen3ForCausalLM": True, "LlamaForCausalLM": False}
"""What can be run, and whether queries and keys are normalised."""
MAX_BYTES = 2 << 30  # *choice*: weights become float32, twice as large; an emulator is for small models
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}


class ModelError(ValueError):
    """The directory cannot be run. str() is one line: what was found, what is supported."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder. `rope_frequencies` has one entry per pair of channels, in radians per position."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    context: int
    epsilon: float
    normalised: bool
    tied: bool
    rope_frequencies: tuple[float, ...]


def read_shape(directory: Path) -> Shape:
    """The shape in config.json. Raises: ModelError."""
    config = read_json(directory / "config.json")
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else named
    if name not in ARCHITECTURES:
        raise ModelError(f"{directory}: architecture {name!r}; supported are {' and '.join(ARCHITECTURES)}")
    if config.get("quantization_config"):
        method = dict(config["quantization_config"]).get("quant_method")
        raise ModelError(f"{directory}: already quantized ({method}); give the BF16 model and a recipe")
    for key, wanted in (
        ("attention_bias", False),
        ("mlp_bias", False),
        ("use_sliding_window", False),
        ("hidden_act", "silu"),
    ):
        if config.get(key, wanted) not in (wanted, None):
            raise ModelError(f"{directory}: {key} is {config[key]!r}; only {wanted!r} is supported")
    hidden, heads = _size(directory, config, "hidden_size"), _size(directory, config, "num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    if type(kv_heads) is not int or type(head) is not int or kv_heads < 1 or heads % kv_heads or head < 2 or head % 2:
        raise ModelError(f"{directory}: {heads} heads of {head!r} do not go with {kv_heads!r} key-value heads")
    return Shape(
        vocabulary=_size(directory, config, "vocab_size"),
        hidden=hidden,
        intermediate=_size(directory, config, "intermediate_size"),
        layers=_size(directory, config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        context=_size(directory, config, "max_position_embeddings"),
        epsilon=_number(directory, config, "rms_norm_eps", 1e-6),
        normalised=ARCHITECTURES[name],
        tied=bool(config.get("tie_word_embeddings", False)),
        rope_frequencies=_frequencies(directory, config, head),
    )


class Tensors:
    """The safetensors files of a directory, one or sharded, mapped and read tensor by tensor."""

    def __init__(self, directory: Path) -> None:
        """Raises: ModelError when a file is missing or cut."""
        self._directory = directory
        self._places: dict[str, tuple[Path, str, tuple[int, ...], int, int]] = {}
        index = directory / "model.safetensors.index.json"
        if index.is_file():
            mapped = read_json(index).get("weight_map")
            names = sorted(set(mapped.values())) if isinstance(mapped, dict) else []
            files = [directory / str(name) for name in names]
        else:
            files = [directory / "model.safetensors"]
        for file in files:
            self._open(file)
        if sum(end - start for *_, start, end in self._places.values()) > MAX_BYTES:
            raise ModelError(
                f"{directory}: more than {MAX_BYTES >> 30} GiB of weights; the emulator is for small models"
            )

    def take(self, name: str, shape: tuple[int, ...]) -> Floats:
        """One tensor, rounded to BF16, as float32. Raises: ModelError when it is missing or of another shape."""
        if name not in self._places:
            raise ModelError(f"{self._directory}: no tensor {name}; the config asks for it with shape {list(shape)}")
        path, dtype, found, start, end = self._places[name]
        if found != shape:
            raise ModelError(f"{self._directory}: {name} has shape {list(found)}; the config asks for {list(shape)}")
        if dtype not in _DTYPES:
            raise ModelError(f"{self._directory}: {name} is {dtype}; supported are {', '.join(_DTYPES)}")
        raw = np.fromfile(path, dtype=_DTYPES[dtype], count=(end - start) // _DTYPES[dtype].itemsize, offset=start)
        return bf16(raw.astype(np.float32)).reshape(shape)

    def _open(self, path: Path) -> None:
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                    raise ModelError(f"{path}: truncated: {size} bytes, and its header alone would have {length}")
                header = json.loads(file.read(length))
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror or error}; a model directory holds safetensors") from error
        except ValueError as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{path}: its header is not JSON, so it is no safetensors file") from error
        if not isinstance(header, dict):
            raise ModelError(f"{path}: its header is no JSON object, so it is no safetensors file")
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype, shape, start, end = _entry(path, name, entry)
            if 8 + length + end > size:
                raise ModelError(f"{path}: truncated: {size} bytes, and {name} would end at {8 + length + end}")
            self._places[name] = (path, dtype, shape, 8 + length + start, 8 + length + end)


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape, start and end of one tensor by its header. Raises: ModelError."""
    try:
        start, end = entry["data_offsets"]
        shape, dtype = tuple(entry["shape"]), entry["dtype"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the header's entry of {name} is not safetensors'") from error
    if not all(type(one) is int and one >= 0 for one in (start, end, *shape)) or not isinstance(dtype, str):
        raise ModelError(f"{path}: the header's entry of {name} is not safetensors'")
    if dtype in _DTYPES and end - start != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise ModelError(f"{path}: {name} has {end - start} bytes, which is not {dtype} of shape {list(shape)}")
    return dtype, shape, start, end


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises: ModelError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object is wanted")
    return value


def _size(directory: Path, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise ModelError(f"{directory}: config.json has {key} = {value!r}; a whole number from 1 is wanted")
    return value


def _frequencies(directory: Path, config: Mapping[str, Any], head: int) -> tuple[float, ...]:
    """Radians per position. Source: transformers `modeling_rope_utils.py`, default, linear and llama3."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelError(f"{directory}: config.json has a rotary embedding {rope!r}; an object is wanted")
    theta = _number(directory, {**config, **rope}, "rope_theta", 10_000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    plain = [theta ** (-2.0 * pair / head) for pair in range(head // 2)]
    if kind == "default":
        return tuple(plain)
    if kind not in ("linear", "llama3"):
        raise ModelError(f"{directory}: rotary embedding {kind!r}; supported are default, linear and llama3")
    factor = _number(directory, rope, "factor")
    if kind == "linear":
        return tuple(one / factor for one in plain)
    low, high = _number(directory, rope, "low_freq_factor"), _number(directory, rope, "high_freq_factor")
    original = _number(directory, rope, "original_max_position_embeddings")
    if high <= low:
        raise ModelError(f"{directory}: high_freq_factor {high:g} is not above low_freq_factor {low:g}")
    found = []
    for one in plain:
        wavelengths = original * one / (2 * math.pi)
        smooth = min(1.0, max(0.0, (wavelengths - low) / (high - low)))
        found.append((1 - smooth) * one / factor + smooth * one)
    return tuple(found)


def _number(directory: Path, config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ModelError(f"{directory}: config.json has {key} = {value!r}; a number above 0 is wanted")
    return float(value)
