"""The commands `parity contract pin` and `parity contract verify`: their words, what they print, and the exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from backends.base import BackendError
from backends.pinned.cache import DigestCache, default_place
from backends.pinned.files import FilesError
from backends.pinned.pin import Pin, PinError, read_pin, write_pin
from proxy.contract.arms import Arm, Words, arms_of
from proxy.contract.check import Checked, check
from proxy.contract.take import Wanted, take
from proxy.errors import SettingsError

SAME, DIFFERS, CANNOT = 0, 1, 2
EXIT_CODES = {"same": SAME, "differs": DIFFERS, "unchecked": CANNOT}
NOT_WRITTEN = 1
INTERRUPTED = 130  # as a shell reports SIGINT

out = Console()
err = Console(stderr=True)

contract = typer.Typer(
    help="Pin what the reference is into a file, and verify later that it still is.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PinFile = Annotated[Path, typer.Argument(metavar="FILE", help="The pin, e.g. contract.toml.", dir_okay=False)]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Take the arms from this settings file.", dir_okay=False)
]
Reference = Annotated[str | None, typer.Option(help="Where the reference is asked, e.g. http://127.0.0.1:8102")]
Candidate = Annotated[str | None, typer.Option(help="The same of the candidate.")]
Model = Annotated[str | None, typer.Option(help="The model's name there. Default: the first that it lists.")]
Weights = Annotated[Path | None, typer.Option(help="The checkpoint's directory on this machine.")]
KeyEnv = Annotated[str | None, typer.Option(help="The variable that holds the arm's API key.")]
Flags = Annotated[str | None, typer.Option(help="The engine's command line, in quotes.")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="A seed of the evaluation; repeatable.")]
CachePlace = Annotated[
    Path | None, typer.Option("--cache", help="The digest cache. Default: ~/.cache/parity/digests.json", dir_okay=False)
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Read every byte, whatever was read before.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@contract.command("pin")
def run_pin(
    file: PinFile,
    config: Config = None,
    with_candidate: Annotated[bool, typer.Option("--with-candidate", help="Pin the file's candidate too.")] = False,
    reference: Reference = None,
    model: Model = None,
    weights: Weights = None,
    api_key_env: KeyEnv = None,
    flags: Flags = None,
    candidate: Candidate = None,
    candidate_model: Model = None,
    candidate_weights: Weights = None,
    candidate_api_key_env: KeyEnv = None,
    candidate_flags: Flags = None,
    evaluation: Annotated[list[Path] | None, typer.Option("--eval", help="A file of the eval set; repeatable.")] = None,
    prompts: Annotated[list[Path] | None, typer.Option(help="A file of prompts; repeatable.")] = None,
    seed: Seeds = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Nats that a heartbeat may be off. Default: 3x its measured spread.", min=0)
    ] = None,
    without_weights: Annotated[bool, typer.Option("--without-weights", help="Pin no files.")] = False,
    cache: CachePlace = None,
    no_cache: NoCache = False,
    force: Annotated[bool, typer.Option(help="Overwrite an existing pin.")] = False,
) -> None:
    """Write down what the reference is: every byte of its files, its engine, its token ids, one heartbeat.

    \b
      parity contract pin contract.toml --config parity.toml
      parity contract pin contract.toml --reference http://127.0.0.1:8102 --weights /models/bf16 --eval gsm8k.jsonl

    Exit code 0: written; 1: not; 2: a mistake in the words. An interrupted pin leaves no file; the next one goes on
    from there, because the files that had been read are in the cache.
    """
    if file.exists() and not force:
        _end(NOT_WRITTEN, f"{file} exists; a pin is not overwritten: give another path, or --force")
    said = {"reference": Words(reference, model, weights, api_key_env, flags)}
    if with_candidate or candidate is not None:
        words = (candidate, candidate_model, candidate_weights, candidate_api_key_env, candidate_flags)
        said["candidate"] = Words(*words)
    with _told(NOT_WRITTEN):
        arms = arms_of(config, said, os.environ)
        for side in said:
            if side not in arms:
                _end(CANNOT, f"where is the {side}? Give --{side} URL, or --config FILE")
        wanted = Wanted(file.parent, evaluation or (), prompts or (), seed or (), tolerance, without_weights)
        digests = _cache(cache, no_cache)
        with _progress([arm.weights for arm in arms.values()]) as on_bytes:
            pin, notes = take(arms, wanted, digests, on_bytes)
        write_pin(file, pin, over=force)
    _tell_cache(digests)
    for note in notes:
        err.print(Text.assemble(("note: ", "bold yellow"), note), soft_wrap=True)
    out.print(f"pinned {_summary(pin)} in {file}, seal {pin.seal}", highlight=False, markup=False, soft_wrap=True)


@contract.command("verify")
def run_verify(
    file: PinFile,
    config: Config = None,
    reference: Reference = None,
    weights: Weights = None,
    api_key_env: KeyEnv = None,
    flags: Flags = None,
    candidate: Candidate = None,
    candidate_weights: Weights = None,
    candidate_api_key_env: KeyEnv = None,
    candidate_flags: Flags = None,
    seed: Seeds = None,
    cache: CachePlace = None,
    no_cache: NoCache = False,
    as_json: AsJson = False,
) -> None:
    """Check a pin again, all of it, and name what changed: which file, which probe, old and new.

    \b
    0  the same
    1  something differs: each is named
    2  nothing differs, and something could not be looked at; or the pin itself cannot be read

    The arms are asked, and the files read, where the pin says that they were, unless the words say otherwise.
    """
    with _told(CANNOT, as_json):
        pin = read_pin(file)
        said = {
            "reference": Words(reference, None, weights, api_key_env, flags),
            "candidate": Words(candidate, None, candidate_weights, candidate_api_key_env, candidate_flags),
        }
        arms = _placed(pin, arms_of(config, {side: said[side] for side in pin.arms}, os.environ), said)
        digests = _cache(cache, no_cache)
        with _progress([arm.weights for arm in arms.values()]) as on_bytes:
            checked = check(pin, file.parent, arms, seed, digests, on_bytes)
    _tell_cache(digests)
    if as_json:
        typer.echo(orjson.dumps(checked.as_dict()))
    else:
        _show(checked, pin)
    raise typer.Exit(EXIT_CODES[checked.state])


def _placed(pin: Pin, arms: Mapping[str, Arm], said: Mapping[str, Words]) -> Mapping[str, Arm]:
    """The pinned arms where they are now: by the words, the settings file, or the pin."""
    known = dict(arms)
    for side, pinned in pin.arms.items():
        words, model = said[side], str(pinned.engine.get("model", "")) or None
        if side not in known:
            key = os.environ.get(words.api_key_env) if words.api_key_env else None
            known[side] = Arm(side, pinned.url, model, words.weights, key, words.flags)
        arm = known[side]
        place = arm.weights or (Path(pinned.weights) if pinned.weights else None)
        known[side] = replace(arm, model=arm.model or model, weights=place)
    return known


def _show(checked: Checked, pin: Pin) -> None:
    for difference in checked.differences:
        out.print(Text.assemble(("differs  ", "bold red"), difference.line()), soft_wrap=True)
    for unchecked in checked.unchecked:
        out.print(Text.assemble(("cannot check  ", "bold yellow"), unchecked.line()), soft_wrap=True)
    for sentence in checked.silent:
        out.print(Text.assemble(("not compared  ", "dim"), sentence), soft_wrap=True)
    style = {"same": "bold green", "differs": "bold red", "unchecked": "bold yellow"}[checked.state]
    word = {"same": "the same", "differs": "differs", "unchecked": "could not be checked"}[checked.state]
    out.print(
        Text.assemble(("contract: ", "bold"), (word, style), f"   {_summary(pin)}, seal {pin.seal}"), soft_wrap=True
    )


def _summary(pin: Pin) -> str:
    sides = " and ".join(f"the {side}" for side in pin.arms)
    files = [one for arm in pin.arms.values() for one in arm.files.values()]
    files += [*pin.evaluation.values(), *pin.prompts.values()]
    probes = sum(len(arm.probes) for arm in pin.arms.values())
    return f"{sides}: {len(files)} files of {sum(one.bytes for one in files):,} bytes, {probes} probes"


def _cache(place: Path | None, unused: bool) -> DigestCache | None:
    return None if unused else DigestCache(place or default_place(os.environ))


def _tell_cache(cache: DigestCache | None) -> None:
    if cache is not None and cache.problem:
        err.print(Text.assemble(("note: ", "bold yellow"), f"the digest cache {cache.problem}"), soft_wrap=True)


@contextmanager
def _progress(places: list[Path | None]) -> Iterator[Callable[[int], None]]:
    """What takes bytes as they are read; on a terminal it draws a bar."""
    if not err.is_terminal:
        yield lambda count: None
        return
    total = sum(file.stat().st_size for place in places if place and place.is_dir() for file in place.iterdir()
                if file.is_file())  # fmt: skip
    columns = (TextColumn("reading files"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=total or None)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _told(code: int, as_json: bool = False) -> Iterator[None]:
    """Turns what can go wrong into one line and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted: nothing was written; what was read is in the digest cache", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    except SettingsError as error:
        _end(CANNOT, str(error), as_json)
    except (PinError, FilesError, BackendError) as error:
        _end(code, str(error), as_json)


def _end(code: int, why: str, as_json: bool = False) -> NoReturn:
    err.print(Text.assemble(("error:", "bold red"), " ", why), soft_wrap=True)
    if as_json:
        typer.echo(orjson.dumps({"contract": None, "error": why}))
    raise typer.Exit(code)
