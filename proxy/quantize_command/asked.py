"""What was asked for, held against what is there: every refusal that needs no work comes from here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backends.checkpoints.card import recipe_digest
from backends.checkpoints.memory import available, need
from backends.checkpoints.parent import Parent, ParentError, parent_at
from backends.checkpoints.planned import Plan
from backends.recipes.methods import CALIBRATION_PROMPTS
from backends.recipes.recipe import Recipe
from backends.recipes.shapes import ShapeError
from proxy.errors import ParityError
from proxy.quantize_command import gguf
from proxy.quantize_command.workplace import refuse_existing

MAX_TOKENS = 2_048  # *choice*: what llm-compressor's own examples calibrate on
SAMPLES = CALIBRATION_PROMPTS
PYTHON = ".venv-quantize/bin/python"
PYTHON_ENV = "PARITY_QUANTIZE_PYTHON"


class Refused(ParityError):
    """It cannot be made as asked; str() says why and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where calibration samples come from."""

    kind: Literal["file", "ledger"]
    path: Path

    @property
    def fix(self) -> str:
        """What to do when it has too few, with {count} for how many it has."""
        fewer = "Ask for fewer with --samples {count}"
        if self.kind == "file":
            return f"{fewer}, or add others to the file."
        return (
            f"{fewer}, or let the monitor keep more: raise ledger.keep_share, the share of pairs whose bodies are "
            "kept, and ledger.retention_days, and come back after more traffic."
        )

    def digest(self) -> str:
        """What a resumed run must have again: a file's bytes; of a ledger, which goes on growing, which one it is."""
        if self.kind == "file":
            try:
                return hashlib.sha256(self.path.read_bytes()).hexdigest()
            except OSError as error:
                raise Refused(f"--calibration: {self.path} cannot be read: {error.strerror or error}") from error
        return hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Asked:
    """One checkpoint to make. Units: samples, tokens of one sample."""

    recipe: Recipe
    parent: Parent
    plan: Plan
    out: Path
    python: Path
    source: Source | None
    samples: int
    max_tokens: int
    seed: int
    keep_calibration: bool

    def made_from(self, parent_digest: str) -> dict[str, str]:
        """Digests by what a person calls them: when one differs, nothing made before can be used."""
        settings = json.dumps([self.plan.digest, self.samples, self.max_tokens, self.seed])
        return {
            "recipe": recipe_digest(self.recipe),
            "model": parent_digest,
            "calibration source": self.source.digest() if self.source else "none",
            "--samples, --max-tokens, --seed or --engine": hashlib.sha256(settings.encode()).hexdigest(),
        }


def hold(asked: Asked, beside: Path, *, force: bool) -> list[str]:
    """What should be known before the work. `beside` is the folder that a relative model.path starts from.

    Raises:  Refused, WorkplaceError.
    """
    refuse_existing(asked.out)
    if asked.plan.tool == "llama.cpp":
        gguf.tools()
    elif not asked.python.exists():
        raise Refused(_no_python(asked))
    notes = list(asked.plan.notes)
    if asked.plan.calibrated and asked.source is None:
        raise Refused(
            f"{asked.recipe.weights.made_by if asked.recipe.weights.made_by != 'none' else 'the cache'} needs "
            "calibration prompts: give --ledger parity-ledger.sqlite (the traffic that this proxy has seen), or "
            "--calibration FILE.jsonl"
        )
    if not asked.plan.calibrated and asked.source is not None:
        notes.append(f"this needs no calibration: --{_word(asked.source)} is not read")
    _hold_memory(asked, beside, force)
    return notes


def model_of(recipe: Recipe, file: Path) -> Parent:
    """The model that a recipe file names. Raises: Refused."""
    if recipe.model.path is None:
        raise Refused(
            f'{file}: model.size = "{recipe.model.size}" is a size, not a model; name the folder that holds the '
            'model at 16 bits: [model] path = "DIR"'
        )
    try:
        return parent_at(file.parent / recipe.model.path)
    except ParentError as error:
        raise Refused(f"{file}: model.path: {error}") from error


def python_of(given: Path | None, environ: Mapping[str, str]) -> Path:
    """The interpreter of the quantizing environment: as said, by the environment, or the one that `make` makes."""
    return given or Path(environ.get(PYTHON_ENV) or PYTHON)


def _no_python(asked: Asked) -> str:
    if asked.plan.tool == "autoawq":
        return (
            f"{asked.python} is not there. AutoAWQ needs an environment of its own: python3 -m venv .venv-autoawq && "
            ".venv-autoawq/bin/pip install torch==2.13.0 transformers==4.51.3 autoawq==0.2.9, then give "
            "--python .venv-autoawq/bin/python"
        )
    return (
        f"{asked.python} is not there. llm-compressor has an environment of its own: `make .venv-quantize/.ready` "
        f"makes it in a source checkout; elsewhere give --python PATH or ${PYTHON_ENV} of one that has llmcompressor"
    )


def _hold_memory(asked: Asked, beside: Path, force: bool) -> None:
    has = available()
    if has is None or force:
        return
    try:
        shape = asked.recipe.shape(beside)
    except ShapeError as error:  # it was read a moment ago
        raise Refused(f"model.path: {error}") from error
    needs = need(asked.parent.bytes_at_16_bits, shape, asked.samples if asked.plan.calibrated else 0, asked.max_tokens)
    if needs.total > has:
        raise Refused(
            f"this needs some {needs.total / (1 << 30):.1f} GiB of memory ({needs}), and {has / (1 << 30):.1f} GiB can "
            "be had (MemAvailable): take a machine with more, or fewer or shorter samples (--samples, --max-tokens); "
            "--force tries all the same"
        )


def _word(source: Source) -> str:
    return "calibration" if source.kind == "file" else "ledger"
