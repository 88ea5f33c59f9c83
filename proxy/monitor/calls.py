"""Two sides' tool calls laid beside each other: per call its name, per argument path what became of the value.

For people, beside the scorer's ladder and by its rules of equality: order of parallel calls is nothing, numbers count
by value, a bool is no number, and a long free text may be reworded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from scorers.canonical import Call, read_call
from scorers.records import Json, ToolCall

MAX_CALLS = 16  # *choice*: laid out; a reply with more is read raw
MAX_PATHS = 100  # *choice*: of one call
MAX_VALUE_CHARS = 400  # *choice*
MAX_DEPTH = 24  # *choice*: deeper, a value is shown whole

Fate: TypeAlias = Literal["same", "changed", "reworded", "added", "missing"]
"""`added` stands on the left side alone, `missing` on the right alone: the right side is the answer key."""


def beside(left: Sequence[ToolCall], right: Sequence[ToolCall], tools: Mapping[str, Json]) -> list[dict[str, Any]]:
    """JSON-ready, one entry per call: `left` and `right` its names (None where a side has no such call), `fate`, and
    `paths`, each with `path`, `fate`, and for either side `value` and `type` (None where it has none).

    Equal calls are paired first, then calls of one name in their order, then what is left in its order.
    """
    ours = [read_call(call, tools.get(call.name)) for call in left[:MAX_CALLS]]
    theirs = [read_call(call, tools.get(call.name)) for call in right[:MAX_CALLS]]
    raw = {
        id(call): said.arguments
        for calls, all_said in ((ours, left), (theirs, right))
        for call, said in zip(calls, all_said, strict=False)
    }
    return [_pair(mine, other, raw, tools) for mine, other in _paired(ours, theirs)]


def _paired(ours: list[Call], theirs: list[Call]) -> list[tuple[Call | None, Call | None]]:
    """In the order of the right side, what only the left has at the end."""
    partner: dict[int, Call] = {}
    waiting = list(ours)
    for rule in (lambda a, b: a.strict == b.strict, lambda a, b: a.name == b.name, lambda a, b: True):
        for at, other in enumerate(theirs):
            mine = next((call for call in waiting if at not in partner and rule(call, other)), None)
            if mine is not None:
                partner[at] = mine
                waiting = [call for call in waiting if call is not mine]
    pairs: list[tuple[Call | None, Call | None]] = [(partner.get(at), other) for at, other in enumerate(theirs)]
    return pairs + [(call, None) for call in waiting]


def _pair(mine: Call | None, other: Call | None, raw: Mapping[int, str], tools: Mapping[str, Json]) -> dict[str, Any]:
    present = other or mine
    assert present is not None
    both_read = all(call.parsed for call in (mine, other) if call is not None)
    if both_read:
        schema = tools.get(present.name)
        paths = _paths(
            _ABSENT if mine is None else mine.arguments, _ABSENT if other is None else other.arguments, schema, "", 0
        )
    else:
        texts = [_ABSENT if call is None else raw[id(call)] for call in (mine, other)]
        paths = iter([_entry("(not JSON)", texts[0], texts[1], None)])
    shown = [path for _, path in zip(range(MAX_PATHS), paths, strict=False)]
    fate: Fate = "added" if other is None else "missing" if mine is None else "same"
    if fate == "same" and (mine is None or other is None or mine.strict != other.strict):
        fate = "changed"
    return {
        "left": None if mine is None else mine.name,
        "right": None if other is None else other.name,
        "fate": fate,
        "paths": shown,
    }


class _Absent:
    """No value at all, where null is one."""


_ABSENT = _Absent()


def _paths(left: Any, right: Any, schema: Json, path: str, depth: int) -> Iterator[dict[str, Any]]:
    sides = [side for side in (left, right) if side is not _ABSENT]
    if any(sides) and depth < MAX_DEPTH and all(isinstance(side, dict) for side in sides):
        properties = schema.get("properties") if isinstance(schema, dict) else None
        parts = properties if isinstance(properties, dict) else {}
        for key in dict.fromkeys(key for side in reversed(sides) for key in side):
            mine, other = (_ABSENT if side is _ABSENT else side.get(key, _ABSENT) for side in (left, right))
            yield from _paths(mine, other, parts.get(key), f"{path}.{key}" if path else key, depth + 1)
    elif any(sides) and depth < MAX_DEPTH and all(isinstance(side, list) for side in sides):
        items = schema.get("items") if isinstance(schema, dict) else None
        for at in range(max(len(side) for side in sides)):
            mine, other = (_ABSENT if side is _ABSENT or at >= len(side) else side[at] for side in (left, right))
            yield from _paths(mine, other, items, f"{path}[{at}]", depth + 1)
    else:
        yield _entry(path or "(no arguments)", left, right, schema)


def _entry(path: str, left: Any, right: Any, schema: Json) -> dict[str, Any]:
    return {
        "path": path[:MAX_VALUE_CHARS],
        "fate": _fate(left, right, schema),
        "left": _told(left),
        "right": _told(right),
    }


def _fate(left: Any, right: Any, schema: Json) -> Fate:
    if right is _ABSENT:
        return "added"
    if left is _ABSENT:
        return "missing"
    ours, theirs = (
        read_call(ToolCall("", _dumped({"v": side})), {"properties": {"v": schema}}) for side in (left, right)
    )
    if ours.strict != theirs.strict:
        return "changed"
    return "reworded" if ours.free != theirs.free else "same"


def _told(value: Any) -> dict[str, str] | None:
    if value is _ABSENT:
        return None
    text = _dumped(value)
    return {"type": _type(value), "value": text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]} ..."}


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _type(value: Any) -> str:
    """JSON Schema's word for it."""
    if value is None:
        return "null"
    for kind, word in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return word
    return "object"
