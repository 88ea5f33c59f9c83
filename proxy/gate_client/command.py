"""The command `parity gate`: its words, what it prints, and the exit code."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any, NoReturn

import httpx
import orjson
import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand

from proxy.gate_client.ask import Answer, Gate, NoAnswer, ask, gate_url
from proxy.gate_client.wait import shape, wait
from proxy.report.view import STYLE, print_verdict

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 2}
NOT_ASKED = 3
INTERRUPTED = 130  # as a shell reports SIGINT; 1 would say that the recipe failed
TOKEN_ENV = "PARITY_GATE_TOKEN"

out = Console()
err = Console(stderr=True)


class GateCommand(TyperCommand):
    """A command whose own mistakes end with NOT_ASKED: 2, which is usual for them, would say inconclusive."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        try:
            return super().make_context(*args, **more)
        except Exception as error:  # click's UsageError, of which typer has one of its own by now
            if getattr(error, "exit_code", None) == 2:
                vars(error)["exit_code"] = NOT_ASKED
            raise


def gate(
    url: Annotated[str, typer.Argument(metavar="URL", help="The monitor's control port, e.g. http://127.0.0.1:9090")],
    until_decided: Annotated[bool, typer.Option("--wait", help="Ask again until it is pass or fail.")] = False,
    recipe: Annotated[str | None, typer.Option(help="Judge this recipe: any other is inconclusive.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that --wait waits.", min=0)] = 3600.0,
    interval: Annotated[float, typer.Option(help="Seconds from one question to the next.", min=0.1)] = 15.0,
    token_env: Annotated[
        str | None, typer.Option(help=f"The variable that holds the token. Default: {TOKEN_ENV}, if it is set.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON, as /gate answers it.")] = False,
) -> None:
    """Ask a running monitor for its verdict, and exit with it.

    \b
    0  pass
    1  fail
    2  inconclusive: not decided (yet), or another recipe
    3  could not be asked: not reached, no token, no gate, or a mistake in the words

    In a CI job, once the candidate serves traffic:

    \b
      export PARITY_GATE_TOKEN=...    # control.gate_token_env of the monitor
      code=0
      parity gate http://parity.llm:9090 --recipe awq-int4-g128 --wait || code=$?
      case $code in
        0) promote ;;
        1) roll_back ;;               # stdout says which budget broke, and why
        *) exit 1 ;;                  # nothing is decided: no data never promotes
      esac

    While it waits, stderr gets a line when something changes. A monitor that restarts is asked again.
    """
    place = _place(url, recipe, token_env, as_json)
    try:
        with httpx.Client() as client:
            if until_decided:
                with ExitStack() as stack:
                    found = wait(client, place, timeout_s=timeout, interval_s=interval, on_look=_teller(stack))
            else:
                found = ask(client, place)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if isinstance(found, NoAnswer):
        _not_asked(found.why, as_json)
    if as_json:
        typer.echo(orjson.dumps(found.whole))
    else:
        _show(found)
    raise typer.Exit(EXIT_CODES[found.verdict])


def _place(url: str, recipe: str | None, token_env: str | None, as_json: bool) -> Gate:
    token = os.environ.get(token_env or TOKEN_ENV) or None
    if token_env is not None and token is None:
        _not_asked(f"--token-env: the environment has no {token_env}; export it", as_json)
    if token is not None and not (token.isascii() and token.isprintable()):
        _not_asked(f"the token in {token_env or TOKEN_ENV} holds what no header may", as_json)
    try:
        return Gate(gate_url(url), recipe, token)
    except ValueError as error:
        _not_asked(str(error), as_json)


def _teller(stack: ExitStack) -> Callable[[Answer | NoAnswer], None]:
    """Tells each change in one line; on a terminal also the latest figures, in place."""
    status = stack.enter_context(err.status("asking")) if err.is_terminal else None
    told = ""

    def tell(found: Answer | NoAnswer) -> None:
        nonlocal told
        if isinstance(found, Answer):
            line = Text.assemble((found.verdict, STYLE[found.verdict]), f": {found.reason}")
        else:
            line = Text(found.why)
        if status is not None:
            status.update(line)
        if shape(found) != told:
            told = shape(found)
            err.print(line, soft_wrap=True)

    return tell


def _show(found: Answer) -> None:
    """The verdict for a person; a monitor of another version may say less than the table wants."""
    try:
        print_verdict(out, found.whole)
    except (KeyError, TypeError, ValueError, AttributeError):
        out.print(f"verdict: {found.verdict}   {found.reason}", markup=False, highlight=False, soft_wrap=True)


def _not_asked(why: str, as_json: bool) -> NoReturn:
    err.print(Text.assemble(("error:", "bold red"), " ", why), soft_wrap=True)
    if as_json:
        typer.echo(orjson.dumps({"verdict": None, "error": why}))
    raise typer.Exit(NOT_ASKED)
