"""A model's size: parameters and the geometry of its cache, from its config.json or from a size such as "70B"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


class ShapeError(ValueError):
    """The size of a model cannot be told. str() is one line: what was found, what would help."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder with a gated MLP: Llama, Mistral, Qwen2 and Qwen3.

    Units:  counts.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False

    @property
    def linear(self) -> int:
        """Parameters of the linear layers inside the blocks: what a weight format applies to."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding(self) -> int:
        """Parameters of one embedding table."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them, with the norms."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.linear + self.embedding * (1 if self.tied else 2) + norms

    @property
    def kv_values_per_token(self) -> int:
        """Cached values per token: 2 x layers x kv_heads x head_dim."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name, "parameters": self.parameters, "layers": self.layers, "hidden": self.hidden,
            "heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim,
            "vocabulary": self.vocabulary, "tied_embeddings": self.tied,
        }  # fmt: skip


# The shape that a bare size stands for: a *choice* of the best-known open model of that size.
SIZES: Mapping[str, Shape] = {
    "0.6B": Shape("Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151_936, True),
    "1B": Shape("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128_256, True),
    "3B": Shape("Llama-3.2-3B", 28, 3072, 24, 8, 128, 8192, 128_256, True),
    "4B": Shape("Qwen3-4B", 36, 2560, 32, 8, 128, 9728, 151_936, True),
    "7B": Shape("Mistral-7B-v0.3", 32, 4096, 32, 8, 128, 14_336, 32_768),
    "8B": Shape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14_336, 128_256),
    "13B": Shape("Llama-2-13B", 40, 5120, 40, 40, 128, 13_824, 32_000),
    "14B": Shape("Qwen3-14B", 40, 5120, 40, 8, 128, 17_408, 151_936),
    "32B": Shape("Qwen3-32B", 64, 5120, 64, 8, 128, 25_600, 151_936),
    "70B": Shape("Llama-3.1-70B", 80, 8192, 64, 8, 128, 28_672, 128_256),
    "72B": Shape("Qwen2.5-72B", 80, 8192, 64, 8, 128, 29_568, 152_064),
    "405B": Shape("Llama-3.1-405B", 126, 16_384, 128, 8, 128, 53_248, 128_256),
}

_OTHER = {
    "num_local_experts": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
    "kv_lora_rank": "latent attention (MLA)",
    "ssm_cfg": "a state-space model",
    "linear_num_value_heads": "linear attention",
}


def shape_of_size(size: str) -> Shape:
    """The shape that a size stands for.

    Raises:  ShapeError that says which there are.
    """
    key = size.strip().upper()
    if key in SIZES:
        return SIZES[key]
    billions = re.fullmatch(r"(\d+(?:\.\d+)?)B", key)
    near = ""
    if billions:
        nearest = min(SIZES, key=lambda known: abs(float(known[:-1]) - float(billions[1])))
        near = f"; the nearest is {nearest} ({SIZES[nearest].name})"
    elif close := difflib.get_close_matches(key, SIZES, n=1):
        near = f'; did you mean "{close[0]}"?'
    raise ShapeError(
        f'no model of size "{size[:20]}" is known by size; there are {", ".join(SIZES)}{near}; '
        "or give the folder that holds its config.json"
    )


def shape_of(folder: Path) -> Shape:
    """The shape that a model's config.json says.

    Raises:  ShapeError where it cannot be read, lacks a number, or is no dense decoder.
    """
    path = folder / "config.json" if folder.is_dir() else folder
    try:
        config = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise ShapeError(f"{path}: there is no such file; give the folder that holds the model's config.json") from None
    except (OSError, orjson.JSONDecodeError) as error:
        raise ShapeError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise ShapeError(f"{path}: holds no table")
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    for key, what in _OTHER.items():
        if config.get(key):
            raise ShapeError(
                f"{path}: {key} says that this is {what}, whose bytes per token this roofline does not know; "
                "give a dense model of its active size with model.size for a rough figure"
            )
    return _dense(config, folder.name, path)


def _dense(config: Mapping[str, Any], name: str, path: Path) -> Shape:
    def number(key: str, default: int | None = None) -> int:
        value = config.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise ShapeError(f"{path}: {key} must be a whole number above 0 (it says {value!r})")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    return Shape(
        name=name,
        layers=number("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        head_dim=number("head_dim", max(hidden // heads, 1)),
        intermediate=number("intermediate_size"),
        vocabulary=number("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
    )
