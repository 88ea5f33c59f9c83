"""The command `parity launch`: its words, what it prints, and the exit codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.text import Text

from backends.recipes.command_line import Side
from backends.recipes.finding import Finding
from backends.recipes.reading import RecipeFileError
from proxy.errors import LaunchError
from proxy.launch_command.machine import free_bytes
from proxy.launch_command.plan import Asked, Launch, Refused, plan
from proxy.launch_command.printed import as_json, settings_text, shell, url_of
from proxy.launch_command.program import UNKNOWN, Program, program

DONE, FAILED, WRONG = 0, 1, 2
CANDIDATE_PORT, REFERENCE_PORT = 8001, 8002  # those of the settings file's template
READY_TIMEOUT_S = 1800.0  # *choice*: large weights over a network disk take tens of minutes

out = Console()
err = Console(stderr=True)


class Which(StrEnum):
    """Which arms."""

    CANDIDATE = "candidate"
    REFERENCE = "reference"
    BOTH = "both"


_SIDES: Mapping[Which, tuple[Side, ...]] = {
    Which.BOTH: ("reference", "candidate"),
    Which.CANDIDATE: ("candidate",),
    Which.REFERENCE: ("reference",),
}


def launch(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The candidate's recipe file.", dir_okay=False)],
    checkpoint: Annotated[str, typer.Option(help="The folder of the candidate's weights.")],
    reference: Annotated[str | None, typer.Option(help="The folder of the same model at BF16.")] = None,
    arm: Annotated[Which | None, typer.Option(help="Which to start. Default: both where a reference is given.")] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the commands and start nothing.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print them as JSON, with argv as lists; start nothing.")
    ] = False,
    host: Annotated[str, typer.Option(help="Where the engines listen.")] = "127.0.0.1",
    candidate_port: Annotated[int, typer.Option(min=1, max=65_535)] = CANDIDATE_PORT,
    reference_port: Annotated[int, typer.Option(min=1, max=65_535)] = REFERENCE_PORT,
    python: Annotated[
        Path | None, typer.Option(help="The interpreter that has vLLM. Default: that of the `vllm` on the path.")
    ] = None,
    cards: Annotated[
        str | None, typer.Option(help="The machine's cards, e.g. 0,1: enough for both arms gives each its own.")
    ] = None,
    reference_gpus: Annotated[
        int | None, typer.Option(help="Cards of the reference. Default: its recipe's, else the candidate's.", min=1)
    ] = None,
    name: Annotated[
        str | None, typer.Option("--served-model-name", help="The model's name for clients, on both arms.")
    ] = None,
    tool_call_parser: Annotated[str | None, typer.Option(help="vLLM's parser, where the family is not known.")] = None,
    allow_emulated: Annotated[
        bool, typer.Option("--allow-emulated", help="Serve formats that the card only stores low.")
    ] = False,
    config_out: Annotated[
        Path | None, typer.Option(help="Write a settings file for `parity serve` here; a new file.", dir_okay=False)
    ] = None,
    logs: Annotated[Path, typer.Option(help="The folder for the engines' logs.", file_okay=False)] = Path(
        "parity-launch"
    ),
    ready_timeout: Annotated[
        float, typer.Option(help="Seconds until an engine must be ready.", min=1.0)
    ] = READY_TIMEOUT_S,
) -> None:
    """Serve a recipe: the exact vLLM command of each arm, printed, or run and watched.

    \b
      parity launch awq.toml --checkpoint ./awq --reference ./bf16 --print
      parity launch awq.toml --checkpoint ./awq --reference ./bf16 --config-out parity.toml

    The arms differ in what the recipe says and in nothing else. A checkpoint that is not what the recipe says, and a
    model that does not fit, are refused with the reason and the fix. Ctrl-C ends both engines.

    \b
    0  printed; or the engines ran and were told to end
    1  refused, or an engine failed: its last lines and the cause are printed
    2  the words or the recipe file are wrong
    """
    which = arm or (Which.BOTH if reference is not None else Which.CANDIDATE)
    if which is not Which.CANDIDATE and reference is None:
        _usage("--reference", "give the folder of the BF16 model, or --arm candidate")
    if which is Which.BOTH and candidate_port == reference_port:
        _usage("--reference-port", f"both arms on port {candidate_port}; give each its own")
    sides = _SIDES[which]
    printing = only_print or json
    if config_out is not None and config_out.exists():
        _usage("--config-out", f"{config_out} exists; give another name")
    asked = Asked(
        recipe=recipe, checkpoint=checkpoint, reference=reference, sides=sides, here=not printing, host=host,
        ports={"candidate": candidate_port, "reference": reference_port}, cards=_cards(cards),
        reference_gpus=reference_gpus, name=name, parser=tool_call_parser, allow_emulated=allow_emulated,
        memory_bytes=None if printing else free_bytes(),
    )  # fmt: skip
    planned, starts = _planned(asked, json), _program(python, printing)
    if json:
        typer.echo(orjson.dumps(as_json(planned, starts)).decode())
    elif printing:
        _show(planned.findings)
        typer.echo(shell(planned, starts))
        if not config_out:
            _settings(planned, recipe)
    if config_out is not None and printing:
        _write(config_out, settings_text(planned.commands, planned.recipe, recipe))
    if not printing:
        _show(planned.findings)
        _run(planned, starts, logs, ready_timeout, recipe, config_out)


def _run(
    planned: Launch, starts: Program, logs: Path, ready_timeout_s: float, recipe: Path, config_out: Path | None
) -> None:
    from proxy.launch_command.run import run  # asyncio and httpx, which no other command should wait for

    def announce() -> None:
        for one in planned.commands:
            out.print(Text(f"{one.side}  {url_of(one)}"), soft_wrap=True)
        if config_out is not None:
            _write(config_out, settings_text(planned.commands, planned.recipe, recipe))
        elif len(planned.commands) > 1:
            out.print(Text("next: the same with --config-out parity.toml, or name both urls in one of your own"))

    if starts.why:
        err.print(Text.assemble(("note", "bold cyan"), " ", starts.why), soft_wrap=True)
    try:
        proven = run(planned, starts, logs, ready_timeout_s, err, announce)
    except LaunchError as error:
        _fail(str(error))
    if not proven:
        _fail("ended before every engine was ready")


def _planned(asked: Asked, as_json_: bool) -> Launch:
    """The launch, or the exit code with every reason against it."""
    try:
        return plan(asked)
    except RecipeFileError as error:
        for problem in error.problems:
            told = problem if problem.startswith(str(asked.recipe)) else f"{asked.recipe}: {problem}"
            _tell("✗", told)
        raise typer.Exit(WRONG) from None
    except Refused as refused:
        if as_json_:
            typer.echo(orjson.dumps({"refused": [one.as_dict() for one in refused.findings]}).decode())
        _show(refused.findings)
        count = sum(one.level == "error" for one in refused.findings)
        _fail(f"not started: {count} {'reason' if count == 1 else 'reasons'} above")


def _program(python: Path | None, printing: bool) -> Program:
    try:
        return program(python)
    except LaunchError as error:
        if printing and python is None:
            return UNKNOWN
        _fail(str(error))


def _cards(words: str | None) -> tuple[int, ...] | None:
    if words is None:
        return None
    found = [word.strip() for word in words.split(",")]
    if not all(word.isdecimal() for word in found) or len(set(found)) != len(found):
        _usage("--cards", f'"{words[:60]}": their numbers, each once, as in 0,1')
    return tuple(int(word) for word in found)


_STYLE = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}


def _show(findings: Iterable[Finding]) -> None:
    for one in findings:
        source = f" ({one.source})" if one.source else ""
        err.print(Text.assemble((one.level, _STYLE[one.level]), f" {one.key}: {one.found}{source}"), soft_wrap=True)
        err.print(Text(f"  -> {one.fix}"), soft_wrap=True)


def _settings(planned: Launch, recipe: Path) -> None:
    """The settings for both arms, as a comment under the commands."""
    text = settings_text(planned.commands, planned.recipe, recipe)
    typer.echo("# parity.toml for these (--config-out writes it):")
    typer.echo("".join(f"#   {line}\n" if line else "#\n" for line in text.splitlines()), nl=False)


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        _fail(f"{path} cannot be written: {error.strerror}")
    err.print(Text(f"wrote {path}; next: parity serve --config {path}"), soft_wrap=True)


def _fail(message: str) -> NoReturn:
    _tell("error:", message)
    raise typer.Exit(FAILED)


def _usage(key: str, message: str) -> NoReturn:
    _tell("error:", f"{key}: {message}")
    raise typer.Exit(WRONG)


def _tell(mark: str, message: str) -> None:
    err.print(Text.assemble((mark, "bold red"), " ", message), soft_wrap=True)
