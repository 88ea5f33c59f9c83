"""Digests of files that were not touched since they were read, so that a second look at 140 GB takes no time.

What it believes. A file whose path, size, mtime, ctime and inode are what they were holds the bytes that it held.
Setting the mtime back after a change is seen, because no program sets a ctime. Not seen: bytes that change below the
file system (a failing disk), a clock that was set back between two writes, and a cache file that somebody edited.
`--no-cache` reads every byte.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

VERSION = 1
MAX_ENTRIES = 20_000  # *choice*: a hundred large checkpoints; past it the oldest go
SETTLED_NS = 2_000_000_000  # FAT's clock, the coarsest in use, ticks every 2 s: within a tick a second write hides


def default_place(environ: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/parity/digests.json`, or the same below `~/.cache`. Source: XDG base directories."""
    home = environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".cache"
    return base / "parity" / "digests.json"


class DigestCache:
    """One cache file. What cannot be read of it is as good as empty, and `problem` says why."""

    def __init__(self, place: Path, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.place = place
        self.problem = ""
        self._now_ns = now_ns
        self._known: dict[str, dict[str, Any]] = {}
        try:
            read = orjson.loads(place.read_bytes())
            if isinstance(read, dict) and read.get("version") == VERSION and isinstance(read.get("files"), dict):
                self._known = {path: one for path, one in read["files"].items() if isinstance(one, dict)}
            else:
                self.problem = f"{place} is no digest cache of this version, and is written anew"
        except FileNotFoundError:
            pass
        except (OSError, orjson.JSONDecodeError) as error:
            self.problem = f"{place} cannot be read, and is written anew: {error}"

    def get(self, file: Path, stamp: os.stat_result) -> str | None:
        """The SHA-256 of a file that is as it was when it was read, in hex."""
        found = self._known.get(_key(file), {})
        if found.get("stamp") != _stamp(stamp):
            return None
        digest = found.get("sha256")
        return digest if isinstance(digest, str) and len(digest) == 64 else None

    def put(self, file: Path, stamp: os.stat_result, sha256: str) -> None:
        """Keeps a digest, unless the file is so young that a second write could carry the same times."""
        self._known.pop(_key(file), None)
        if self._now_ns() - max(stamp.st_mtime_ns, stamp.st_ctime_ns) >= SETTLED_NS:
            self._known[_key(file)] = {"stamp": _stamp(stamp), "sha256": sha256}

    def save(self) -> None:
        """Writes the file whole, or leaves the old one. A cache that cannot be kept costs time alone: see `problem`."""
        kept = dict(list(self._known.items())[-MAX_ENTRIES:])
        aside = self.place.with_name(f".{self.place.name}.{os.getpid()}")
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(orjson.dumps({"version": VERSION, "files": kept}))
            os.replace(aside, self.place)
        except OSError as error:
            self.problem = f"{self.place} cannot be written: {error.strerror or error}"
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def _key(file: Path) -> str:
    return os.fsencode(file.resolve()).decode("utf-8", "backslashreplace")


def _stamp(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
