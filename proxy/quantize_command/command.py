"""The command `parity quantize`: its words and exit codes. The work is in work.py, imported when it is begun.

Exit codes: 0 the checkpoint is there; 1 refused or failed, and there is none; 2 the words or the recipe file are wrong;
130 interrupted, and what was done is kept for --resume.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.text import Text

from backends.recipes.reading import RecipeFileError, load_recipe
from proxy.errors import ParityError

REFUSED, WRONG, INTERRUPTED = 1, 2, 130

out = Console()
err = Console(stderr=True)


def quantize(
    file: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (TOML).", dir_okay=False)],
    to: Annotated[Path | None, typer.Option("--out", "-o", help="A new folder for the checkpoint.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help='Prompts, a line each: {"messages", "tools"} or {"text"}.', dir_okay=False),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Or the ledger whose kept traffic is calibrated on.", dir_okay=False)
    ] = None,
    samples: Annotated[int, typer.Option(help="Calibration prompts.", min=1, max=20_000)] = 256,
    max_tokens: Annotated[int, typer.Option(help="Tokens of one prompt; the rest is cut.", min=16)] = 2_048,
    seed: Annotated[int, typer.Option(help="Chooses the prompts, and seeds the tool.", min=0, max=2**32 - 1)] = 0,
    python: Annotated[
        Path | None,
        typer.Option(
            help="The quantizing environment's. Default: $PARITY_QUANTIZE_PYTHON, else .venv-quantize/bin/python."
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="llmcompressor; or autoawq, with --python of its own environment.")
    ] = "llmcompressor",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what an interrupted run left.")] = False,
    keep_calibration: Annotated[
        bool, typer.Option("--keep-calibration", help="Leave the prompts in the checkpoint's folder.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and make nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Try also where memory does not suffice.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card, or the plan, as JSON.")] = False,
) -> None:
    """Make a recipe's checkpoint, with a card that says what it was made from and how.

    \b
      parity quantize awq.toml --out models/awq --ledger parity-ledger.sqlite
      parity quantize gptq.toml --out models/gptq --calibration prompts.jsonl --samples 512
      parity quantize fp8.toml --dry-run

    It works in OUT.partial and renames it at the end: OUT appears whole or not at all. docs/quantize.md says what each
    method is made of.

    \b
    0    the checkpoint is there
    1    refused or failed: there is none
    2    the words or the recipe file are wrong
    130  interrupted: --resume goes on
    """
    from backends.checkpoints.planned import PlanError, plan
    from proxy.quantize_command import view

    try:
        recipe = load_recipe(file)
    except RecipeFileError as error:
        _end(WRONG, *(one if one.startswith(str(file)) else f"{file}: {one}" for one in error.problems))
    if engine not in ("llmcompressor", "autoawq"):
        _end(WRONG, f'--engine: there is no "{engine[:40]}"; there are llmcompressor, autoawq')
    if calibration is not None and ledger is not None:
        _end(WRONG, "--calibration and --ledger: give one of them")
    try:
        planned = plan(recipe, "autoawq" if engine == "autoawq" else None)
    except PlanError as error:
        _end(REFUSED, *(f"{file}: {one}" for one in error.problems))
    if dry_run:
        if as_json:
            typer.echo(orjson.dumps({"recipe": recipe.name, **planned.as_dict()}).decode())
        else:
            view.show_plan(out, recipe, planned)
        return
    if to is None:
        _end(WRONG, "--out: give a new folder for the checkpoint, or --dry-run to see the plan")

    from backends.checkpoints.samples import SamplesError
    from backends.pinned.cache import DigestCache, default_place
    from backends.pinned.files import FilesError
    from proxy.quantize_command.asked import Asked, Source, hold, model_of, python_of
    from proxy.quantize_command.work import make

    try:
        source = (
            Source("file", calibration) if calibration else Source("ledger", ledger) if ledger else None
        )  # fmt: skip
        asked = Asked(
            recipe=recipe, parent=model_of(recipe, file), plan=planned, out=to, python=python_of(python, os.environ),
            source=source, samples=samples, max_tokens=max_tokens, seed=seed, keep_calibration=keep_calibration,
        )  # fmt: skip
        signal.signal(signal.SIGTERM, _as_interrupt)
        with view.Progress(err) as progress:
            for note in hold(asked, file.parent, force=force):
                progress.note(note)
            told = make(asked, DigestCache(default_place(os.environ)), progress, resume=resume)
    except KeyboardInterrupt:
        partial = to.with_name(to.name + ".partial")
        kept = f"what was done is in {partial}: the same command with --resume goes on from it"
        _end(INTERRUPTED, f"interrupted; {kept if partial.exists() else 'nothing was begun'}")
    except (ParityError, FilesError, SamplesError) as error:
        _end(REFUSED, str(error))
    if as_json:
        typer.echo(orjson.dumps(told).decode())
    else:
        view.show_card(out, told, to)


def _as_interrupt(*_: object) -> NoReturn:
    """A job's end is asked for by SIGTERM as a person's by Ctrl-C."""
    raise KeyboardInterrupt


def _end(code: int, *told: str) -> NoReturn:
    for line in told:
        err.print(Text.assemble(("error:", "bold red"), " ", line), soft_wrap=True)
    raise typer.Exit(code)
