"""The arms' commands for a shell and as JSON, and the settings file that names both."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from backends.recipes.command_line import Command
from backends.recipes.recipe import Recipe
from proxy.launch_command.plan import Launch
from proxy.launch_command.program import Program
from proxy.presets import PRESETS

_BATCH_INVARIANT_FROM = 9.0  # compute capability; vLLM 0.32.0, `envs.py`
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # listened on; this is where we ask


def url_of(command: Command) -> str:
    """Where an arm is asked from this machine."""
    host = EVERYWHERE.get(command.host, command.host)
    return f"http://[{host}]:{command.port}" if ":" in host else f"http://{host}:{command.port}"


def shell(launch: Launch, program: Program) -> str:
    """Text that a shell takes as it is: the comments say why, one command follows per arm."""
    blocks = ["\n".join(_block(one, launch, program)) for one in launch.commands]
    if len(blocks) > 1 and launch.recipe.card.capability >= _BATCH_INVARIANT_FROM:
        blocks.append(
            "# VLLM_BATCH_INVARIANT=1 before both: replies do not depend on what else is in the batch, so the noise\n"
            "# floor is 0 and fewer pairs decide. Slower; never before one alone: that would be another difference.\n"
        )
    return "\n".join(blocks)


def _block(command: Command, launch: Launch, program: Program) -> Iterator[str]:
    yield f"# {command.side}"
    if program.why:
        yield f"# {program.why}"
    if launch.one_by_one:
        first = command is launch.commands[0]
        yield (
            "# start this one first, and wait for /health: vLLM measures free memory while it starts"
            if first
            else f"# start this one once the {launch.commands[0].side} is ready: they share cards"
        )
    yield from (f"# {flag.name}: {flag.why}" for flag in command.flags if flag.why)
    environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in command.environment.items())
    head = shlex.join(command.head(program.words))
    yield f"{environment} {head}".strip() + " \\"
    lines = ["    " + shlex.join([flag.name, *flag.values]) for flag in command.flags]
    yield " \\\n".join(lines) + "\n"


def as_json(launch: Launch, program: Program) -> dict[str, Any]:
    """JSON-ready: argv by arm, in the order of starting."""
    return {
        "recipe": launch.recipe.name,
        "vllm": program.version,
        "one_by_one": launch.one_by_one,
        "arms": [
            {
                "arm": one.side, "argv": one.argv(program.words), "env": dict(one.environment), "url": url_of(one),
                "why": {flag.name: flag.why for flag in one.flags if flag.why},
            }
            for one in launch.commands
        ],
        "findings": [one.as_dict() for one in launch.findings],
    }  # fmt: skip


def settings_text(commands: Sequence[Command], recipe: Recipe, file: Path) -> str:
    """A settings file for `parity serve` over both arms.

    The budgets are the workload's preset; chat's for a workload that has none.
    """
    workload = recipe.workload if recipe.workload in PRESETS else "chat"
    lines = [f"# Written by `parity launch {file}`: the two arms as they were started. See `parity init-config`.", ""]
    for one in sorted(commands, key=lambda command: command.side):
        (name,) = next(flag.values for flag in one.flags if flag.name == "--served-model-name")
        lines += [f"[{one.side}]", f"url = {_toml(url_of(one))}", f"model = {_toml(name)}"]
        if Path(one.model).is_dir():
            lines.append(f"weights = {_toml(str(Path(one.model).resolve()))}")
        if one.side == "reference":
            lines.append("teacher_forcing = true  # this vLLM allows prompt_logprobs")
        lines.append("")
    lines += [
        "[gate]",
        f"recipe = {_toml(recipe.name)}",
        f"recipe_file = {_toml(str(file.resolve()))}",
        f"workload = {_toml(workload)}",
    ]
    return "\n".join(lines) + "\n"


def _toml(value: str) -> str:
    """JSON's strings are TOML's, but for the one control character that JSON leaves bare."""
    return orjson.dumps(value).decode().replace("\x7f", "\\u007f")
