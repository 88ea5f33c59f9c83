"""The `parity` command. Reads the words, starts the rest, and prints for people; it decides nothing itself.

Exit codes: 0 done, 1 what was asked failed, 2 the command line or the settings are wrong. `parity gate` has its own.

The composition root and the demo are imported where they are used: they load the control port and the `openai` client,
and whoever asks the gate from a job should not wait for these.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backends.emulator.recipes import RECIPES, RecipeError, parsed
from proxy import __version__
from proxy.contract import command as contract_command
from proxy.errors import ParityError, SettingsError
from proxy.gate_client import command as gate_command
from proxy.launch_command.command import launch as launch_command
from proxy.quantize_command.command import quantize
from proxy.recipe_command.command import recipe as recipe_commands
from proxy.report.explain import explain
from proxy.report.export import Format, export
from proxy.report.recompute import recompute
from proxy.report.reference_cost import cost_line, reference_cost
from proxy.report.view import plan_table, print_verdict
from proxy.settings_file import Loaded, load_settings
from proxy.supervisor import die_with_parent
from proxy.template import TEMPLATE
from scorers.catalogue import SPECS

cli = typer.Typer(
    name="parity",
    help="Serve a quantized LLM, mirror sampled requests to its BF16 reference, and keep a verdict you can trust.\n\n"
    "Start with `parity demo`, or `parity init-config parity.toml` and `parity serve --config parity.toml`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="The settings file (TOML).", envvar="PARITY_CONFIG", dir_okay=False)
]
PortOption = Annotated[int | None, typer.Option("--port", help="Listen here instead of the file's port.", min=0)]
LogLevel = Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.", envvar="PARITY_LOG_LEVEL")]


class Fault(StrEnum):
    """What the demo can plant in a scripted candidate."""

    NONE = "none"
    TOOL_CALLS = "tool_calls"
    LOGPROBS = "logprobs"
    RECALL = "recall"


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"parity-proxy {__version__}", highlight=False)
        raise typer.Exit


@cli.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""


@cli.command()
def serve(config: ConfigOption = Path("parity.toml"), log_level: LogLevel = "info") -> None:
    """Serve clients and watch parity: starts and supervises the relay workers and the monitor.

    SIGTERM drains: no new connection, running replies finish within relay.drain_timeout_s.
    """
    from proxy import app

    loaded = _load(config, log_level)
    with _told_plainly():
        code = app.serve(loaded, log_level)
    raise typer.Exit(code)


@cli.command()
def relay(
    config: ConfigOption = Path("parity.toml"),
    worker: Annotated[int, typer.Option(help="This worker's number, for metrics.", min=0)] = 0,
    port: PortOption = None,
    log_level: LogLevel = "info",
) -> None:
    """Run one relay worker alone. It serves clients whether or not a monitor is there."""
    from proxy import app

    loaded = _load(config, log_level)
    with _told_plainly():
        app.run_relay(loaded, worker, port)


@cli.command()
def monitor(config: ConfigOption = Path("parity.toml"), port: PortOption = None, log_level: LogLevel = "info") -> None:
    """Run the monitor alone: shadow calls, scores, ledger, verdict and the control port."""
    from proxy import app

    loaded = _load(config, log_level)
    with _told_plainly():
        app.run_monitor(loaded, port)


@cli.command("check-config")
def check_config(
    config: Annotated[Path, typer.Argument(help="The settings file to check.")] = Path("parity.toml"),
    traffic: Annotated[
        float | None,
        typer.Option(help="Clients' requests per second, for the times. Default: what the ledger saw.", min=0.001),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    ask: Annotated[
        bool, typer.Option("--probe", help="Ask both engines what they can do; 1 when a budget can never be scored.")
    ] = False,
) -> None:
    """Print what a settings file means and what each budget needs to pass, or every mistake in it with its fix."""
    from proxy import app
    from proxy.report.engines import print_probed

    loaded = _load(config, "warning")
    missing = app.missing_files(loaded)
    for problem in missing:
        _tell("✗", problem)
    if missing:
        raise typer.Exit(2)
    with _told_plainly():
        plan = app.plan_of(loaded, traffic)
    probed = app.probed(loaded) if ask else None
    wrong = typer.Exit(1 if probed is not None and probed.impossible else 0)
    if as_json:
        settings = loaded.settings.model_dump(mode="json")
        asked = {} if probed is None else {"probe": probed.as_dict()}
        out.print_json(orjson.dumps({"settings": settings, "plan": plan.as_dict(), **asked}).decode())
        raise wrong
    for name, section in loaded.settings:
        if name != "budgets" and section is not None:
            table = Table(
                title=Text(f"[{name}]"), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
            )
            for key, value in section:
                table.add_row(f"  {key}", _as_toml(value), "" if key in section.model_fields_set else "default")
            out.print(table)
    out.print(plan_table(plan))
    out.print(Text(f"traffic: {plan.source}", style="dim"), soft_wrap=True)
    for hint in app.hints(loaded):
        out.print(Text.assemble(("note: ", "bold yellow"), hint), soft_wrap=True)
    if probed is not None:
        print_probed(out, probed)
    raise wrong


@cli.command("init-config")
def init_config(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("parity.toml"),
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented settings file to start from."""
    if path.exists() and not force:
        _fail(f"{path} exists; give another path, or --force to overwrite it")
    try:
        path.write_text(TEMPLATE, encoding="utf-8")
    except OSError as error:
        _fail(f"{path} cannot be written: {error.strerror}")
    out.print(f"wrote {path}; edit the two urls, then run: parity check-config {path}", highlight=False)


