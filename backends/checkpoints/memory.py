"""What quantizing a model needs of this machine's memory, and whether it has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backends.recipes.shapes import Shape

BASE_BYTES = 1 << 30  # *choice*: torch, transformers and llm-compressor loaded take 0.8 GiB
KEPT_PER_TOKEN = 2  # what goes into a layer and what comes out of it, each kept for all samples (SequentialPipeline)


@dataclass(frozen=True, slots=True)
class Need:
    """Units: bytes."""

    model: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.model + self.activations + BASE_BYTES

    def __str__(self) -> str:
        told = f"{_gib(self.model)} for the model at 16 bits"
        return told + (f" and {_gib(self.activations)} for the calibration's activations" if self.activations else "")


def need(model_bytes: int, shape: Shape, samples: int, max_tokens: int) -> Need:
    """What the work needs at least, were every sample of `max_tokens`. `samples` is 0 where nothing is calibrated.

    The model lies in memory whole, also where an accelerator takes it layer by layer. What a method keeps beside
    (GPTQ's Hessian of one layer, AWQ's inputs of one layer) is smaller, and not counted.
    """
    return Need(model_bytes, samples * max_tokens * shape.hidden * 2 * KEPT_PER_TOKEN)


def available(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can be had without swapping, by the kernel's own estimate; None where it does not say."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        found = next((line for line in lines if line.startswith("MemAvailable:")), "")
        return int(found.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
