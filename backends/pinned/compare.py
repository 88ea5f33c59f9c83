"""A pin against what is there now: each difference by its name, with the old and the new."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.pinned.files import FileDigest, FilesError, kind_of
from backends.pinned.pin import PinnedArm, PinnedFile
from backends.pinned.probes import Probed, gap

ABSENT = "absent"
_SHOWN = 12  # characters of a digest that a person compares; JSON has them all


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not what was pinned. `old` and `new` are for a person; `absent` where there is none."""

    side: str
    part: str
    name: str
    old: str
    new: str

    def line(self) -> str:
        """For a person: which arm, what of it, and what became of it."""
        where = " ".join(word for word in (self.side, self.part, self.name) if word)
        return f"{where}: {_short(self.old)} became {_short(self.new)}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unchecked:
    """One thing that was pinned and could not be looked at."""

    side: str
    part: str
    why: str

    def line(self) -> str:
        """For a person."""
        return f"{self.side} {self.part}: {self.why}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare_files(
    side: str,
    pinned: Mapping[str, PinnedFile],
    found: Mapping[str, FileDigest | FilesError],
    part: str = "",
) -> Iterator[Difference | Unchecked]:
    """Files by name, each as what it is for. One that cannot be read is unchecked; one that came or went differs."""
    for name in sorted(pinned.keys() | found.keys()):
        old, new = pinned.get(name), found.get(name)
        kind = part or kind_of(Path(name).name)
        if isinstance(new, FilesError):
            yield Unchecked(side, f"{kind} {name}", str(new))
        elif old is None or new is None:
            yield Difference(side, kind, name, _file(old), _file(new))
        elif old.bytes != new.bytes:
            yield Difference(side, kind, name, f"{_file(old)} of {old.bytes} bytes", f"{_file(new)} of {new.bytes}")
        elif old.sha256 != new.sha256:
            yield Difference(side, kind, name, _file(old), _file(new))


def compare_template(side: str, pinned: str | None, found: str | None) -> Iterator[Difference]:
    """The chat template that the checkpoint brings, also where it is a part of another file."""
    if pinned != found:
        yield Difference(side, "chat template", "of the checkpoint", _sha(pinned), _sha(found))


def compare_probed(side: str, pinned: PinnedArm, now: Probed) -> Iterator[Difference]:
    """What can be seen over HTTP: engine, settings, the token ids of each probe, the heartbeat."""
    yield from _plain(side, "engine", pinned.engine, now.engine)
    yield from _plain(side, "engine setting", pinned.settings, now.settings)
    for name in sorted(pinned.probes.keys() | now.probes.keys()):
        old, new = pinned.probes.get(name), now.probes.get(name)
        if old != new:
            yield Difference(side, "prompt tokens", f"of probe {name}", *_tokens(old, new))
    beat = pinned.heartbeat
    if beat is None or now.beat is None:
        if beat is not None or now.beat is not None:
            yield Difference(side, "heartbeat", "", *("logprobs" if one else ABSENT for one in (beat, now.beat)))
        return
    shift = gap(beat.logprobs, now.beat.logprobs)
    if shift > beat.tolerance_nats:
        yield Difference(
            side, "heartbeat", "", f"within {beat.tolerance_nats:.3g} nats", f"{shift:.3g} nats from what was pinned"
        )


def _plain(side: str, part: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield Difference(side, part, key, str(old.get(key, ABSENT)), str(new.get(key, ABSENT)))


def _tokens(old: tuple[int, ...] | None, new: tuple[int, ...] | None) -> tuple[str, str]:
    """Both counts, and the first place where they part."""
    if old is None or new is None:
        counts = [ABSENT if ids is None else f"{len(ids)} tokens" for ids in (old, new)]
        return counts[0], counts[1]
    apart = (n for n, (one, other) in enumerate(zip(old, new, strict=False)) if one != other)
    at = next(apart, min(len(old), len(new)))
    said = [f"{len(ids)} tokens, {ids[at] if at < len(ids) else 'the end'} at position {at}" for ids in (old, new)]
    return said[0], said[1]


def _file(one: PinnedFile | FileDigest | None) -> str:
    return _sha(None if one is None else one.sha256)


def _sha(digest: str | None) -> str:
    return ABSENT if digest is None else f"sha256 {digest}"


def _short(said: str) -> str:
    """A sentence with its digest shortened."""
    head, mark, rest = said.partition("sha256 ")
    return f"{head}{mark}{rest[:_SHOWN]}…{rest[64:]}" if mark else said
