"""Recipes for people: tables and lines."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from backends.recipes.differ import Difference
from backends.recipes.finding import Finding
from backends.recipes.recipe import Recipe
from backends.recipes.roofline import Roofline
from backends.recipes.shapes import Shape
from backends.recipes.suggest import Suggestion

_STYLE = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}


def show_suggestion(out: Console, found: Suggestion, findings: list[Finding]) -> None:
    """The recipe, why, what it does not buy, what else was weighed, and what is found about it."""
    recipe = found.recipe
    _head(out, recipe, found.shape)
    for title, lines in (
        ("why", [f"{about}: {why}" for about, why in found.reasons]),
        ("what it does not buy", found.not_bought),
        ("weighed", found.weighed),
        ("one knob at a time: prove in this order", found.proof),
    ):
        if lines:
            out.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                out.print(Text(f"  {line}"), soft_wrap=True)
    if findings:
        out.print()
        _list(out, findings)


def show_findings(out: Console, recipe: Recipe, findings: list[Finding]) -> None:
    """Every finding with its fix, errors first, and the count."""
    _head(out, recipe, None)
    if findings:
        out.print()
        _list(out, findings)
    count = {level: sum(one.level == level for one in findings) for level in _STYLE}
    out.print(Text(f"\n{count['error']} errors, {count['warning']} warnings, {count['note']} notes"))


def show_difference(out: Console, before: Path, after: Path, found: Difference) -> None:
    """The axes that differ, and what follows."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("axis", str(before), str(after)):
        table.add_column(Text(column), overflow="fold")
    for change in found.axes:
        table.add_row(Text(change.axis, style="bold"), Text(change.before), Text(change.after))
    for change in found.around:
        table.add_row(Text(change.axis, style="dim"), Text(change.before), Text(change.after))
    if found.axes or found.around:
        out.print(table)
    for line in found.advice():
        out.print(Text(line), soft_wrap=True)


def show_roofline(
    out: Console, recipe: Recipe, other: Recipe, shape: Shape, mine: Roofline, theirs: Roofline, crossing: int | None
) -> None:
    """Both rooflines side by side, with the gain."""
    _head(out, recipe, shape)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in (recipe.name, f"against {other.name}", "gain"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for label, first, second, gain in _rows(mine, theirs):
        table.add_row(label, first, second, gain)
    out.print(table)
    for line in _conclusions(recipe, other, mine, theirs, crossing):
        out.print(Text(line), soft_wrap=True)


def gains(mine: Roofline, theirs: Roofline) -> dict[str, float]:
    """The gain over the other recipe, above 1 for better, in each ceiling."""
    return {
        "decode": mine.decode_tokens_s / theirs.decode_tokens_s,
        "prefill": mine.prefill_tokens_s / theirs.prefill_tokens_s,
        "weight_bytes": theirs.weight_bytes / mine.weight_bytes,
        "kv_bytes": theirs.kv_bytes_per_token / mine.kv_bytes_per_token,
    }


def _rows(mine: Roofline, theirs: Roofline) -> list[tuple[str, str, str, str]]:
    gain = gains(mine, theirs)

    def both(label: str, told: tuple[str, str], factor: float | None = None) -> tuple[str, str, str, str]:
        return (label, *told, "" if factor is None else f"x{factor:.2f}")

    pair = (mine, theirs)

    def gb(name: str) -> tuple[str, str]:
        first, second = (f"{getattr(one, name) / 1e9:,.2f} GB" for one in pair)
        return first, second

    def count(name: str, unit: str = "") -> tuple[str, str]:
        first, second = (f"{getattr(one, name):,.0f}{unit}" for one in pair)
        return first, second

    def yes(one: Roofline) -> str:
        return "yes" if one.fits else "no"

    def never(one: Roofline) -> str:
        return "at no batch" if one.ridge_batch is None else f"from batch {one.ridge_batch:,}"

    return [
        both("weights", gb("weight_bytes"), gain["weight_bytes"]),
        both("cache, a sequence", gb("kv_bytes_per_sequence"), gain["kv_bytes"]),
        both("activations, at most", gb("activation_bytes")),
        both("memory for all", gb("memory_bytes")),
        both("fits", (yes(mine), yes(theirs))),
        both("whole sequences", count("sequences")),
        both("computed in", (mine.computes_in, theirs.computes_in)),
        both(f"decode ceiling, batch {mine.batch}", count("decode_tokens_s", " tok/s"), gain["decode"]),
        both("prefill ceiling", count("prefill_tokens_s", " tok/s"), gain["prefill"]),
        both("intensity", count("intensity", " FLOP/B")),
        both("ridge", count("ridge", " FLOP/B")),
        both("bound by", (mine.bound, theirs.bound)),
        both("compute-bound", (never(mine), never(theirs))),
    ]


def _conclusions(recipe: Recipe, other: Recipe, mine: Roofline, theirs: Roofline, crossing: int | None) -> list[str]:
    said = []
    if mine.sequences < mine.batch:
        said.append(f"batch {mine.batch} is past the {mine.sequences} whole sequences that fit")
    ahead, behind = (recipe, other) if mine.decode_tokens_s >= theirs.decode_tokens_s else (other, recipe)
    if abs(mine.decode_tokens_s / theirs.decode_tokens_s - 1) > 1e-9:
        later = f"; {behind.name} overtakes at batch {crossing:,}" if crossing else ""
        said.append(f"decode at batch {mine.batch}: {ahead.name} is ahead{later}")
    if mine.ridge_batch is None:
        said.append(
            "one more sequence costs more in cache reads than in arithmetic, so no batch makes decode compute-bound"
        )
    said.append("ceilings, not forecasts; nothing here speaks of quality")
    return said


def _head(out: Console, recipe: Recipe, shape: Shape | None) -> None:
    model = shape.name if shape else recipe.model.name or recipe.model.size or str(recipe.model.path)
    cards = f"{recipe.gpus} x " if recipe.gpus > 1 else ""
    out.print(
        Text.assemble(
            (recipe.name, "bold"),
            f"  {model}, {recipe.workload}, {cards}{recipe.card.label}, {recipe.context_tokens:,} tokens, "
            f"{recipe.concurrency} at once, {recipe.engine}",
        ),
        soft_wrap=True,
    )
    for axis, told in recipe.axes().items():
        out.print(Text(f"  {axis:12} {told}"), soft_wrap=True)


def _list(out: Console, findings: list[Finding]) -> None:
    for one in findings:
        source = f" ({one.source})" if one.source else ""
        out.print(Text.assemble((one.level, _STYLE[one.level]), f" {one.key}: {one.found}{source}"), soft_wrap=True)
        out.print(Text(f"  -> {one.fix}"), soft_wrap=True)
