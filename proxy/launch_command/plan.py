"""Recipe, checkpoint and machine -> the arms that would be started, or every reason why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.recipes.carded import carded
from backends.recipes.check import check
from backends.recipes.command_line import Arm, Command, Common, Side, command, parser_for, servable
from backends.recipes.finding import Finding
from backends.recipes.formats import SIXTEEN_BIT
from backends.recipes.matching import match, match_reference
from backends.recipes.placement import DoesNotFit, Placement, place
from backends.recipes.reading import RecipeFileError, load_recipe, parent_of
from backends.recipes.recipe import AXES, Recipe
from backends.recipes.shapes import Shape, ShapeError
from backends.recipes.stored import Stored, StoredError, stored
from proxy.settings import MirrorSettings

TOP_LOGPROBS = int(MirrorSettings.model_fields["top_logprobs"].default)
MAX_PARENTS = 16  # *choice*: a longer chain of recipes is a circle


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says. `here`: the arms are started on this machine, so their folders must be here."""

    recipe: Path
    checkpoint: str
    reference: str | None
    sides: tuple[Side, ...]
    here: bool
    host: str = "127.0.0.1"
    ports: Mapping[str, int] | None = None
    cards: tuple[int, ...] | None = None
    reference_gpus: int | None = None
    name: str | None = None
    parser: str | None = None
    allow_emulated: bool = False
    memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """What would be started, in this order, one after the other where `one_by_one`; and what was found on the way."""

    recipe: Recipe
    commands: tuple[Command, ...]
    one_by_one: bool
    findings: tuple[Finding, ...]


class Refused(Exception):
    """It must not be started as it is. `findings` holds every reason, errors first."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(one.found for one in findings if one.level == "error"))
        self.findings = tuple(findings)


def plan(asked: Asked) -> Launch:
    """The launch.

    Raises:  RecipeFileError where a recipe cannot be read; Refused with every finding.
    """
    recipe = load_recipe(asked.recipe)
    reference = reference_of(recipe, asked.recipe, asked.reference_gpus)
    try:
        shape = recipe.shape(asked.recipe.parent)
    except ShapeError as error:
        raise RecipeFileError([f"model: {error}"]) from None
    # Capacity is the placement's to say: it knows the cards, and what stands beside.
    checked = check(recipe, None, allow_emulated=asked.allow_emulated)
    found = [one for one in checked if one.rule != "calibration" and not _pinned(one)]
    found += servable(recipe)
    held = {
        side: read
        for side, folder in (("candidate", asked.checkpoint), ("reference", asked.reference))
        if folder is not None and (side in asked.sides or side == "candidate")
        and (read := _read(side, folder, asked.here and side in asked.sides, found)) is not None
    }  # fmt: skip
    found += _matched(recipe, reference, held, shape)
    parser, missing = asked.parser, None
    if parser is None:
        known = held.get("candidate") or held.get("reference")
        names = f"{recipe.model.name} {shape.name} {asked.checkpoint}"
        parser, missing = parser_for(known.model_type if known else None, names)
    found += [missing] if missing else []
    arms: dict[str, tuple[Recipe, Shape]] = {
        side: (recipe if side == "candidate" else reference, _shape_of(held.get(side), shape))
        for side in sorted(asked.sides)  # the candidate has the first cards
    }
    placement: Placement | None = None
    try:
        placement = place(arms, asked.cards, asked.memory_bytes)
        found += placement.findings(recipe.concurrency)
    except DoesNotFit as error:
        found.append(error.finding)
    found.sort(key=lambda one: ("error", "warning", "note").index(one.level))
    if placement is None or any(one.level == "error" for one in found):
        raise Refused(found)
    name = asked.name or recipe.model.name or Path(asked.checkpoint).name or recipe.name
    common = Common(recipe, name, asked.host, parser, TOP_LOGPROBS)
    folders = {"candidate": asked.checkpoint, "reference": asked.reference or ""}
    commands = tuple(
        command(Arm(side, arms[side][0], folders[side], (asked.ports or {})[side], placement.arms[side]), common)
        for side in asked.sides
    )
    return Launch(recipe, commands, placement.shared, tuple(found))


def reference_of(recipe: Recipe, path: Path, gpus: int | None) -> Recipe:
    """The candidate's recipe with every axis at 16 bits, on as many cards as the 16-bit recipe among its parents says.

    Raises:  RecipeFileError.
    """
    plain = recipe.reference()
    if gpus is not None:
        return plain.model_copy(update={"gpus": gpus})
    above, file = recipe, path
    for _ in range(MAX_PARENTS):
        named = above.parent
        if named is None:
            return plain
        above, file = parent_of(above, file), file.parent / named
        if all(getattr(above, axis).format in SIXTEEN_BIT for axis in AXES):
            return plain.model_copy(update={"gpus": above.gpus}) if above.hardware == recipe.hardware else plain
    raise RecipeFileError([f"parent: {path} has more than {MAX_PARENTS} parents, one above the other: a circle"])


def _pinned(one: Finding) -> bool:
    """Whether it warns of arms with different attention backends, which a launch does not have."""
    return one.key == "attention_backend" and one.level == "warning"


def _read(side: str, folder: str, here: bool, found: list[Finding]) -> Stored | None:
    """What the folder says; None where it is not on this machine, which is an error only for what starts here."""
    if not here and not Path(folder).is_dir():
        fix = "run `parity launch` where the folder is, or give its path"
        found.append(Finding("warning", side, f"{folder} is not a folder here: it is not checked", fix, "checkpoint"))
        return None
    try:
        return stored(Path(folder))
    except StoredError as error:
        fix = "give the folder of a checkpoint that vLLM can load"
        found.append(Finding("error", side, str(error), fix, "checkpoint"))
        return None


def _matched(recipe: Recipe, reference: Recipe, held: Mapping[str, Stored], shape: Shape) -> Iterator[Finding]:
    candidate, other = held.get("candidate"), held.get("reference")
    if candidate is not None:
        yield from match(recipe, candidate, shape)
        yield from carded(recipe, candidate.folder)
    if other is not None:
        yield from match_reference(reference, other, candidate)


def _shape_of(held: Stored | None, otherwise: Shape) -> Shape:
    return held.shape if held is not None and held.shape is not None else otherwise
