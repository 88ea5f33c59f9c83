"""The pin: one TOML file that people can read and diff, one line per file, setting, probe and logprob.

It is written whole or not at all, and over nothing that is there. A seal over all that is compared tells an edited or
badly merged pin from a changed engine. Where things were (url, weights) and when is not sealed: it may be corrected.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT: Literal[1] = 1
MAX_PIN_BYTES = 16 << 20  # *choice*: 4,096 files and the probes take 1 MiB
HEADER = (
    "# The contract: what was pinned, and nothing to edit: a seal covers it. Check it with `parity contract verify`.\n"
)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PinError(Exception):
    """A pin that cannot be read, trusted or written; str() is one line for a person."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PinnedFile(_Table):
    """One file. Units: bytes."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class PinnedBeat(_Table):
    """The heartbeat: how far it may lie from `logprobs`, and how far it lay from itself in `beats` repetitions.

    Units:  nats.
    """

    prompt: tuple[int, ...] | str
    tolerance_nats: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    spread_nats: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    beats: Annotated[int, Field(ge=1)]
    logprobs: dict[str, float]


class PinnedArm(_Table):
    """One arm. `flags` is its command line as somebody gave it; without `files` its weights were not pinned."""

    url: str
    weights: str | None = None
    flags: str | None = None
    chat_template: Sha256 | None = None
    engine: dict[str, str | int]
    settings: dict[str, str] = {}
    files: dict[str, PinnedFile] = {}
    probes: dict[str, tuple[int, ...]] = {}
    heartbeat: PinnedBeat | None = None


class Pin(_Table):
    """The whole file. `evaluation` and `prompts` are files by their path from the pin's folder."""

    format: Literal[1]
    seal: str
    pinned_at: str
    parity: str
    seeds: tuple[int, ...] = ()
    reference: PinnedArm
    candidate: PinnedArm | None = None
    evaluation: dict[str, PinnedFile] = {}
    prompts: dict[str, PinnedFile] = {}

    @property
    def arms(self) -> Mapping[str, PinnedArm]:
        """The pinned arms by side."""
        return {"reference": self.reference} | ({} if self.candidate is None else {"candidate": self.candidate})

    def sealed(self) -> Pin:
        """The same with the seal that its content has."""
        return self.model_copy(update={"seal": _seal(self)})


def read_pin(path: Path) -> Pin:
    """The pin in a file. Raises: PinError with what is wrong and the fix."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PIN_BYTES + 1)
        if len(raw) > MAX_PIN_BYTES:
            raise PinError(f"{path}: larger than {MAX_PIN_BYTES} bytes, so it is no pin")
        document = tomllib.loads(raw.decode())
    except FileNotFoundError:
        raise PinError(f"{path}: there is no such file; `parity contract pin` writes one") from None
    except OSError as error:
        raise PinError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PinError(f"{path}: not TOML: {error}") from error
    if document.get("format") != FORMAT:
        raise PinError(
            f"{path}: its format is {document.get('format', 'not said')}, this version reads {FORMAT}; "
            "verify it with the version that pinned it, or pin again"
        )
    try:
        pin = Pin.model_validate_json(orjson.dumps(document))
    except (ValidationError, TypeError) as error:
        raise PinError(f"{path}: {_problem(error)}") from error
    if pin.seal != _seal(pin):
        raise PinError(
            f"{path}: it is not what was pinned (its seal says {pin.seal}, its content {_seal(pin)}): "
            "take the file as it was written, or pin again"
        )
    return pin


def write_pin(path: Path, pin: Pin, *, over: bool = False) -> None:
    """The file appears whole, under its name, or not at all. Raises: PinError, also when it exists and not `over`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(HEADER + "".join(_toml(pin.model_dump(mode="json", exclude_none=True))))
            file.flush()
            os.fsync(file.fileno())
        if over:
            os.replace(aside, path)
        else:
            os.link(aside, path)  # unlike a rename it refuses an existing name, also one that came this very moment
    except FileExistsError:
        raise PinError(f"{path} exists; a pin is not overwritten: give another path, or --force") from None
    except OSError as error:
        raise PinError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _seal(pin: Pin) -> str:
    where = {"url", "weights"}
    content = pin.model_dump(
        mode="json", exclude={"seal": True, "pinned_at": True, "parity": True, "reference": where, "candidate": where}
    )
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _toml(table: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """A document of tables, scalars, lists of integers, and files, which stay on one line."""
    apart: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in table.items():
        if isinstance(value, dict) and set(value) != {"bytes", "sha256"}:
            apart.append((f"{name}.{_key(key)}" if name else _key(key), value))
        else:
            yield f"{_key(key)} = {_value(value)}\n"
    for path, inner in apart:
        if inner:
            if not all(isinstance(value, dict) and "sha256" not in value for value in inner.values()):
                yield f"\n[{path}]\n"
            yield from _toml(inner, path)


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _value(key)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return orjson.dumps(value).decode().replace("\x7f", "\\u007f")  # JSON's strings and numbers are TOML's, DEL apart


def _problem(error: Exception) -> str:
    """The first thing wrong, with its key and, for a key that nobody knows, the nearest one."""
    if not isinstance(error, ValidationError):
        return f"it cannot be read: {error}"
    wrong = error.errors(include_url=False)
    first = next((one for one in wrong if one["type"] == "extra_forbidden"), wrong[0])  # a typo is missing elsewhere
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        models = (Pin, PinnedArm, PinnedBeat, PinnedFile)
        names = [name for model in models for name in model.model_fields]
        close = difflib.get_close_matches(str(first["loc"][-1]), names, n=1)
        return f"{key}: unknown key{f' (did you mean {close[0]}?)' if close else ''}; take the file as it was written"
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]} (it says {first.get('input')!r:.80})"
