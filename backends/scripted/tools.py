"""How the scripted model decides to call a tool, and with which arguments. Word matching, on purpose: predictable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_STEP = re.compile(r";|\band then\b|\balso\b|\bthen\b|\n\s*(?:[-*]|\d+[.)])\s+", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?![\w-])")
_QUOTED = re.compile(r'"([^"\n]{1,200})"|“([^”\n]{1,200})”|(?<!\w)\'([^\'\n]{1,200})\'(?!\w)')
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}(?:T[\d:]+Z?)?\b")
_IDENTIFIER = re.compile(r"\b[A-Z]{2,}-\d+\b|\b[\w.+-]+@[\w-]+\.\w+\b")
_NAME = re.compile(r"\b(?:in|for|to|from|at|of|about|with|by)\s+((?:[A-Z][\w'-]*)(?:\s+[A-Z][\w'-]*)*)")
_STOP = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "does", "for", "from", "get", "give", "how",
    "i", "in", "is", "it", "its", "me", "my", "of", "on", "or", "please", "s", "set", "that", "the", "their",
    "this", "to", "use", "using", "what", "when", "where", "which", "who", "will", "with", "you", "your", "tool",
    "function", "call", "value", "given",
})  # fmt: skip
NAME_WORD, DESCRIPTION_WORD, ENOUGH = 2, 1, 2  # *choice*: one word of the name, or two of the description


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call: the function's name and its arguments as parsed JSON."""

    name: str
    arguments: dict[str, Any]


def choose(question: str, tools: Sequence[Mapping[str, Any]], *, must: bool, parallel: bool) -> list[Call]:
    """The calls that answer a question: one per step of it that names a tool. `must`: at least one."""
    steps = [step for step in _STEP.split(question) if step and step.strip()]
    calls: list[Call] = []
    for step in steps or [question]:
        tool = _best(step, tools, at_least=ENOUGH)
        if tool is not None:
            calls.append(Call(str(tool["name"]), fill(tool.get("parameters"), step)))
    if not calls and must:
        tool = _best(question, tools, at_least=0)
        if tool is not None:
            calls.append(Call(str(tool["name"]), fill(tool.get("parameters"), question)))
    return calls if parallel else calls[:1]


def fill(schema: object, text: str) -> dict[str, Any]:
    """Arguments for a parameter schema, taken from the text by type; required ones always get a value."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("properties"), Mapping):
        return {}
    required = schema.get("required") or ()
    found = _Found.of(text)
    arguments: dict[str, Any] = {}
    for name, inner in schema["properties"].items():
        value = _value(str(name), inner if isinstance(inner, Mapping) else {}, found, needed=name in required)
        if value is not None:
            arguments[name] = value
    return arguments


def words_of(text: str) -> set[str]:
    """The content words of a text or an identifier, roughly stemmed."""
    return {_stem(word.lower()) for word in _WORD.findall(text.replace("_", " "))} - _STOP


@dataclass(slots=True)
class _Found:
    """What the text offers for arguments; each find is used once, in order."""

    text: str
    numbers: list[str] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> _Found:
        quoted = [next(group for group in match.groups() if group) for match in _QUOTED.finditer(text)]
        bare = _QUOTED.sub(" ", text)
        named = [match.group(0) for pattern in (_DATE, _IDENTIFIER) for match in pattern.finditer(bare)]
        names = [match.group(1) for match in _NAME.finditer(bare)]
        numbers = _NUMBER.findall(_DATE.sub(" ", bare))
        return cls(text, numbers, list(dict.fromkeys([*quoted, *named, *names])))


def _value(name: str, schema: Mapping[str, Any], found: _Found, *, needed: bool) -> Any:
    options = schema.get("enum")
    if isinstance(options, list) and options:
        lowered = found.text.lower()
        said = [one for one in options if re.search(rf"(?<!\w){re.escape(str(one).lower())}(?!\w)", lowered)]
        return said[0] if said else options[0] if needed else None
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "string")
    if kind in ("integer", "float", "number"):
        return _number(kind, found, needed=needed)
    if kind == "boolean":
        said_no = re.search(rf"\b(?:no|not|without|don't)\b[^.;]*{re.escape(name.replace('_', ' '))}", found.text)
        return said_no is None if needed or name.replace("_", " ") in found.text.lower() else None
    if kind in ("array", "tuple", "list"):
        return _items(schema.get("items"), found, needed=needed)
    if kind in ("object", "dict"):
        return fill(schema, found.text) if needed else None
    return _string(name, found, needed=needed)


def _number(kind: str, found: _Found, *, needed: bool) -> float | None:
    if not found.numbers:
        return (1 if kind == "integer" else 1.0) if needed else None
    said = found.numbers.pop(0)
    return int(float(said)) if kind == "integer" or "." not in said else float(said)


def _items(items: object, found: _Found, *, needed: bool) -> list[Any] | None:
    kind = items.get("type", "string") if isinstance(items, Mapping) else "string"
    values: list[Any] = []
    if kind in ("integer", "float", "number"):
        while found.numbers:
            values.append(_number(str(kind), found, needed=True))
    elif kind == "string":
        values = list(found.strings)
        found.strings.clear()
    return values if values or needed else None


def _string(name: str, found: _Found, *, needed: bool) -> str | None:
    said = re.search(rf"\b{re.escape(name)}\b\s*(?:is|=|:)\s*([\w.@/-]+)", found.text)
    if said:
        return said.group(1)
    if found.strings:
        return found.strings.pop(0)
    if not needed:
        return None
    rest = [word for word in re.findall(r"[\w-]+", found.text) if word.lower() not in _STOP]
    return rest[-1] if rest else "unknown"


def _best(text: str, tools: Iterable[Mapping[str, Any]], *, at_least: int) -> Mapping[str, Any] | None:
    spoken = words_of(text)
    best, most = None, at_least - 1
    for tool in tools:
        name = words_of(str(tool.get("name", "")))
        described = words_of(str(tool.get("description", ""))) - name
        points = NAME_WORD * len(spoken & name) + DESCRIPTION_WORD * len(spoken & described)
        if tool.get("name") and points > most:
            best, most = tool, points
    return best


def _stem(word: str) -> str:
    for ending in ("ing", "es", "s", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
