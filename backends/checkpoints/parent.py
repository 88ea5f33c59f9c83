"""The model that is quantized: what its files are, and what must be so before anything is begun."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.pinned.cache import DigestCache
from backends.pinned.files import FileDigest, FilesError, checkpoint_files, digests, kind_of

HEADER_BYTES = 100_000_000  # Source: safetensors' own bound on its header


class ParentError(ValueError):
    """A folder that holds no model that could be quantized; str() says what it lacks, and the fix."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A model at 16 bits or more. Units: bytes of its weight files, parameters."""

    path: Path
    parameters: int
    weight_bytes: int
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name: what a card calls it, on any machine."""
        return self.path.name

    @property
    def bytes_at_16_bits(self) -> int:
        """What its parameters take in the memory of who quantizes it."""
        return 2 * self.parameters


def parent_at(path: Path) -> Parent:
    """The model in a folder. Raises: ParentError."""
    path = path.resolve()
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ParentError(f"{path} holds no config.json that can be read ({error}); give a model's folder") from None
    if not isinstance(config, dict):
        raise ParentError(f"{path}: config.json holds no table")
    held = config.get("quantization_config")
    if held:
        method = held.get("quant_method", "something") if isinstance(held, dict) else "something"
        raise ParentError(f"{path} is quantized already (by {method}); give the model at 16 bits")
    weights = weight_files(path)
    if not any(one.suffix == ".safetensors" for one in weights):
        raise ParentError(f"{path} holds no safetensors file; convert the model to safetensors first")
    if not (path / "tokenizer.json").exists() and not any(path.glob("*.model")):
        raise ParentError(
            f"{path} holds no tokenizer; copy tokenizer.json and tokenizer_config.json beside the weights"
        )
    shapes = [shape for one in weights if one.suffix == ".safetensors" for _, shape in tensors(one).values()]
    return Parent(path, sum(map(math.prod, shapes)), sum(one.stat().st_size for one in weights), config)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold weights, by name; an index is none. Raises: ParentError."""
    try:
        return [one for one in checkpoint_files(folder) if kind_of(one.name) == "weights" and one.suffix != ".json"]
    except FilesError as error:
        raise ParentError(str(error)) from None


def tensors(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Each tensor's type and shape, from the header of a safetensors file.

    Raises:  ParentError.
    """
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 2 <= size <= HEADER_BYTES:
                raise ValueError("its header has an impossible size")
            header = json.loads(stream.read(size))
        found = {
            name: (str(one["dtype"]), tuple(map(int, one["shape"])))
            for name, one in header.items()
            if name != "__metadata__"
        }
        end = 8 + size + max(one["data_offsets"][1] for name, one in header.items() if name != "__metadata__")
        if file.stat().st_size != end:
            raise ValueError(f"it has {file.stat().st_size:,} bytes and its header says {end:,}: a cut-off copy")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParentError(f"{file} cannot be read as safetensors: {error}") from None
    return found


def digest_of(
    folder: Path, cache: DigestCache | None = None, on_bytes: Callable[[int], None] = lambda count: None
) -> tuple[str, dict[str, FileDigest]]:
    """SHA-256 over the names and the SHA-256 of all files of a checkpoint, and these; its own card is no part of it.

    Raises:  FilesError.
    """
    read = digests([one for one in checkpoint_files(folder) if not one.name.startswith("parity-")], cache, on_bytes)
    files: dict[str, FileDigest] = {}
    for path, one in sorted(read.items()):
        if isinstance(one, FilesError):
            raise one
        files[path.name] = one
    return hashlib.sha256("".join(f"{name}\0{one.sha256}\n" for name, one in files.items()).encode()).hexdigest(), files


def companions(folder: Path) -> list[Path]:
    """What an engine reads of a checkpoint beside weights and configuration: tokenizer, template, generation config.

    They go into the quantized one byte for byte: both arms must read the same prompts.
    """
    kept = ("tokenizer", "chat template", "generation config")
    return [one for one in checkpoint_files(folder) if kind_of(one.name) in kept]
