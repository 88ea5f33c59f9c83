"""The commands under `parity recipe`: their words and exit codes. What they know is in backends/recipes.

Exit codes: 0 done, 1 what was checked must not ship as it is, 2 the words or the file are wrong.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import orjson
import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from rich.console import Console
from rich.text import Text

from backends.recipes.check import check
from backends.recipes.differ import difference
from backends.recipes.finding import Finding
from backends.recipes.observed import ACCEPTED_POINTS, CATEGORIES, floored, read_deltas
from backends.recipes.picture import svg
from backends.recipes.reading import RecipeFileError, load_recipe, parent_of
from backends.recipes.recipe import Model, Recipe, Workload
from backends.recipes.roofline import NoRoofline, Roofline, overtakes, roofline
from backends.recipes.shapes import ShapeError
from backends.recipes.suggest import suggest
from backends.recipes.written import as_toml
from proxy.recipe_command import view
from scorers.budgets import DISCIPLINE_MULTIPLE

recipe = typer.Typer(
    name="recipe",
    help="What to quantize, and what is wrong with it, before any checkpoint is made.\n\n"
    "A recipe is a TOML file: model, workload, hardware, and a format for the weights, the activations and the KV "
    "cache. Start with `parity recipe suggest --model-size 70B --workload chat --hardware h200 --context 16384 "
    "--concurrency 32 --out candidate.toml`, then `check`, `roofline` and `diff` it. docs/recipes.md has the rules.",
    no_args_is_help=True,
)
out = Console()
err = Console(stderr=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A recipe file (TOML).", dir_okay=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@recipe.command("suggest")
def run_suggest(
    workload: Annotated[str, typer.Option(help=f"One of {', '.join(get_args(Workload))}.")],
    hardware: Annotated[str, typer.Option(help="The card: a100, h100, h200, l40s, b200, rtx-4090, ...")],
    context: Annotated[int, typer.Option(help="The longest conversation, in tokens.", min=1)],
    concurrency: Annotated[int, typer.Option(help="Sequences served at once.", min=1)],
    model_size: Annotated[str | None, typer.Option(help='A well-known model\'s size, such as "70B".')] = None,
    model: Annotated[Path | None, typer.Option(help="Or the folder that holds the model's config.json.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Cards. Default: the fewest that do.", min=1, max=64)] = None,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="Write the recipe here; a new file.")] = None,
    as_json: Json = False,
) -> None:
    """From model, workload, hardware and context to a recipe, with the reasons and what it does not buy.

    \b
      parity recipe suggest --model-size 7B --workload chat --hardware a100 --context 8192 --concurrency 16
      parity recipe suggest --model ./Qwen3-32B --workload agent --hardware h100 --context 32768 \\
          --concurrency 8 --out candidate.toml
    """
    with_path = None if model is None else model.resolve()
    try:
        found = suggest(Model(size=model_size, path=with_path), workload, hardware, context, concurrency, gpus)
    except ShapeError as error:
        _usage("--model-size" if model is None else "--model", str(error))
    except ValidationError as error:
        _usage(*_option(error.errors(include_url=False)[0]))
    if to is not None:
        told = [f"{about}: {why}" for about, why in found.reasons] + [f"buys {one}" for one in found.not_bought]
        try:
            with to.open("x", encoding="utf-8") as file:
                file.write(as_toml(found.recipe, told))
        except FileExistsError:
            _usage("--out", f"{to} exists; give another name")
        except OSError as error:
            _usage("--out", f"{to} cannot be written: {error.strerror}")
        err.print(f"wrote {to}; next: parity recipe check {to}", highlight=False)
    findings = check(found.recipe, found.roof)
    if as_json:
        _print_json({**found.as_dict(), "findings": [one.as_dict() for one in findings]})
    else:
        view.show_suggestion(out, found, findings)
    raise typer.Exit(_code(findings))


@recipe.command("check")
def run_check(
    file: File,
    allow_emulated: Annotated[
        bool, typer.Option("--allow-emulated", help="Formats that the card only stores low are warnings.")
    ] = False,
    deltas: Annotated[
        list[str] | None,
        typer.Option(
            "--delta", metavar="NAME=POINTS", help=f"A measured change in points; NAME of {', '.join(CATEGORIES)}."
        ),
    ] = None,
    accepted: Annotated[
        float, typer.Option(help="Points that a metric may lose, with --delta.", min=0.0)
    ] = ACCEPTED_POINTS,
    as_json: Json = False,
) -> None:
    """Hold a recipe against the hardware gate, the known anomalies, what vLLM serves, and what it needs to calibrate.

    \b
    0  no error (there may be warnings)
    1  an error: it cannot be served as written, or must not ship
    2  the file or the words are wrong

    With what an evaluation measured, it also says what follows: tool calls down 5 points, knowledge unchanged:

    \b
      parity recipe check fp4.toml --delta tool_calls=-5 --delta knowledge=-0.3
    """
    chosen = _load(file)
    measured = _deltas(deltas or [])
    roof = _roof(chosen, file)
    findings = check(chosen, roof, allow_emulated=allow_emulated)
    findings = sorted([*read_deltas(chosen, measured, accepted), *findings], key=lambda one: one.level != "error")
    if as_json:
        counts = {level: sum(one.level == level for one in findings) for level in ("error", "warning", "note")}
        _print_json({"recipe": chosen.name, "counts": counts, "findings": [one.as_dict() for one in findings]})
    else:
        view.show_findings(out, chosen, findings)
    raise typer.Exit(_code(findings))


@recipe.command("diff")
def run_diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="The parent's recipe file.", dir_okay=False)],
    after: Annotated[Path, typer.Argument(metavar="B", help="The candidate's recipe file.", dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Name the precision axes that differ: one knob at a time, because a loss must have one cause.

    \b
    0  at most one axis differs
    1  more than one does, or the models differ: it says what each further axis needs
    2  a file is wrong
    """
    found = difference(_load(before), _load(after))
    if as_json:
        _print_json(found.as_dict())
    else:
        view.show_difference(out, before, after, found)
    raise typer.Exit(0 if found.one_knob else 1)


