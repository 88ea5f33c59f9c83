"""What is sent, and what is calibrated on: two splits of the same tasks, which share no word of their own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson

from backends.emulator.tasks.requests import requests
from backends.emulator.vocabulary import Vocabulary
from tests.e2e.engines import MODEL, ROOT

MODEL_NAME = "parity-tiny"
MAX_PROMPT = 3_900  # the servers have 4,096
MAX_REPLY = 96

Mix = tuple[tuple[str, int | None, int], ...]
FULL: Mix = (
    ("tool_one", None, 30), ("tool_parallel", None, 24), ("tool_none", None, 16), ("chat", None, 16),
    ("arithmetic", None, 14), ("needle_text", 1_024, 12), ("needle_text", 2_048, 8), ("needle_list", 512, 20),
    ("needle_list", 1_024, 20), ("needle_list", 2_048, 20), ("needle_list", 4_096, 12),
)  # fmt: skip
"""Kind, length bucket, count: 192 requests. *choice*: a minute of two quiet cores a row."""
SMALL: Mix = (
    ("tool_one", None, 14), ("tool_parallel", None, 10), ("tool_none", None, 6), ("chat", None, 6),
    ("needle_list", 512, 10), ("needle_list", 1_024, 10), ("needle_list", 2_048, 8),
)  # fmt: skip
_CALIBRATION_KINDS = ("tool_one", "tool_parallel", "tool_none", "tool_result", "needle_list", "arithmetic", "chat")


def bodies(mix: Mix, seed: int = 71) -> list[dict[str, Any]]:
    """Greedy requests of the held-out split, in an order that mixes the kinds."""
    vocabulary, found = Vocabulary.of(MODEL), []
    for number, (kind, bucket, count) in enumerate(mix):
        fitting = (
            one
            for one in requests(seed + number, "heldout", 4 * count, (kind,), bucket)
            if len(vocabulary.chat(one["messages"], one["tools"] or [], {}).ids) <= MAX_PROMPT
        )
        found += [_body(one) for one, _ in zip(fitting, range(count), strict=False)]
    random.Random(seed).shuffle(found)
    return found


def training_bodies(count: int, seed: int) -> list[dict[str, Any]]:
    """Greedy requests of the training split: what a ledger saw before the recipe was made."""
    return [_body(one) for one in requests(seed, "train", count, _CALIBRATION_KINDS)]


def write_calibration(path: Path, count: int, seed: int = 5) -> Path:
    """A file of requests of the training split."""
    lines = [
        orjson.dumps({key: one[key] for key in ("messages", "tools") if one.get(key)})
        for one in training_bodies(count, seed)
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_unrelated(path: Path, count: int, seed: int, chars: int = 1_600) -> Path:
    """A file of text that has nothing to do with the traffic: pieces of the licence and of this project's prose."""
    prose = " ".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("LICENSE", "README.md", "ARCHITECTURE.md", "docs/recipes.md")
    )
    draw = random.Random(seed)
    starts = [draw.randrange(len(prose) - chars) for _ in range(count)]
    path.write_bytes(b"\n".join(orjson.dumps({"text": prose[at : at + chars]}) for at in starts) + b"\n")
    return path


def _body(one: dict[str, Any]) -> dict[str, Any]:
    body = {"model": MODEL_NAME, "messages": one["messages"], "max_tokens": MAX_REPLY, "temperature": 0}
    return body | ({"tools": one["tools"]} if one.get("tools") else {})
