"""What may not be kept, is not: values taken out of stored bodies by JSON path, and out of explanations with them.

A small, safe subset of JSONPath; anything else is refused when the settings are read, never ignored:

    $.messages[*].content      keys and [*] or [0] from the root
    $.messages..text           a key at any depth below
    ..arguments                a key at any depth
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from proxy.errors import SettingsError

REDACTED = "[redacted]"
MAX_STEPS = 32  # choice
MIN_SCRUBBED_NUMBER = 1_000  # choice: below it a number is a count more often than a secret

Step: TypeAlias = tuple[str, str | int | None]  # ("key", name) ("index", i) ("any", None) ("deep", name)

_STEP = re.compile(r"\.\.([\w-]+)|\.([\w-]+)|\[(\d{1,6})\]|\[(\*)\]")


@dataclass(frozen=True, slots=True)
class Redactor:
    """The parsed paths. Without paths it returns what it is given, untouched and unparsed."""

    paths: tuple[tuple[Step, ...], ...]

    def body(self, body: bytes) -> tuple[bytes, tuple[str, ...]]:
        """The body with every match replaced, and the texts that went; JSON, or JSON lines of an event stream.

        What cannot be read cannot be redacted, so it is not kept at all: the answer is empty then.
        """
        if not self.paths or not body:
            return body, ()
        removed: list[str] = []
        try:
            if body.lstrip()[:1] in (b"{", b"["):
                return orjson.dumps(self._redacted(orjson.loads(body), removed)), tuple(removed)
            lines = [self._line(line, removed) for line in body.split(b"\n")]
        except (orjson.JSONDecodeError, RecursionError, TypeError):
            return b"", ()
        return b"\n".join(lines), tuple(removed)

    def explanation(self, explanation: Mapping[str, Any], removed: Sequence[str]) -> Mapping[str, Any]:
        """The explanation without any text that the bodies lost: neither a part of one nor one that holds one."""
        texts = [text for text in removed if text]
        if not texts:
            return explanation
        return {key: _scrubbed(value, texts) for key, value in explanation.items()}

    def _line(self, line: bytes, removed: list[str]) -> bytes:
        payload = line.strip()
        if not payload.startswith(b"data:"):
            return b"" if payload and not payload.startswith((b":", b"event:", b"id:", b"retry:")) else line
        payload = payload[5:].strip()
        if payload == b"[DONE]":
            return line
        return b"data: " + orjson.dumps(self._redacted(orjson.loads(payload), removed))

    def _redacted(self, value: Any, removed: list[str]) -> Any:
        for path in self.paths:
            value = _without(value, path, removed)
        return value


def redactor(paths: Sequence[str]) -> Redactor:
    """The redactor for `ledger.redact`. Raises: SettingsError naming the key for what is outside the subset."""
    problems = []
    parsed = []
    for path in paths:
        steps = _steps(path)
        if steps is None:
            problems.append(
                f'ledger.redact: "{path}" is not understood; write it like $.messages[*].content, $.a..key or ..key'
            )
        else:
            parsed.append(steps)
    if problems:
        raise SettingsError(problems)
    return Redactor(tuple(parsed))


def _steps(path: str) -> tuple[Step, ...] | None:
    rest = path.removeprefix("$")
    if rest == path and not path.startswith(".."):
        return None
    steps: list[Step] = []
    at = 0
    while at < len(rest):
        match = _STEP.match(rest, at)
        if match is None:
            return None
        deep, key, index, _ = match.groups()
        if deep is not None:
            steps.append(("deep", deep))
        elif key is not None:
            steps.append(("key", key))
        elif index is not None:
            steps.append(("index", int(index)))
        else:
            steps.append(("any", None))
        at = match.end()
    return tuple(steps) if 0 < len(steps) <= MAX_STEPS else None


def _without(value: Any, steps: tuple[Step, ...], removed: list[str]) -> Any:
    """The value with what the steps reach replaced. New containers along the way, the rest shared."""
    if not steps:
        _collect(value, removed.append)
        return REDACTED
    (kind, name), rest = steps[0], steps[1:]
    if isinstance(value, dict):
        if kind == "deep":
            return {
                key: _without(below, rest, removed) if key == name else _without(below, steps, removed)
                for key, below in value.items()
            }
        if kind == "any" or (kind == "key" and name in value):
            return {
                key: _without(below, rest, removed) if kind == "any" or key == name else below
                for key, below in value.items()
            }
    elif isinstance(value, list):
        if kind == "deep":
            return [_without(below, steps, removed) for below in value]
        if kind in ("any", "index"):
            return [
                _without(below, rest, removed) if kind == "any" or at == name else below
                for at, below in enumerate(value)
            ]
    return value


def _collect(value: Any, take: Callable[[str], None]) -> None:
    if isinstance(value, str):
        if value != REDACTED:
            take(value)
    elif isinstance(value, dict):
        for below in value.values():
            _collect(below, take)
    elif isinstance(value, list):
        for below in value:
            _collect(below, take)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        take(str(value))


def _scrubbed(value: Any, texts: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {(REDACTED if _tells(key, texts) else key): _scrubbed(below, texts) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(below, texts) for below in value]
    if isinstance(value, str):
        return REDACTED if _tells(value, texts) else value
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= MIN_SCRUBBED_NUMBER:
        return REDACTED if _tells(str(value), texts) else value
    return value


def _tells(text: str, removed: Sequence[str]) -> bool:
    return bool(text) and any(text in gone or gone in text for gone in removed)
