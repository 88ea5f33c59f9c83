"""Calibration samples: one JSON object a line, of one of two forms.

    {"messages": [...], "tools": [...]}     a chat as the API takes it; with a reply where the last message is one
    {"text": "..."}                         plain text, taken as it is

They are kept as JSON without spaces, in ASCII, so that equal samples have equal bytes and a set's SHA-256 is that of
its file. Keys keep the order in which they were sent: templates write a tool's schema in that order, so it is the
prompt's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAX_SAMPLES = 20_000  # *choice*: what is chosen from; more only costs time
MAX_PROBLEMS = 5  # *choice*: lines that are told


class SamplesError(ValueError):
    """A file of samples that cannot be used; str() names the lines and what is wrong with each."""


def canonical(sample: Mapping[str, Any]) -> bytes:
    """One line, without its end. Lone surrogates stay escaped, so that every string has bytes."""
    return json.dumps(sample, separators=(",", ":")).encode()


def read_samples(path: Path) -> list[bytes]:
    """The canonical lines of a file. Empty lines are passed over.

    Raises:  SamplesError with the first lines that are wrong.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SamplesError(f"{path} cannot be read: {error.strerror or error}") from None
    found, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(canonical(checked(json.loads(line))))
        except (ValueError, RecursionError) as error:
            why = "not JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError) else error
            problems.append(f"line {number}: {why}")
    if problems:
        more = len(problems) - MAX_PROBLEMS
        told = "; ".join(problems[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise SamplesError(f'{path}: {told}. A line is {{"messages": [...], "tools": [...]}} or {{"text": "..."}}')
    if not found:
        raise SamplesError(f"{path} holds no sample")
    return found[:MAX_SAMPLES]


def checked(sample: object) -> dict[str, Any]:
    """The sample's own keys; others are dropped, so that an export of requests can be given as it is.

    Raises:  ValueError with what is wrong.
    """
    if not isinstance(sample, dict):
        raise ValueError("no object")
    if "messages" in sample:
        messages, tools = sample["messages"], sample.get("tools")
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            raise ValueError("messages is no list of messages")
        if not all(isinstance(one.get("role"), str) for one in messages):
            raise ValueError("a message has no role")
        if tools is not None and not (isinstance(tools, list) and all(isinstance(one, dict) for one in tools)):
            raise ValueError("tools is no list of tools")
        return {"messages": messages, "tools": tools} if tools else {"messages": messages}
    if isinstance(sample.get("text"), str) and sample["text"]:
        return {"text": sample["text"]}
    raise ValueError("neither messages nor text")


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """A new file that only its owner reads: these are people's words."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.writelines(line + b"\n" for line in lines)
