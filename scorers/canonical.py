"""One tool call in canonical form, and how two differ. Back room of tool_calls.py.

Canonical: object keys in any order, array order kept, numbers by value, a bool is no number. Equality of
canonical forms is an equivalence relation, under the strict and under the loose rule.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

import orjson

from scorers.records import Json, ToolCall

FREE_TEXT_CHARS = 64  # choice: a declared plain string longer than this is prose, not a value
_MAX_ENTRIES = 16  # choice: entries of one difference
_MAX_PATH_CHARS = 120  # choice
_FREE = ("free text",)
_LONG_DIGITS = re.compile(r"\d{16}")  # beyond 2**53 a float no longer tells neighbours apart
_BFCL_DROPPED = re.compile(r"[ ,./\-_*^]")  # bfcl_eval, ast_checker.standardize_string
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Call:
    """A call as compared. `strict` and `loose` are hashable; `free` holds its long free texts by path."""

    name: str
    parsed: bool
    arguments: Json
    strict: Hashable
    loose: Hashable
    free: Mapping[str, str] = field(default_factory=dict)


def read_call(call: ToolCall, schema: Json) -> Call:
    """The canonical call. Arguments that are no JSON compare as their raw text; blank ones are `{}`, which
    engines send for a function without parameters (choice)."""
    try:
        arguments = _parse(call.arguments)
        free: dict[str, str] = {}
        strict = _canonical(arguments, schema, False, "$", free)
        loose = _canonical(arguments, schema, True, "$", {})
    except (orjson.JSONDecodeError, RecursionError):
        raw = (call.name, ("not json", call.arguments))
        return Call(call.name, False, None, raw, raw)
    return Call(call.name, True, arguments, (call.name, strict), (call.name, loose), free)


def _parse(text: str) -> Json:
    if not text.strip():
        return {}
    value = orjson.loads(text)
    if _LONG_DIGITS.search(text):
        try:
            return json.loads(text)  # exact beyond 64 bits; orjson has already refused NaN and depth
        except ValueError:
            return value  # thousands of digits: equal as floats is equal enough
    return value


def _canonical(value: Json, schema: Json, loose: bool, path: str, free: dict[str, str]) -> Hashable:
    if isinstance(value, str):
        if len(value) > FREE_TEXT_CHARS and _is_plain_string(schema):
            free[path] = value
            return _FREE
        return loosened(value) if loose else value
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        parts = _child_schemas(schema)
        items = ((key, _canonical(value[key], parts.get(key), loose, f"{path}.{key}", free)) for key in sorted(value))
        return ("object", tuple(items))
    if isinstance(value, list):
        items_schema = schema.get("items") if isinstance(schema, dict) else None
        steps = (_canonical(part, items_schema, loose, f"{path}[{i}]", free) for i, part in enumerate(value))
        return ("array", tuple(steps))
    return value if value is None else (value,)  # a number, by value: 1 and 1.0 are equal and hash alike


def _child_schemas(schema: Json) -> Mapping[str, Json]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def _is_plain_string(schema: Json) -> bool:
    """A declared string without a closed set, a format or a pattern."""
    return (
        isinstance(schema, dict)
        and schema.get("type") == "string"
        and not any(keyword in schema for keyword in ("enum", "const", "format", "pattern"))
    )


def loosened(text: str) -> Hashable:
    """BFCL's rule on strings, word by word, with a guard: words that look like numbers, dates, ids or
    addresses (a digit, @ or ://) are kept as they stand, but for a comma or stop at their end."""
    kept: list[Hashable] = []
    plain = ""
    for word in text.split():
        if any(char.isdigit() for char in word) or "@" in word or "://" in word:
            kept.extend((plain, (word.rstrip(",.;"),)))
            plain = ""
        else:
            plain += _BFCL_DROPPED.sub("", word).lower().replace("'", '"')
    kept.append(plain)
    return ("loose", *kept) if any(kept) else text


def word_loss(left: str, right: str) -> float:
    """1 - F1 over the two texts' words as multisets, without case. Units: ratio."""
    if left == right:
        return 0.0
    ours, theirs = Counter(_WORD.findall(left.casefold())), Counter(_WORD.findall(right.casefold()))
    total = ours.total() + theirs.total()
    return 1.0 - 2 * (ours & theirs).total() / total if total else 1.0


def difference(ours: list[Call], theirs: list[Call], tools: Mapping[str, Json]) -> list[dict[str, Json]]:
    """What separates the unmatched calls: paths and kinds, and values only of closed sets (bool, null, enum).

    Unmatched calls are laid beside each other by name, in order.
    """
    left = _unmatched(ours, Counter(call.strict for call in theirs))
    right = _unmatched(theirs, Counter(call.strict for call in ours))
    entries: list[dict[str, Json]] = []
    for call in left:
        partner = next((other for other in right if other.name == call.name), None)
        if partner is None:
            entries.append({"path": call.name[:_MAX_PATH_CHARS], "kind": "extra call"})
            continue
        right.remove(partner)
        entries.extend(_call_difference(call, partner, tools.get(call.name)))
        if len(entries) >= _MAX_ENTRIES:
            return entries[:_MAX_ENTRIES]
    entries.extend({"path": call.name[:_MAX_PATH_CHARS], "kind": "missing call"} for call in right)
    return entries[:_MAX_ENTRIES]


def _unmatched(calls: list[Call], others: Counter[Hashable]) -> list[Call]:
    rest: list[Call] = []
    for call in calls:
        if others[call.strict] > 0:
            others[call.strict] -= 1
        else:
            rest.append(call)
    return rest


def _call_difference(left: Call, right: Call, schema: Json) -> Iterator[dict[str, Json]]:
    if not (left.parsed and right.parsed):
        sides = {"left": "json" if left.parsed else "not json", "right": "json" if right.parsed else "not json"}
        yield {"path": left.name[:_MAX_PATH_CHARS], "kind": "changed", **sides}
    else:
        yield from _value_difference(left.arguments, right.arguments, schema, left.name)


def _value_difference(left: Json, right: Json, schema: Json, path: str) -> Iterator[dict[str, Json]]:
    if isinstance(left, dict) and isinstance(right, dict):
        parts = _child_schemas(schema)
        for key in sorted(left.keys() | right.keys()):
            place = f"{path}.{key}"[:_MAX_PATH_CHARS]
            if key not in right:
                yield {"path": place, "kind": "extra", "left": _shape(left[key], parts.get(key))}
            elif key not in left:
                yield {"path": place, "kind": "missing", "right": _shape(right[key], parts.get(key))}
            else:
                yield from _value_difference(left[key], right[key], parts.get(key), place)
        return
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        items = schema.get("items") if isinstance(schema, dict) else None
        for index, (mine, other) in enumerate(zip(left, right, strict=True)):
            yield from _value_difference(mine, other, items, f"{path}[{index}]"[:_MAX_PATH_CHARS])
        return
    if _canonical(left, schema, False, "", {}) != _canonical(right, schema, False, "", {}):
        yield {"path": path, "kind": "changed", "left": _shape(left, schema), "right": _shape(right, schema)}


def _shape(value: Json, schema: Json) -> dict[str, Json]:
    """Type and size of a value; the value itself only where it comes from a closed set."""
    kind = "null" if value is None else type(value).__name__
    shape: dict[str, Json] = {"type": kind}
    if isinstance(value, (str, list, dict)):
        shape["length"] = len(value)
    closed = schema.get("enum") if isinstance(schema, dict) else None
    if isinstance(value, bool) or (isinstance(value, str) and isinstance(closed, list) and value in closed):
        shape["value"] = value
    return shape