@recipe.command("roofline")
def run_roofline(
    file: File,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this recipe. Default: its parent, or BF16.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Sequences a step. Default: the recipe's concurrency.", min=1)
    ] = None,
    picture: Annotated[Path | None, typer.Option("--svg", help="Draw it into this file.", dir_okay=False)] = None,
    as_json: Json = False,
) -> None:
    """Bytes, capacity and the ceilings that bandwidth and arithmetic set, beside those of the parent recipe.

    A ceiling is what no engine can pass, not what one reaches. It says nothing about quality.

    \b
      parity recipe roofline awq.toml --against fp8.toml --batch 32 --svg roofline.svg
    """
    chosen = _load(file)
    other = _parent(chosen, file) if against is None else _load(against)
    try:
        shape = chosen.shape(file.parent)
        other_shape = other.shape(_folder_of_other(chosen, file, against))
        mine, theirs = roofline(chosen, shape, batch), roofline(other, other_shape, batch or chosen.concurrency)
    except (NoRoofline, ShapeError) as error:
        _usage("hardware" if isinstance(error, NoRoofline) else "model", str(error))
    crossing = None
    if shape == other_shape and (chosen.hardware, chosen.gpus) == (other.hardware, other.gpus):
        ahead = mine.decode_tokens_s >= theirs.decode_tokens_s
        crossing = overtakes(chosen, other, shape) if ahead else overtakes(other, chosen, shape)
    if picture is not None:
        title = f"{shape.name} on {chosen.gpus} x {chosen.card.label}, {chosen.context_tokens:,} tokens"
        try:
            picture.write_text(svg([(chosen.name, mine), (other.name, theirs)], title), encoding="utf-8")
        except OSError as error:
            _usage("--svg", f"{picture} cannot be written: {error.strerror}")
        err.print(f"wrote {picture}", highlight=False)
    if as_json:
        _print_json(
            {
                "recipe": chosen.name, "against": other.name, "shape": shape.as_dict(), "roofline": mine.as_dict(),
                "roofline_against": theirs.as_dict(), "overtaken_at_batch": crossing,
                "gain": view.gains(mine, theirs),
            }
        )  # fmt: skip
    else:
        view.show_roofline(out, chosen, other, shape, mine, theirs, crossing)


