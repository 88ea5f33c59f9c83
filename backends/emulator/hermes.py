"""Tool calls in generated text, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: whole, and as they grow.

Source: vLLM 0.32 `tool_parsers/hermes_tool_parser.py`, for what is content and what is a call.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>|<tool_call>(.*)", re.DOTALL)
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\S)', re.DOTALL)


def read_calls(text: str) -> tuple[str | None, tuple[tuple[str, str], ...]]:
    """What stands before the calls (None for nothing), and the calls as (name, arguments as JSON text).

    One call that cannot be read makes the whole text content, without calls.
    """
    if OPEN not in text:
        return text, ()
    calls = []
    for whole, cut in _CALL.findall(text):
        call = _call(whole or cut)
        if call is None:
            return text, ()
        calls.append(call)
    return text[: text.index(OPEN)] or None, tuple(calls)


@dataclass(slots=True)
class Delta:
    """What some text adds: content, and (index, name, arguments): the name once, the arguments piece by piece."""

    content: str = ""
    calls: list[tuple[int, str | None, str]] = field(default_factory=list)


class CallReader:
    """Reads text piece by piece. `count` is how many calls began."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting = ""
        self._inside = False
        self._named = False
        self._depth = Depth()

    def read(self, piece: str, *, final: bool = False) -> Delta:
        """What this piece shows; `final` says that no more comes."""
        delta = Delta()
        self._waiting += piece
        while self._inside_step(delta) if self._inside else self._outside_step(delta, final=final):
            pass
        if final and self._inside and not self._named and not self._whole_call(self._waiting, delta):
            delta.content += (OPEN + self._waiting) if self.count == 0 else ""
        return delta

    def _outside_step(self, delta: Delta, *, final: bool) -> bool:
        """Content up to a tag; True when a call began. After the first call what stands outside is not shown."""
        at = self._waiting.find(OPEN)
        held = 0 if final else _overlap(self._waiting, OPEN)
        shown = self._waiting[:at] if at >= 0 else self._waiting[: len(self._waiting) - held]
        if self.count == 0:
            delta.content += shown
        self._waiting = self._waiting[len(shown) :].removeprefix(OPEN) if at >= 0 else self._waiting[len(shown) :]
        self._inside, self._named = at >= 0, False
        return at >= 0

    def _inside_step(self, delta: Delta) -> bool:
        """The name when it is whole, then the arguments; True when the call ended."""
        if not self._named:
            head = _HEAD.match(self._waiting)
            if head is not None:
                self._begin(json.loads(head[1], strict=False), delta)
                self._waiting = self._waiting[head.end() :]
                self._depth = Depth()
        if self._named:
            taken = self._depth.take(self._waiting)
            if taken:
                delta.calls.append((self.count - 1, None, self._waiting[:taken]))
                self._waiting = self._waiting[taken:]
        at = self._waiting.find(CLOSE) if not self._named or self._depth.closed else -1
        if at < 0:
            return False
        if not self._named and not self._whole_call(self._waiting[:at], delta) and self.count == 0:
            delta.content += OPEN + self._waiting[: at + len(CLOSE)]
        self._waiting = self._waiting[at + len(CLOSE) :]
        self._inside = False
        return True

    def _whole_call(self, text: str, delta: Delta) -> bool:
        """A call whose fields came in another order."""
        call = _call(text)
        if call is not None:
            self._begin(call[0], delta)
            delta.calls.append((self.count - 1, None, call[1]))
        return call is not None

    def _begin(self, name: str, delta: Delta) -> None:
        delta.calls.append((self.count, name, ""))
        self.count += 1
        self._named = True


class Depth:
    """Where a JSON value that comes in pieces ends."""

    def __init__(self) -> None:
        self.closed = False
        self._open = 0
        self._quoted = False
        self._escaped = False

    def take(self, text: str) -> int:
        """How many characters of the text still belong to the value."""
        for place, char in enumerate(text):
            if self.closed:
                return place
            if self._quoted:
                self._quoted = self._escaped or char != '"'
                self._escaped = char == "\\" and not self._escaped
            elif char == '"':
                self._quoted = True
            elif char in "{[":
                self._open += 1
            elif char in "}]" and self._open:
                self._open -= 1
                self.closed = self._open == 0
            elif self._open == 0 and char in "},<":  # a bare value: a number, a string, null
                self.closed = True
                return place
        return len(text)


def _call(text: str) -> tuple[str, str] | None:
    try:
        value = json.loads(text)
        return str(value["name"]), json.dumps(value["arguments"], ensure_ascii=False)
    except (ValueError, KeyError, TypeError):
        return None


def _overlap(text: str, tag: str) -> int:
    """How much of the end of the text may be the beginning of the tag."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-size:])), 0)
