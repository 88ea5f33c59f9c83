"""Checks a pin: reads the files and asks the engines again, and says what differs and what could not be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.base import BackendError
from backends.pinned.cache import DigestCache
from backends.pinned.compare import Difference, Unchecked, compare_files, compare_probed, compare_template
from backends.pinned.files import FileDigest, FilesError, checkpoint_files, digests, template_of
from backends.pinned.pin import Pin, PinnedArm
from proxy.contract.arms import Arm
from proxy.contract.take import asked


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a pin. `silent`: what nobody can look at unless it is told again; it decides nothing."""

    seal: str
    differences: tuple[Difference, ...]
    unchecked: tuple[Unchecked, ...]
    silent: tuple[str, ...]

    @property
    def state(self) -> Literal["same", "differs", "unchecked"]:
        """One difference decides, whatever could not be looked at."""
        return "differs" if self.differences else "unchecked" if self.unchecked else "same"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "contract": self.state,
            "pin": self.seal,
            "differences": [one.as_dict() for one in self.differences],
            "unchecked": [one.as_dict() for one in self.unchecked],
            "not_observable": list(self.silent),
        }


def check(
    pin: Pin,
    folder: Path,
    arms: Mapping[str, Arm],
    seeds: Sequence[int] | None,
    cache: DigestCache | None,
    on_bytes: Callable[[int], None],
) -> Checked:
    """Everything pinned, looked at again where `arms` say that it is now. What cannot be looked at is in the answer."""
    found: list[Difference | Unchecked] = []
    silent: list[str] = []
    for side, pinned in pin.arms.items():
        found += _files(side, pinned, arms[side], cache, on_bytes)
        found += _engine(side, pinned, arms[side])
        if pinned.flags is not None and arms[side].flags is None:
            silent.append(f"the {side}'s command line was pinned as it was given; give it again (--flags) to compare")
        elif pinned.flags != arms[side].flags:
            found += [Difference(side, "engine flags", "", pinned.flags or "absent", arms[side].flags or "absent")]
    for part, named in (("eval set", pin.evaluation), ("prompts", pin.prompts)):
        found += _given(part, folder, named, cache, on_bytes)
    if seeds is None and pin.seeds:
        silent.append("the seeds were pinned as they were given; give them again (--seed) to compare")
    elif seeds is not None and tuple(seeds) != pin.seeds:
        found.append(Difference("", "seeds", "", str(list(pin.seeds)), str(list(seeds))))
    return Checked(pin.seal, tuple(_only(Difference, found)), tuple(_only(Unchecked, found)), tuple(silent))


def _files(
    side: str, pinned: PinnedArm, arm: Arm, cache: DigestCache | None, on_bytes: Callable[[int], None]
) -> list[Difference | Unchecked]:
    if not pinned.files:
        return []
    directory = arm.weights if arm.weights is not None else Path(pinned.weights or "")
    try:
        listed, template = checkpoint_files(directory), template_of(directory)
    except FilesError as error:
        return [Unchecked(side, "files", str(error))]  # a mount that is away has not changed
    read = {path.name: one for path, one in digests(listed, cache, on_bytes).items()}
    found = list(compare_files(side, pinned.files, read))
    if not any(one.part == "chat template" for one in found):  # else its own file has told it
        found += compare_template(side, pinned.chat_template, template)
    return found


def _engine(side: str, pinned: PinnedArm, arm: Arm) -> list[Difference | Unchecked]:
    prompt = None if pinned.heartbeat is None else pinned.heartbeat.prompt
    try:
        return list(compare_probed(side, pinned, asked(arm, prompt)))
    except BackendError as error:
        return [Unchecked(side, "engine", str(error))]


def _given(
    part: str, folder: Path, named: Mapping[str, Any], cache: DigestCache | None, on_bytes: Callable[[int], None]
) -> Iterable[Difference | Unchecked]:
    there = {name: folder / name for name in named}
    present = {name: path for name, path in there.items() if path.exists()}
    read: Mapping[Path, FileDigest | FilesError] = digests(list(present.values()), cache, on_bytes)
    return compare_files("", named, {name: read[path] for name, path in present.items()}, part)


def _only(kind: type[Any], found: Iterable[Any]) -> list[Any]:
    return [one for one in found if isinstance(one, kind)]