@recipe.command("budget")
def run_budget(
    floor: Annotated[
        list[float], typer.Option("--floor", help="One run of the reference; give it twice or more often.")
    ],
    candidate: Annotated[float, typer.Option(help="The candidate's run.")],
    multiple: Annotated[float, typer.Option(help="How many floors a budget may be.", min=0.1)] = DISCIPLINE_MULTIPLE,
    accepted: Annotated[float | None, typer.Option(help="The most that the product accepts to lose.", min=0.0)] = None,
    as_json: Json = False,
) -> None:
    """A suite's metric against the noise floor: the arithmetic. 0 within the budget, 1 outside.

    \b
      parity recipe budget --floor 78.2 --floor 78.6 --candidate 76.8

    It is for reading a table of results. What promotes is `parity gate`, whose evidence is pairs and stays valid
    however often it is looked at.
    """
    try:
        found = floored(tuple(floor), candidate, multiple, accepted)
    except ValueError as error:
        _usage("--floor", str(error))
    if as_json:
        _print_json(found.as_dict())
    else:
        for line in found.lines():
            typer.echo(line)
    raise typer.Exit(0 if found.within else 1)


def _option(detail: ErrorDetails) -> tuple[str, str]:
    """The option that pydantic complains about, and what to say."""
    key = str(detail["loc"][0]) if detail["loc"] else ""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if key == "workload":
        close = difflib.get_close_matches(str(detail["input"]).lower(), get_args(Workload), n=1)
        hint = f'did you mean "{close[0]}"? ' if close else ""
        message = f'there is no "{detail["input"]}"; {hint}there are {", ".join(get_args(Workload))}'
    named = {"": "--model-size or --model", "size": "--model-size", "path": "--model", "context_tokens": "--context"}
    return named.get(key, f"--{key}"), message


def _load(file: Path) -> Recipe:
    try:
        return load_recipe(file)
    except RecipeFileError as error:
        _refuse(file, error)


def _parent(chosen: Recipe, file: Path) -> Recipe:
    try:
        return parent_of(chosen, file)
    except RecipeFileError as error:
        _refuse(file, error)


def _folder_of_other(chosen: Recipe, file: Path, against: Path | None) -> Path:
    """Where the other recipe's relative paths start: beside its own file; BF16 has none, and starts beside this one."""
    if against is not None:
        return against.parent
    return (file.parent / chosen.parent).parent if chosen.parent is not None else file.parent


def _refuse(file: Path, error: RecipeFileError) -> NoReturn:
    for problem in error.problems:
        told = problem if problem.startswith(str(file)) else f"{file}: {problem}"
        err.print(Text.assemble(("✗", "bold red"), " ", told), soft_wrap=True)
    raise typer.Exit(2)


def _roof(chosen: Recipe, file: Path) -> Roofline | None:
    try:
        return roofline(chosen, chosen.shape(file.parent))
    except NoRoofline:
        return None


def _deltas(words: list[str]) -> dict[str, float]:
    read: dict[str, float] = {}
    for word in words:
        name, _, points = word.partition("=")
        if name not in CATEGORIES:
            _usage("--delta", f'there is no "{name[:40]}"; there are {", ".join(CATEGORIES)}')
        try:
            read[name] = float(points)
        except ValueError:
            _usage("--delta", f'"{word[:60]}" needs points, as in {name}=-5')
        if not abs(read[name]) <= 100:
            _usage("--delta", f"{name}: {points} is no change in points between -100 and 100")
    return read


def _code(findings: list[Finding]) -> int:
    return 1 if any(one.level == "error" for one in findings) else 0


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(orjson.dumps(value).decode())


def _usage(key: str, message: str) -> NoReturn:
    err.print(Text.assemble(("error:", "bold red"), " ", f"{key}: {message}"), soft_wrap=True)
    raise typer.Exit(2)