@cli.command()
def verdict(
    ledger: Annotated[Path, typer.Argument(help="The ledger file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in the shape that /gate answers.")] = False,
    long: Annotated[
        bool, typer.Option("--explain", help="Print every figure, and where each test crossed its threshold.")
    ] = False,
) -> None:
    """Recompute the verdict from a ledger alone: its latest epoch, under the budgets that the epoch was opened with."""
    if as_json and long:
        _usage("--json holds all that --explain prints; give one of them")
    with _told_plainly():
        answer = recompute(ledger)
        if as_json:
            out.print_json(orjson.dumps(answer).decode())
        else:
            explain(out, ledger, answer) if long else print_verdict(out, answer)
            out.print(cost_line(reference_cost(ledger, answer["epoch"])), highlight=False, soft_wrap=True)


cli.add_typer(contract_command.contract, name="contract")
cli.command("gate", cls=gate_command.GateCommand)(gate_command.gate)
cli.add_typer(recipe_commands)
cli.command("launch")(launch_command)
cli.command("quantize")(quantize)


@cli.command("export")
def run_export(
    ledger: Annotated[Path, typer.Argument(help="The ledger file.")],
    form: Annotated[Format, typer.Option("--format", help="How to write the rows.")] = Format.JSONL,
    epoch: Annotated[int | None, typer.Option(help="One epoch's rows. Default: those of all.", min=1)] = None,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="A new file. Default: stdout.", dir_okay=False)] = None,
) -> None:
    """Write a ledger's rows, one per sampled exchange in sampling order, with every score or the reason for none.

    Prompts and replies are never exported.
    """
    with _told_plainly():
        try:
            if to is None:
                done = export(ledger, sys.stdout, form, epoch)
            else:
                with to.open("x", encoding="utf-8", newline="") as file:
                    done = export(ledger, file, form, epoch)
        except FileExistsError:
            _fail(f"{to} exists; give another --out")
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `head` has seen enough: a clean end
            raise typer.Exit(0) from None
        except OSError as error:
            _fail(f"{to or 'stdout'} cannot be written: {error.strerror or error}")
    gone = f"; those up to position {done.pruned_through} had been pruned" if done.pruned_through >= 0 else ""
    err.print(f"{done.rows:,} rows{gone}", highlight=False)


@cli.command("demo")
def run_demo(
    recipe: Annotated[
        str, typer.Option(help="The precision that damages the candidate; --recipe list shows all names.")
    ] = "int4-kv-per-tensor",
    once: Annotated[bool, typer.Option("--once", help="Run unattended: one phase, then end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end; needs --once.")] = False,
    fault: Annotated[
        Fault | None, typer.Option(help="Take scripted engines instead, and plant this in the candidate.")
    ] = None,
    requests: Annotated[
        int, typer.Option(help="How many requests a phase sends; at most, with a recipe.", min=20, max=100_000)
    ] = 900,
    ledger: Annotated[Path | None, typer.Option(help="Keep the ledger in this file.", dir_okay=False)] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Keep the page up at the end, until Ctrl-C.")] = False,
) -> None:
    """The main job in one command: a small real model at two precisions, the real proxy, real traffic, the verdict.

    Without --once it shows a live table: first a healthy candidate (INT4 weights, group 128) until it is promoted, then
    the damaging recipe, switched while clients are served, until the verdict turns.
    """
    if as_json and not once:
        _usage("--json needs --once: the live table and a JSON object cannot share a terminal")
    if recipe == "list":
        for known in RECIPES.values():
            shown = ", ".join(f"{axis} {how}" for axis, how in known.as_dict().items() if axis != "recipe")
            typer.echo(f"{known.name:30}{shown}")
        return
    try:
        parsed(recipe)
    except RecipeError as error:
        _usage(f"--recipe: {error}")
    from proxy import demo

    planted = None if fault is None else fault.value
    plan = demo.Plan(
        requests=requests, recipe=recipe, fault=planted, once=once, quiet=as_json, hold=hold, ledger=ledger
    )
    with _told_plainly():
        result = demo.run(plan, err if as_json else out)
    if as_json:
        typer.echo(orjson.dumps(result).decode())


def _as_toml(value: object) -> Text:
    """A value as the settings file would say it."""
    if value is None:
        return Text("not set", style="dim")
    if isinstance(value, Path):
        value = str(value)
    return Text(orjson.dumps(value, default=lambda table: table.model_dump()).decode())


def _load(config: Path, log_level: str) -> Loaded:
    """The settings, or exit code 2 with every problem. Also sets up logging, once, here."""
    from proxy import app

    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        _usage(f'--log-level "{log_level}": choose debug, info, warning or error')
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(max(level, logging.WARNING))  # it logs every shadow call's URL
    if os.environ.get("PARITY_SUPERVISED"):
        die_with_parent()
    try:
        loaded = load_settings(config, os.environ, SPECS)
        app.check(loaded)
        return loaded
    except SettingsError as error:
        for problem in error.problems:
            _tell("✗", problem)
        raise typer.Exit(2) from None


@contextmanager
def _told_plainly() -> Iterator[None]:
    """Turns an error of ours into one line and exit code 1; anything else is a defect and keeps its traceback."""
    try:
        yield
    except ParityError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    _tell("error:", message)
    raise typer.Exit(1)


def _usage(message: str) -> NoReturn:
    _tell("error:", message)
    raise typer.Exit(2)


def _tell(mark: str, message: str) -> None:
    """One line on stderr, taken as it is: what looks like markup in it, such as [candidate], is the user's."""
    err.print(Text.assemble((mark, "bold red"), " ", message), soft_wrap=True)


def main() -> None:
    """Entry point of the `parity` command."""
    cli()


if __name__ == "__main__":
    main()
