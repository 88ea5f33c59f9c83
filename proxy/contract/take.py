"""Takes a pin: reads the files, asks the engines, measures how exactly a heartbeat repeats itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from backends.pinned.cache import DigestCache
from backends.pinned.files import FileDigest, FilesError, checkpoint_files, digests, kind_of, template_of
from backends.pinned.pin import FORMAT, Pin, PinError, PinnedArm, PinnedBeat, PinnedFile
from backends.pinned.probes import Beat, Probed, Prompt, probe, spread
from proxy import __version__
from proxy.contract.arms import Arm

ASK_TIMEOUT_S = 60.0  # *choice*: per call; a person waits, and the engine may be serving others
BEATS = 32  # *choice*: half alone, half at once beside longer prompts
SPREAD_MULTIPLE = 3.0  # as every budget stands to its noise floor (metrology 4)
LEAST_TOLERANCE_NATS = 1e-3  # *choice*: a tenth of what BF16 keeps of a logprob near 2, and above any printing


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be pinned beside the arms. `folder` is the pin's: its paths are told from there."""

    folder: Path
    evaluation: Sequence[Path] = ()
    prompts: Sequence[Path] = ()
    seeds: Sequence[int] = ()
    tolerance_nats: float | None = None
    without_weights: bool = False


@dataclass(slots=True)
class Taken:
    """The arms and files as they were read, and what could not be pinned."""

    arms: dict[str, PinnedArm] = field(default_factory=dict)
    files: dict[str, dict[str, PinnedFile]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def take(
    arms: Mapping[str, Arm], wanted: Wanted, cache: DigestCache | None, on_bytes: Callable[[int], None]
) -> tuple[Pin, list[str]]:
    """The pin, and a sentence for each thing that is not in it.

    Raises:  PinError, FilesError, BackendError.
    """
    taken = Taken()
    for side, arm in arms.items():
        seen = asked(arm)
        if seen.engine.get("model") is None:
            raise PinError(f"the {side} lists no model{f' {arm.model!r}' if arm.model else ''}")
        taken.arms[side] = _arm(arm, seen, wanted, cache, on_bytes, taken.notes)
        again = asked(arm)
        if (again.engine, again.probes) != (seen.engine, seen.probes):
            raise PinError(f"the {side} changed while it was pinned; pin again once it stands still")
    for part, paths in (("evaluation", wanted.evaluation), ("prompts", wanted.prompts)):
        read = whole(digests(paths, cache, on_bytes))
        taken.files[part] = {os.path.relpath(path, wanted.folder): one for path, one in read.items()}
    pin = Pin(
        format=FORMAT,
        seal="",
        pinned_at=datetime.now(UTC).isoformat(timespec="seconds"),
        parity=__version__,
        seeds=tuple(wanted.seeds),
        reference=taken.arms["reference"],
        candidate=taken.arms.get("candidate"),
        evaluation=taken.files["evaluation"],
        prompts=taken.files["prompts"],
    )
    return pin.sealed(), taken.notes


def asked(arm: Arm, prompt: Prompt | None = None) -> Probed:
    """What an arm says and does now. Raises: BackendError."""

    async def ask() -> Probed:
        backend = arm.backend()
        try:
            return await probe(backend, arm.model, prompt, ASK_TIMEOUT_S)
        finally:
            await backend.aclose()

    return asyncio.run(ask())  # and not one loop around all: it would take the Ctrl-C that ends the reading of files


def whole(read: Mapping[Path, FileDigest | FilesError]) -> dict[Path, PinnedFile]:
    """Digests of files that could all be read. Raises: FilesError, the first."""
    kept = {}
    for path, one in read.items():
        if isinstance(one, FilesError):
            raise one
        kept[path] = PinnedFile(bytes=one.bytes, sha256=one.sha256)
    return kept


def _arm(
    arm: Arm,
    seen: Probed,
    wanted: Wanted,
    cache: DigestCache | None,
    on_bytes: Callable[[int], None],
    notes: list[str],
) -> PinnedArm:
    directory = arm.weights
    if directory is None and seen.root is not None and seen.root.startswith("/") and Path(seen.root).is_dir():
        directory = Path(seen.root)
    if directory is None and not wanted.without_weights:
        word = "--weights" if arm.side == "reference" else "--candidate-weights"
        raise PinError(
            f"the {arm.side}'s files are not known here, and without them no changed byte would be seen: "
            f"give {word} DIR, or --without-weights to pin only what HTTP tells"
        )
    if wanted.without_weights:
        directory = None
        notes.append(f"the files of the {arm.side} are not pinned: a changed weight shows in the heartbeat at most")
    elif seen.root is not None and seen.root.startswith("/") and Path(seen.root) != directory:
        notes.append(f"the {arm.side} says that it serves {seen.root}; pinned were the files at {directory}")
    files = [] if directory is None else checkpoint_files(directory)
    if files and not any(kind_of(file.name) == "weights" for file in files):
        raise FilesError(f"{directory} holds no weight file")
    read = whole(digests(files, cache, on_bytes))
    missing = [name for name, there in (("/tokenize or prompt token ids", seen.probes), ("logprobs", seen.beat),
                                        ("cache settings at /metrics", seen.settings)) if not there]  # fmt: skip
    notes += [f"the {arm.side} gives no {name}: not pinned" for name in missing]
    if arm.flags is None:
        notes.append(
            f"the {arm.side}'s command line was not given (--flags): what HTTP does not show of it is unpinned"
        )
    return PinnedArm(
        url=arm.url,
        weights=None if directory is None else str(directory.resolve()),
        flags=arm.flags,
        chat_template=None if directory is None else template_of(directory),
        engine=dict(seen.engine),
        settings=dict(seen.settings),
        files={path.name: one for path, one in read.items()},
        probes=dict(seen.probes),
        heartbeat=_heartbeat(arm, seen, wanted.tolerance_nats),
    )


def _heartbeat(arm: Arm, seen: Probed, tolerance_nats: float | None) -> PinnedBeat | None:
    if seen.beat is None:
        return None
    noise = asyncio.run(_repeated(arm, str(seen.engine["model"]), seen.beat))
    return PinnedBeat(
        prompt=seen.beat.prompt,
        tolerance_nats=max(LEAST_TOLERANCE_NATS, SPREAD_MULTIPLE * noise) if tolerance_nats is None else tolerance_nats,
        spread_nats=noise,
        beats=BEATS,
        logprobs=dict(seen.beat.logprobs),
    )


async def _repeated(arm: Arm, model: str, first: Beat) -> float:
    backend = arm.backend()
    try:
        return await spread(backend, model, first, BEATS, ASK_TIMEOUT_S)
    finally:
        await backend.aclose()
