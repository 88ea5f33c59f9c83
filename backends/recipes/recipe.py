"""The tables of a recipe file: what can be said on each axis, and what cannot go together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backends.recipes.formats import (
    BLOCKED,
    SIXTEEN_BIT,
    ActivationFormat,
    ActivationPer,
    KvFormat,
    KvPer,
    WeightFormat,
    WeightPer,
    family,
)
from backends.recipes.hardware import Card, card_named
from backends.recipes.shapes import Shape, shape_of, shape_of_size

Workload = Literal["chat", "agent", "code", "long_context", "batch", "embedding", "edge"]
Method = Literal[
    "none", "rtn", "gptq", "awq", "smoothquant", "quarot", "spinquant", "omniquant", "gguf", "online"
]  # fmt: skip
Engine = Literal["vllm", "llama.cpp", "emulator"]
AttentionBackend = Literal["FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION", "CPU_ATTN"]

GROUP = 128  # llm-compressor's W4A16, AWQ's paper
K_QUANTS = ("q5_k_m", "q4_k_m", "q3_k_m", "iq4_xs")
AXES = ("weights", "activations", "kv_cache")


class Section(BaseModel):
    """Base of every table: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Model(Section):
    """What is served. `name` finds the known anomalies; `size` or `path` (a folder with config.json) its shape."""

    name: Annotated[str, Field(max_length=200)] = ""
    size: str | None = None
    path: Path | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if (self.size is None) == (self.path is None):
            raise ValueError('give one of size (like "70B") and path (the folder with its config.json)')
        return self

    @field_validator("size")
    @classmethod
    def _size_is_known(cls, size: str | None) -> str | None:
        if size is not None:
            shape_of_size(size)
        return size


class Weights(Section):
    """Storage of the linear layers. `group_size` goes with per = "group"; ignored layers stay at 16 bits."""

    format: WeightFormat = "bf16"
    per: WeightPer | None = None
    group_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    method: Method | None = None
    ignored_layers: tuple[str, ...] = ("lm_head",)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        quantized = self.format not in SIXTEEN_BIT
        own_scales = self.format in BLOCKED or self.format in K_QUANTS
        if self.method == "awq" and quantized and self.format != "int4":
            raise ValueError(
                f'AWQ is an INT4 method for weights alone; take method = "rtn" or "gptq" for {self.format}'
            )
        if self.per is not None and (not quantized or own_scales):
            why = "brings its own block scales" if quantized else "has no scales"
            raise ValueError(f'{self.format} {why}, so per = "{self.per}" cannot go with it; remove per')
        if self.group_size is not None and self.granularity != "group":
            raise ValueError(
                f'group_size goes with per = "group"; this is {self.format}, {self.granularity or "plain"}'
            )
        if self.method not in (None, "none") and not quantized:
            raise ValueError(f'{self.format} is not quantized, so method = "{self.method}" does nothing; remove it')
        if self.method == "none" and quantized:
            raise ValueError(f'{self.format} needs a method; the plainest is method = "rtn"')
        if (self.format in K_QUANTS) != (self.method == "gguf") and self.method is not None:
            raise ValueError(
                f'{self.format} with method = "{self.method}": K-quants, and only they, are made by "gguf"'
            )
        return self

    @property
    def granularity(self) -> str | None:
        """What `per` stands for where it is not said: groups for INT4, channels for the rest; None without scales."""
        if self.per is not None:
            return self.per
        if self.format in SIXTEEN_BIT or self.format in BLOCKED or self.format in K_QUANTS:
            return None
        return "group" if family(self.format) == "int4" else "channel"

    @property
    def group(self) -> int | None:
        """Values per scale, where there are groups."""
        return (self.group_size or GROUP) if self.granularity == "group" else None

    @property
    def made_by(self) -> str:
        """The method, where it is not said: none at 16 bits, GGUF for K-quants, else RTN."""
        if self.method is not None:
            return self.method
        return "none" if self.format in SIXTEEN_BIT else "gguf" if self.format in K_QUANTS else "rtn"

    def __str__(self) -> str:
        if self.format in SIXTEEN_BIT:
            return self.format
        return f"{_axis_text(self.format, self.granularity, self.group)} by {self.made_by}"


