"""One knob at a time, at the gate: what keeps a candidate from passing whose recipe turns several at once.

It may still fail. With `gate.several_axes` the owner has said that it may pass without evidence for each axis.
"""

from __future__ import annotations

from pathlib import Path

from backends.recipes.differ import Change, difference
from backends.recipes.reading import RecipeFileError, load_recipe, parent_of
from backends.recipes.recipe import Recipe
from proxy.errors import LedgerError
from proxy.report.recompute import recompute
from proxy.settings import GateSettings, ProvenSettings


def holds(gate: GateSettings) -> list[str]:
    """What holds a pass back, one sentence each: axes without evidence of their own, or files that cannot tell.

    An axis has evidence when one of `gate.proven` is a recipe that changes this axis alone, to what the candidate has,
    for the same model on the same hardware, and its ledger gives a pass under the recipe's own name.
    """
    if gate.recipe_file is None:
        return []
    try:
        recipe, changed, same_model = _changed(gate.recipe_file)
    except RecipeFileError as error:
        return [f"gate.recipe_file cannot be read, so its axes are not known: {error.problems[0]}"]
    if not same_model:
        return ["gate.recipe_file: the recipe and its parent are of different models, so nothing can be compared"]
    if gate.several_axes or len(changed) <= 1:
        return []
    why: list[str] = []
    proven: set[str] = set()
    for one in gate.proven:
        axis, problem = _proves(one, recipe)
        if axis is not None:
            proven.add(axis)
        else:
            why.append(problem)
    missing = [change for change in changed if change.axis not in proven]
    if not missing:
        return []
    knobs = " and ".join(change.axis for change in changed)
    each = "; ".join(f"{change.axis} ({change.before} -> {change.after})" for change in missing)
    said = f"the recipe turns {len(changed)} knobs at once, {knobs}, without evidence for {each}: "
    said += "pass a recipe that changes it alone and name both in gate.proven, or set gate.several_axes = true"
    return [said, *why]


def _changed(path: Path) -> tuple[Recipe, tuple[Change, ...], bool]:
    recipe = load_recipe(path)
    found = difference(parent_of(recipe, path), recipe)
    return recipe, found.axes, not found.model


def _proves(one: ProvenSettings, candidate: Recipe) -> tuple[str | None, str]:
    """The axis that a piece of evidence proves, or None and why it proves none."""
    place = f"gate.proven, {one.recipe_file}"
    try:
        recipe, changed, same_model = _changed(one.recipe_file)
        if len(changed) != 1 or not same_model:
            return None, f"{place}: it changes {len(changed)} axes of its parent, so it is evidence for none"
        axis = changed[0].axis
        apart = difference(recipe, candidate)
        if apart.model or recipe.hardware != candidate.hardware:
            return None, f"{place}: it is of another model or another card than the candidate"
        if axis in {change.axis for change in apart.axes}:
            return None, f"{place}: its {axis} are {changed[0].after}, the candidate's {candidate.axes()[axis]}"
        answer = recompute(one.ledger)
    except RecipeFileError as error:
        return None, f"{place}: {error.problems[0]}"
    except LedgerError as error:
        return None, f"{place}: {error}"
    if answer["recipe"] != recipe.name:
        return None, f'{place}: {one.ledger} is of recipe "{answer["recipe"]}", not "{recipe.name}"'
    if answer["verdict"] != "pass":
        return None, f"{place}: the verdict of {one.ledger} is {answer['verdict']}"
    return axis, ""
