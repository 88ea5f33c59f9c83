"""The weight files of one arm as a digest, where they can be read: a replaced checkpoint shows without a restart.

What it proves. Every byte of every file up to 64 MiB: configuration, tokenizer, chat template, generation
config, small weights. Of larger weight files the name, the size, the first and the last MiB (the first holds the header
of a safetensors file: names, shapes, types) and 64 blocks of 64 KiB spread evenly. Another checkpoint, another
quantization of the same model, or a training step further differs in nearly every block, so it is seen.
What it does not prove. A few bytes changed between the blocks of a large file are not seen. And it is about the files
on this machine: that the engine serves them, and loaded them after they last changed, is the engine's word.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

MIB = 1 << 20
WHOLE_BYTES = 64 * MIB  # *choice*: up to here a file is read whole; every tokenizer.json is smaller
EDGE_BYTES = MIB  # *choice*: the header of a shard is some hundred KiB
BLOCKS, BLOCK_BYTES = 64, 64 * 1024  # *choice*: with the edges 6 MiB per shard, so 180 MiB of a 140 GB checkpoint
MAX_FILES = 4_096  # *choice*: the largest checkpoints have some 200
LOOK_TIMEOUT_S = 10.0  # *choice*: a cold look at a large checkpoint over a slow mount goes on without being waited for

WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".gguf", ".pt", ".pth"})
OTHER_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt", ".tiktoken"})
"""Configuration, tokenizer, template: whatever else of a checkpoint an engine reads. Documents are left out."""

Stamp: TypeAlias = tuple[str, int, int, int]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """One reading. `stamps` (name, size, mtime in ns, inode) tell whether it must be done again."""

    path: Path
    stamps: tuple[Stamp, ...]
    digest: str


class WeightFiles:
    """One arm's weight files, looked at again and again. Files that have not been touched are not read again.

    `declared` is where the operator says that they are; otherwise the arm's own word is taken (vLLM tells the `root` of
    a model, often a local directory) and looked up on this machine.
    """

    def __init__(self, arm: str, declared: Path | None = None, *, timeout_s: float = LOOK_TIMEOUT_S) -> None:
        self._arm = arm
        self._declared = declared
        self._timeout_s = timeout_s
        self._last: Seen | None = None
        self._reading: tuple[Path, Future[Seen | str | None]] | None = None
        self._told = ""
        self.unsure = False

    async def look(self, root: object) -> str | None:
        """The digest now, or None. With `unsure` set there are files and they could not be read this time (a mount that
        is away, a copy under way): that says nothing about the arm. Otherwise there is nothing to read. Never raises.
        """
        path = self._declared or _local(root)
        self.unsure = False
        if path is None:
            return None
        if self._last is not None and self._last.path != path:
            self._last = None
        seen = await self._read(path)
        if isinstance(seen, Seen):
            self._last, self._told = seen, ""
            return seen.digest
        if seen is None and self._declared is None and self._last is None:
            return None  # the root is a name of a hub, or a path of another machine
        self._unread(seen or f"{path} holds no weight file")
        return None

    async def _read(self, path: Path) -> Seen | str | None:
        """What `read` gives, from a thread of its own; one that hangs in a dead mount is waited for once."""
        if self._reading is None:
            self._reading = path, _begun(path, self._last)
            await asyncio.wait({asyncio.wrap_future(self._reading[1])}, timeout=self._timeout_s)
        of, reading = self._reading
        if not reading.done():
            return f"{path} is still being read"
        self._reading = None
        return reading.result() if of == path else f"{path} has not been read yet"

    def _unread(self, why: str) -> None:
        self.unsure = True
        if why != self._told:
            _log.warning("the weights of the %s cannot be read, and are taken as they were: %s", self._arm, why)
        self._told = why


def read(path: Path, last: Seen | None = None) -> Seen | None:
    """The files at `path`: a directory, or one weight file. `last` is given back when none was touched since.

    None when there is no weight file. Blocks: run it off the loop.
    Raises:  OSError when they cannot be read, or changed meanwhile.
    """
    files = _files(path)
    if not any(file.suffix in WEIGHT_SUFFIXES for file in files):
        return None
    stamps = _stamps(files)
    if last is not None and last.path == path and last.stamps == stamps:
        return last
    whole = hashlib.sha256()
    for file, (name, size, _, _) in zip(files, stamps, strict=True):
        whole.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        whole.update(_content(file, size))
    if _stamps(files) != stamps or _files(path) != files:
        raise OSError(f"{path} changed while it was read")
    return Seen(path, stamps, whole.hexdigest()[:16])


def _begun(path: Path, last: Seen | None) -> Future[Seen | str | None]:
    """A daemon thread, not a pool's: leaving must not wait for a mount that never answers."""
    future: Future[Seen | str | None] = Future()

    def work() -> None:
        try:
            future.set_result(read(path, last))
        except Exception as error:  # noqa: BLE001  whatever the file system does, the watch goes on
            future.set_result(f"{path}: {error}" if isinstance(error, OSError) else f"{path}: {type(error).__name__}")

    threading.Thread(target=work, name="parity-weights", daemon=True).start()
    return future


def _local(root: object) -> Path | None:
    """Where an arm says that its model is, when that can be a place on this machine: an absolute path."""
    if not isinstance(root, str) or not root.startswith("/") or "\0" in root:
        return None
    return Path(root)


def _files(path: Path) -> list[Path]:
    """The regular files that make up the checkpoint, by name; empty where there is no such place."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return [path]
    known = WEIGHT_SUFFIXES | OTHER_SUFFIXES
    files = [path / name for name in sorted(names) if Path(name).suffix in known and (path / name).is_file()]
    if len(files) > MAX_FILES:
        raise OSError(f"{path} holds more than {MAX_FILES} files")
    return files


def _stamps(files: list[Path]) -> tuple[Stamp, ...]:
    stamps = []
    for file in files:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{file} is not a regular file")
        stamps.append((file.name, found.st_size, found.st_mtime_ns, found.st_ino))
    return tuple(stamps)


def _content(file: Path, size: int) -> bytes:
    """The SHA-256 of a file's bytes, or of a large file's edges and blocks."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        for start, length in _spans(size):
            stream.seek(start)
            while length > 0:
                chunk = stream.read(min(length, MIB))
                if not chunk:
                    raise OSError(f"{file} became shorter while it was read")
                digest.update(chunk)
                length -= len(chunk)
    return digest.digest()


def _spans(size: int) -> list[tuple[int, int]]:
    """(start, length) of what is read of a file of this size."""
    if size <= WHOLE_BYTES:
        return [(0, size)]
    last = size - BLOCK_BYTES
    blocks = [(index * last // (BLOCKS - 1), BLOCK_BYTES) for index in range(BLOCKS)]
    return [(0, EDGE_BYTES), *blocks, (size - EDGE_BYTES, EDGE_BYTES)]
