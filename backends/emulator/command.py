"""`python -m backends.emulator`: one emulated engine as a process. Prints one JSON line when it listens.

    python -m backends.emulator --recipe int4-kv-per-tensor --port 8101
    curl 127.0.0.1:8101/v1/chat/completions -H 'content-type: application/json' \\
        -d '{"messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0}'

`--recipes` lists the named recipes; axes can be said apart: --recipe weights=int4:group128,kv=int8:head
While it runs: POST /_emulator/recipe {"recipe": NAME} switches, GET /_emulator/stats counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from backends.emulator.checkpoint import ModelError
from backends.emulator.recipes import RECIPES, RecipeError, parsed
from backends.emulator.server import MODEL, EmulatorServer


def read(arguments: list[str]) -> argparse.Namespace:
    """The command line, with `recipe` parsed. Raises: SystemExit with usage on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m backends.emulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="bf16", help="a name, or axes apart; default bf16")
    parser.add_argument("--recipes", action="store_true", help="list the named recipes and end")
    parser.add_argument("--model", type=Path, default=MODEL, help="a Qwen3 or Llama directory; default the shipped one")
    parser.add_argument("--served-model-name", default="m")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    given = parser.parse_args(arguments)
    if not 0 <= given.port <= 65_535:
        parser.error(f"--port {given.port}: give a number from 0 to 65535")
    try:
        given.recipe = parsed(given.recipe)
    except RecipeError as error:
        parser.error(str(error))
    return given


async def run(given: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT. Raises: ModelError, RecipeError, OSError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    name = given.served_model_name
    server = EmulatorServer(given.recipe, given.model, model=name, host=given.host, port=given.port)
    async with server:
        print(json.dumps({"url": server.url, "model": name, **given.recipe.as_dict()}), flush=True)
        await stop.wait()


def main(arguments: list[str]) -> int:
    """0 after an orderly end, 1 when the model, the recipe or the port cannot be had."""
    given = read(arguments)
    if given.recipes:
        for recipe in RECIPES.values():
            print(f"{recipe.name:30}{recipe.weights!s:22}{recipe.activations!s:18}{recipe.kv_cache!s}")
        return 0
    try:
        asyncio.run(run(given))
    except (ModelError, RecipeError, OSError) as error:
        print(f"backends.emulator: {error}", file=sys.stderr)
        return 1
    return 0
