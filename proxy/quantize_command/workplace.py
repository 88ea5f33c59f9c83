"""OUT.partial: where a checkpoint is made, what of it is done, and how it becomes OUT.

    OUT.partial/lock               held by the process that works here
    OUT.partial/state.json         what it is made from, by digests, and which steps are done
    OUT.partial/work               a folder of job, samples, log: goes with the rest of it
    OUT.partial/checkpoint         a folder of the files, whole once they are here
    OUT                            the same folder, renamed: it appears whole or not at all

It lies beside OUT, so that a rename suffices, and is its owner's alone: it holds prompts.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.errors import ParityError

FORMAT = 1


class WorkplaceError(ParityError):
    """OUT or OUT.partial is not as it must be; str() says what to do."""


class Workplace:
    """One OUT.partial, held until `close`."""

    def __init__(self, out: Path, made_from: Mapping[str, str], *, resume: bool) -> None:
        """Opens a new one, or with `resume` the one that is there.

        `made_from` are digests by what they are of; a resumed workplace must have the same ones.
        Raises:  WorkplaceError.
        """
        self.out = out
        self.path = out.with_name(out.name + ".partial")
        self._made_from = dict(made_from)
        self.done: dict[str, Any] = {}
        self.resumed = False
        self._lock = -1
        refuse_existing(out)
        try:
            self._begin(resume)
        except OSError as error:
            raise WorkplaceError(f"{self.path} cannot be used: {error.strerror or error}") from error

    @property
    def work(self) -> Path:
        """Where the job, the samples and the log are."""
        return self.path / "work"

    @property
    def checkpoint(self) -> Path:
        """Where the files are, whole once they are there."""
        return self.path / "checkpoint"

    def finish(self, step: str, facts: Mapping[str, Any]) -> None:
        """A step is done, and stays so over an interruption."""
        self.done[step] = dict(facts)
        self._save()

    def forget(self, step: str, *files: Path) -> None:
        """A step is not done after all, and its files go."""
        self.done.pop(step, None)
        for file in files:
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink(missing_ok=True)
        self._save()

    def place(self) -> None:
        """OUT is there, whole and on the disk; OUT.partial is gone. Raises: WorkplaceError."""
        try:
            readable = 0o666 & ~_umask()
            for file in sorted(self.checkpoint.iterdir()):
                file.chmod(readable)  # as a copied file is: an engine may serve it as another user
                _sync(file)
            _sync(self.checkpoint)
            refuse_existing(self.out)
            os.rename(self.checkpoint, self.out)
            _sync(self.out.parent)
        except OSError as error:
            raise WorkplaceError(f"{self.out} cannot be put in place: {error.strerror or error}") from error
        shutil.rmtree(self.path, ignore_errors=True)  # OUT is whole: what is left here is a log at most
        self.close()

    def close(self) -> None:
        """The lock is free."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _begin(self, resume: bool) -> None:
        there = (self.path / "state.json").exists()
        if self.path.exists() and not resume:
            raise WorkplaceError(
                f"{self.path} is there: an earlier run was interrupted, or still runs. Give --resume to go on from "
                f"what it has, or remove it: rm -r {self.path}"
            )
        if resume and not there:
            raise WorkplaceError(f"there is nothing to resume at {self.path}; leave out --resume")
        self.work.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise WorkplaceError(f"another `parity quantize` works in {self.path}; wait for it, or end it") from None
        if there:
            self._take_up()
        else:
            self._save()

    def _take_up(self) -> None:
        try:
            told = json.loads((self.path / "state.json").read_bytes())
            if told["format"] != FORMAT:
                raise ValueError("another version wrote it")
            before: dict[str, str] = told["made_from"]
            done: dict[str, Any] = told["done"]
        except (ValueError, KeyError, TypeError) as error:
            self.close()
            raise WorkplaceError(
                f"{self.path}/state.json cannot be used ({error}); remove the folder: rm -r {self.path}"
            ) from None
        changed = [name for name in {**before, **self._made_from} if before.get(name) != self._made_from.get(name)]
        if changed:
            self.close()
            raise WorkplaceError(
                f"{self.path} was begun with another {' and another '.join(changed)}: nothing of it can be used. "
                f"Give what it was begun with, or remove it: rm -r {self.path}"
            )
        self.done, self.resumed = done, True

    def _save(self) -> None:
        state, aside = self.path / "state.json", self.path / "state.json.writing"
        aside.write_text(json.dumps({"format": FORMAT, "made_from": self._made_from, "done": self.done}, indent=1))
        _sync(aside)
        os.replace(aside, state)


def refuse_existing(out: Path) -> None:
    """Raises: WorkplaceError when there is anything at OUT, or no folder to put it into."""
    if out.exists() or out.is_symlink():
        raise WorkplaceError(f"{out} exists, and a checkpoint is not overwritten; give another --out")
    if not out.parent.is_dir():
        raise WorkplaceError(f"{out.parent} is no folder; make it first: mkdir -p {out.parent}")


def _umask() -> int:
    """This process's, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """On the disk: a file's bytes, or a folder's entries."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
