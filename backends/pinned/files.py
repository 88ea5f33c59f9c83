"""SHA-256 of every byte of a checkpoint's files, several files at once.

Weight files, tokenizer, chat template, generation config, configuration, and Python code that a checkpoint brings.
Only the directory itself: no folder below it, no document, no hidden file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from backends.pinned.cache import DigestCache
from backends.weights import MAX_FILES, MIB, OTHER_SUFFIXES, WEIGHT_SUFFIXES

CHUNK_BYTES = 4 * MIB  # *choice*: hashing lets go of the interpreter for that long
CODE_SUFFIXES = frozenset({".py"})  # run by engines that trust a checkpoint's code

Kind: TypeAlias = Literal["weights", "tokenizer", "chat template", "generation config", "config", "code", "other file"]


class FilesError(Exception):
    """Files that cannot be read, or that changed while they were; str() is one line for a person."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What a file is. Units: bytes; sha256 in hex."""

    bytes: int
    sha256: str


def kind_of(name: str) -> Kind:
    """What a file of a checkpoint is for, by its name."""
    path = Path(name)
    if path.suffix in WEIGHT_SUFFIXES or name.endswith((".safetensors.index.json", ".bin.index.json")):
        return "weights"
    if path.suffix == ".jinja" or name == "chat_template.json":
        return "chat template"
    if path.suffix in CODE_SUFFIXES:
        return "code"
    if name == "generation_config.json":
        return "generation config"
    if name in ("config.json", "params.json") or name.endswith("quant_config.json"):
        return "config"
    words = ("tokenizer", "tekken", "vocab", "merges", "special_tokens", "added_tokens", "spiece", "sentencepiece")
    if path.suffix in (".model", ".tiktoken") or any(word in name for word in words):
        return "tokenizer"
    return "other file"


def checkpoint_files(directory: Path) -> list[Path]:
    """The files that make up a checkpoint, by name; of a single weight file, that one.

    Raises:  FilesError when there is no such place, or nothing of a checkpoint in it: a mount that is away looks so.
    """
    try:
        if directory.is_file():
            found = [directory]
        else:
            known = WEIGHT_SUFFIXES | OTHER_SUFFIXES | CODE_SUFFIXES
            names = sorted(name for name in os.listdir(directory) if Path(name).suffix in known and name[0] != ".")
            # A link that leads nowhere is listed and cannot be read: it must not look like a file that was removed.
            found = [directory / name for name in names if not (directory / name).is_dir()]
    except OSError as error:
        raise FilesError(f"{directory}: {error.strerror or error}") from error
    if not found:
        raise FilesError(f"{directory} holds no file of a checkpoint")
    if len(found) > MAX_FILES:
        raise FilesError(f"{directory} holds more than {MAX_FILES} files")
    for file in found:
        if not file.name.isprintable():
            raise FilesError(f"{directory} holds a file whose name is not printable: {file.name!r}")
    return found


def template_of(directory: Path) -> str | None:
    """The SHA-256 of the chat template that the checkpoint brings, wherever it keeps it; None where it has none.

    A template inside tokenizer_config.json changes with that file's digest, which would only say "tokenizer".
    Raises:  FilesError.
    """
    try:
        alone = directory / "chat_template.jinja"
        if alone.exists():
            return hashlib.sha256(alone.read_bytes()).hexdigest()
        inside = directory / "tokenizer_config.json"
        if not inside.exists():
            return None
        parsed = json.loads(inside.read_bytes())
    except OSError as error:
        raise FilesError(f"{directory}: {error.strerror or error}") from error
    except ValueError:
        return None  # no JSON any more: the file's own digest tells it
    template = parsed.get("chat_template") if isinstance(parsed, dict) else None
    return None if template is None else hashlib.sha256(json.dumps(template).encode()).hexdigest()


def digests(
    files: Sequence[Path],
    cache: DigestCache | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Mapping[Path, FileDigest | FilesError]:
    """Each file's digest, or why it has none. `on_bytes` is told from other threads how much was read or known.

    What was read is in the cache also when this is interrupted: the next run goes on from there.
    """
    stop = threading.Event()
    done: dict[Path, FileDigest | FilesError] = {}
    workers = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="parity-digest")
    try:
        # The largest first: one that starts last would be waited for alone.
        begun: dict[Future[FileDigest], Path] = {
            workers.submit(_digest, file, cache, on_bytes, stop): file
            for file in sorted(files, key=_size, reverse=True)
        }
        for future in as_completed(begun):
            error = future.exception()
            if error is not None and not isinstance(error, FilesError):
                raise error
            done[begun[future]] = error if error is not None else future.result()
    finally:
        stop.set()
        workers.shutdown(wait=True, cancel_futures=True)
        if cache is not None:
            cache.save()
    return {file: done[file] for file in files}


def _digest(
    file: Path, cache: DigestCache | None, on_bytes: Callable[[int], None], stop: threading.Event
) -> FileDigest:
    """Raises: FilesError."""
    try:
        with file.open("rb", buffering=0) as stream:
            before = os.fstat(stream.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise FilesError(f"{file} is not a regular file")
            known = None if cache is None else cache.get(file, before)
            if known is not None:
                on_bytes(before.st_size)
                return FileDigest(before.st_size, known)
            digest, read = hashlib.sha256(), 0
            while read <= before.st_size and (chunk := stream.read(CHUNK_BYTES)):  # no further, should it grow
                if stop.is_set():
                    raise FilesError(f"{file}: interrupted")
                digest.update(chunk)
                read += len(chunk)
                on_bytes(len(chunk))
            after = os.fstat(stream.fileno())
        named = file.stat()
    except OSError as error:
        raise FilesError(f"{file}: {error.strerror or error}") from error
    if _identity(before) != _identity(after) or _identity(after) != _identity(named) or read != before.st_size:
        raise FilesError(f"{file} changed while it was read")
    found = digest.hexdigest()
    if cache is not None:
        cache.put(file, before, found)
    return FileDigest(read, found)


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
