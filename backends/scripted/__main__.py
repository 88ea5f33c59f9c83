"""`python -m backends.scripted`: one scripted vLLM as a process. Prints one JSON line when it listens."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

from backends.scripted.faults import Fault
from backends.scripted.script import Script
from backends.scripted.server import ScriptedServer


def parse(arguments: list[str]) -> tuple[Script, str, int]:
    """Script, host and port from the command line. Raises: SystemExit with usage on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m backends.scripted", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 lets the system choose")
    parser.add_argument("--model", default="m")
    parser.add_argument("--max-model-len", type=int, default=32_768)
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME[=RATE]",
        help=f"repeatable; NAME is one of {', '.join(Fault)}",
    )
    parser.add_argument("--fresh-faults", action="store_true", help="roll at every call, not by the prompt")
    parser.add_argument(
        "--lack",
        action="append",
        default=[],
        metavar="NAME=HOW",
        help="repeatable: what it cannot do (ignored, refused or missing), as engines beside vLLM",
    )
    parser.add_argument("--quantized", action="store_true", help="behave like a healthy quantized model")
    parser.add_argument("--shift", type=float, default=0.0, help="how far the logits lie off, in nats")
    parser.add_argument("--noise", type=float, default=0.0, help="share of calls that differ from run to run")
    parser.add_argument("--ttft", type=float, default=0.0, help="seconds to the first token")
    parser.add_argument("--token-interval", type=float, default=0.0, help="seconds per token")
    parser.add_argument("--jitter", type=float, default=0.0, help="share by which the waits vary")
    parser.add_argument("--record", type=int, default=0, help="how many requests GET /_scripted/requests shows")
    given = parser.parse_args(arguments)
    if not 0 <= given.port <= 65_535:
        parser.error(f"--port {given.port}: give a number from 0 to 65535")
    try:
        faults = dict(_fault(text) for text in given.fault)
        script = Script(
            model=given.model,
            max_model_len=given.max_model_len,
            shift=given.shift,
            noise=given.noise,
            faults=faults,
            fresh_faults=given.fresh_faults,
            lacks={name: how for name, _, how in (text.partition("=") for text in given.lack)},
            ttft_s=given.ttft,
            token_interval_s=given.token_interval,
            jitter=given.jitter,
            record=given.record,
        )
        script = script.as_healthy_quantized() if given.quantized else script
        ScriptedServer(script)
    except ValueError as error:
        parser.error(str(error))
    return script, given.host, given.port


async def run(script: Script, host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with ScriptedServer(script, host, port) as server:
        print(json.dumps({"url": server.url, "model": script.model}), flush=True)
        await stop.wait()


def _fault(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    return name, float(rate or 1.0)


if __name__ == "__main__":
    asyncio.run(run(*parse(sys.argv[1:])))