class Activations(Section):
    """What goes into each linear layer. Per token: its own scale, found as it comes; per tensor: a calibrated one."""

    format: ActivationFormat = "bf16"
    per: ActivationPer | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.per is not None and (self.format in SIXTEEN_BIT or self.format in BLOCKED):
            why = "has no scales" if self.format in SIXTEEN_BIT else "brings its own block scales"
            raise ValueError(f'{self.format} {why}, so per = "{self.per}" cannot go with it; remove per')
        return self

    @property
    def granularity(self) -> str | None:
        """What `per` stands for where it is not said: tokens; None without scales."""
        plain = self.format in SIXTEEN_BIT or self.format in BLOCKED
        return None if plain else self.per or "token"

    def __str__(self) -> str:
        return _axis_text(self.format, self.granularity, None)


class KvCache(Section):
    """What keys and values are stored in. `per` as the emulator has it: one (scale 1.0), tensor, head, token-head, ...

    `skipped_layers`: layers that stay at 16 bits, as vLLM's --kv-cache-dtype-skip-layers takes them.
    """

    format: KvFormat = "bf16"
    per: KvPer | None = None
    skipped_layers: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.format in SIXTEEN_BIT and (self.per or self.skipped_layers):
            what = "per" if self.per else "skipped_layers"
            raise ValueError(f"{self.format} is not quantized, so {what} does nothing; remove it")
        if self.format == "nvfp4" and self.per is not None:
            raise ValueError("nvfp4 brings its own block scales; remove per")
        if self.per == "one" and not self.format.startswith("fp8"):
            raise ValueError(f"scale 1.0 is for fp8, which holds plain values; {self.format} would be all but zero")
        for layer in self.skipped_layers:
            if not (layer.isdecimal() or layer == "sliding_window"):
                raise ValueError(f'skipped layer "{layer[:40]}": vLLM takes a layer\'s index or "sliding_window"')
        return self

    @property
    def granularity(self) -> str | None:
        """What `per` stands for where it is not said: tensors; None without scales of ours."""
        return None if self.format in SIXTEEN_BIT or self.format == "nvfp4" else self.per or "tensor"

    def __str__(self) -> str:
        skipped = f", all but layers {' '.join(self.skipped_layers)}" if self.skipped_layers else ""
        return _axis_text(self.format, self.granularity, None) + skipped


class Recipe(Section):
    """One precision choice on three axes for a model, a workload and hardware."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    workload: Workload
    hardware: str
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)]
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)]
    engine: Engine = "vllm"
    attention_backend: AttentionBackend | None = None
    parent: Path | None = None
    model: Model
    weights: Weights = Weights()
    activations: Activations = Activations()
    kv_cache: KvCache = KvCache()

    @field_validator("hardware")
    @classmethod
    def _card_is_known(cls, name: str) -> str:
        return card_named(name).name

    @property
    def card(self) -> Card:
        """The card that `hardware` names."""
        return card_named(self.hardware)

    def shape(self, beside: Path = Path()) -> Shape:
        """The model's shape; a relative path is taken from the folder `beside`.

        Raises:  ShapeError.
        """
        if self.model.path is not None:
            return shape_of(beside / self.model.path)
        return shape_of_size(self.model.size or "")

    def axes(self) -> dict[str, str]:
        """Each axis in one phrase."""
        return {"weights": str(self.weights), "activations": str(self.activations), "kv_cache": str(self.kv_cache)}

    def reference(self) -> Recipe:
        """The same model, workload and hardware at BF16: what a recipe without a parent is compared with."""
        fresh = {"name": "bf16", "weights": Weights(), "activations": Activations(), "kv_cache": KvCache()}
        return self.model_copy(update={**fresh, "parent": None, "engine": "vllm"})


def _axis_text(name: str, per: str | None, size: int | None) -> str:
    """As the emulator writes it: int4:group128."""
    return f"{name}:{per}{size or ''}" if per else name
