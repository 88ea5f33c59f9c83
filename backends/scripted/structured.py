"""A JSON value that satisfies a schema, filled from the prompt's own words: what a grammar makes a real model do."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

MAX_DEPTH = 8  # *choice*: a schema may refer to itself
_FORMATS = {
    "date": "2026-03-14",
    "date-time": "2026-03-14T09:26:53Z",
    "time": "09:26:53Z",
    "email": "desk@example.com",
    "uri": "https://example.com/a",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "ipv4": "192.0.2.7",
}


def instance(schema: object, words: Sequence[str], rng: random.Random) -> Any:
    """A value for the schema; the same words and seed give the same value. Local `$ref`s are followed."""
    root = schema if isinstance(schema, Mapping) else {}
    return _value(root, root, words, rng, 0)


def _value(schema: object, root: Mapping[str, Any], words: Sequence[str], rng: random.Random, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return None
    if "$ref" in schema:
        return _value(_resolve(schema["$ref"], root), root, words, rng, depth + 1)
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return rng.choice(schema["enum"])
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(union), list) and schema[union]:
            return _value(schema[union][0], root, words, rng, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object" or (kind is None and "properties" in schema):
        return _object(schema, root, words, rng, depth)
    if kind == "array":
        return _array(schema, root, words, rng, depth)
    if kind in ("integer", "number"):
        return _number(schema, kind, rng)
    if kind == "boolean":
        return rng.random() < 0.5
    return None if kind == "null" else _string(schema, words, rng)


def _object(
    schema: Mapping[str, Any], root: Mapping[str, Any], words: Sequence[str], rng: random.Random, depth: int
) -> dict[str, Any]:
    properties = schema.get("properties")
    required = schema.get("required") or []
    return {
        name: _value(inner, root, words, rng, depth + 1)
        for name, inner in (properties.items() if isinstance(properties, Mapping) else ())
        if depth < 3 or name in required
    }


def _array(
    schema: Mapping[str, Any], root: Mapping[str, Any], words: Sequence[str], rng: random.Random, depth: int
) -> list[Any]:
    least = schema.get("minItems", 1)
    most = schema.get("maxItems", 3)
    count = max(int(least), min(int(most), 1 + rng.randrange(2)))
    return [_value(schema.get("items", {"type": "string"}), root, words, rng, depth + 1) for _ in range(count)]


def _number(schema: Mapping[str, Any], kind: str, rng: random.Random) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 100))
    if kind == "integer":
        least = int(low) + ("exclusiveMinimum" in schema)
        return rng.randint(least, max(least, int(high) - ("exclusiveMaximum" in schema)))
    return round(float(low) + float(high - low) * (0.1 + 0.8 * rng.random()), 3)


def _string(schema: Mapping[str, Any], words: Sequence[str], rng: random.Random) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    text = " ".join(rng.choice(words) for _ in range(1 + rng.randrange(3))) if words else "value"
    text = text.ljust(int(schema.get("minLength", 0)), "x")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _resolve(reference: object, root: Mapping[str, Any]) -> object:
    node: object = root
    for part in str(reference).removeprefix("#/").split("/"):
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node
