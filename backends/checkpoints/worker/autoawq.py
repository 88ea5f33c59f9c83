"""The work of AutoAWQ, in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    """The versions of what makes the checkpoint."""
    from importlib.metadata import version

    return {name: version(name) for name in ("autoawq", "torch", "transformers")}


def make(
    job: Mapping[str, Any], samples: Sequence[Sequence[int]] | None, out: Path, tell: Callable[[int, int], None]
) -> None:
    raise NotImplementedError
