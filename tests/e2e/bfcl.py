"""BFCL questions as OpenAI requests: its own schema dialect mapped to JSON Schema, its names to what the API allows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.engines import ROOT

DATA = ROOT.parent / "shared" / "evals" / "bfcl"
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string", "String": "string"}


def bfcl_requests(category: str, count: int) -> Iterator[dict[str, Any]]:
    """The first `count` questions of a category, as `messages` and `tools`."""
    path: Path = DATA / f"BFCL_v4_{category}.json"
    with path.open(encoding="utf-8") as lines:
        for _, line in zip(range(count), lines, strict=False):
            item = json.loads(line)
            tools = [{"type": "function", "function": _function(function)} for function in item["function"]]
            yield {"messages": item["question"][0], "tools": tools}


def _function(function: dict[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", function["name"])[:64]
    return {**function, "name": name, "parameters": _schema(function["parameters"])}


def _schema(node: Any) -> Any:
    if isinstance(node, list):
        return [_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    mapped = {key: _schema(value) for key, value in node.items() if key != "optional"}
    if isinstance(mapped.get("type"), str):
        mapped["type"] = TYPES.get(mapped["type"], mapped["type"])
    return mapped
