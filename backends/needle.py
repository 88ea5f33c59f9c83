"""Where a planted fact goes. Pure: seeded, deterministic, no request fields beyond messages and their text.

A needle is a line of its own wording in a copy of a client's long conversation: "The violet harbor access code is
482913." It is drawn so that neither its name nor its code occurs in the text, and put at a sentence or line
boundary, so that it reads like the rest. Source of the method: RULER's needle in a haystack (metrology 3).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]

_ADJECTIVES = (
    "amber", "bitter", "crimson", "distant", "eager", "faded", "golden", "hollow", "icy", "jagged", "keen", "lunar",
    "mellow", "narrow", "opal", "polar", "quiet", "rugged", "silent", "timber", "upper", "violet", "western", "yellow",
)  # fmt: skip
_NOUNS = (
    "anchor", "beacon", "canyon", "depot", "engine", "falcon", "garden", "harbor", "island", "jungle", "kettle",
    "ladder", "meadow", "needle", "orchard", "pillar", "quarry", "river", "summit", "tunnel", "valley", "window",
)  # fmt: skip
_DEPTHS = (0.05, 0.95)  # *choice*: the very first and last lines are recalled by position, not by content
_BOUNDARY = re.compile(r"\n+|(?<=[.!?]) +")
_REACH_CHARS = 2_000  # *choice*: how far from the drawn depth a boundary is still worth taking


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence to plant, the question that asks for it, and what the answer must contain."""

    needle: str
    question: str
    answer: str
    depth: float


def draw_fact(seed: int, texts: Sequence[str]) -> Fact:
    """A fact whose name and code occur in none of the texts, and the depth that it wants. Equal seeds, equal facts."""
    rng = random.Random(seed)
    depth = rng.uniform(*_DEPTHS)
    fact = _draw(rng, depth)
    for _ in range(64):  # a bound, never reached in practice: 475 million combinations
        name = fact.question.removeprefix("What is the ").partition(" access code")[0]
        if not any(fact.answer in text or name in text for text in texts):
            break
        fact = _draw(rng, depth)
    return fact


def _draw(rng: random.Random, depth: float) -> Fact:
    name = f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"
    code = str(rng.randrange(100_000, 1_000_000))
    return Fact(
        needle=f"The {name} access code is {code}.",
        question=f"What is the {name} access code? Answer with the code only.",
        answer=code,
        depth=depth,
    )


@dataclass(frozen=True, slots=True)
class _Segment:
    """One text in the conversation: message index, part index (None: the content is a string), and the text."""

    message: int
    part: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Haystack:
    """A conversation ready to take a fact: its messages up to the last user turn, and their texts in order.

    `asks_in_last` says that the question follows the text of the last message instead of being a turn of its own.
    """

    messages: tuple[Message, ...]
    segments: tuple[_Segment, ...]
    asks_in_last: bool

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(segment.text for segment in self.segments)

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]]) -> Haystack | None:
        """The haystack in these messages, or None when they hold no text to hide in."""
        users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
        last = users[-1] if users else len(messages)
        before = _segments(messages[:last])
        inside = [segment for segment in _segments(messages[: last + 1]) if segment.message == last]
        keep = _chars(inside) > _chars(before)
        kept = messages[: last + 1] if keep else messages[:last]
        segments = (*before, *inside) if keep else tuple(before)
        if not _chars(segments):
            return None
        return cls(tuple(dict(message) for message in kept), segments, keep)

    def with_fact(self, fact: Fact) -> tuple[list[Message], float]:
        """New messages with the needle planted and the question asked, and the share of the text before the needle."""
        total = _chars(self.segments)
        target = int(fact.depth * total)
        start = 0
        chosen = self.segments[-1]
        for segment in self.segments:
            if start + len(segment.text) > target:
                chosen = segment
                break
            start += len(segment.text)
        at = boundary(chosen.text, min(max(target - start, 0), len(chosen.text)))
        messages = [dict(message) for message in self.messages]
        _replace(messages, chosen, plant(chosen.text, at, fact.needle))
        _ask(messages, fact.question, in_last=self.asks_in_last)
        return messages, (start + at) / total


def boundary(text: str, near: int) -> int:
    """The offset of a line's or sentence's start close to `near`; the start of a word failing that; else 0."""
    after = _BOUNDARY.search(text, near, min(len(text), near + _REACH_CHARS))
    if after is not None:
        return after.end()
    floor = max(0, near - _REACH_CHARS)
    before = [match.end() for match in _BOUNDARY.finditer(text, floor, near)]
    return before[-1] if before else text.rfind(" ", floor, near) + 1


def plant(text: str, at: int, needle: str) -> str:
    """The text with the needle at an offset, set apart the way its surroundings are: by lines or by spaces."""
    head, tail = text[:at], text[at:]
    if not tail:
        return f"{head}\n{needle}" if head and not head.endswith("\n") else head + needle
    gap = "\n" if not head or head.endswith("\n") else " "
    return f"{head}{needle}{gap}{tail}"


def _segments(messages: Sequence[Mapping[str, Any]]) -> list[_Segment]:
    found: list[_Segment] = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, str):
            found.append(_Segment(index, None, content))
        elif isinstance(content, list):
            found += [
                _Segment(index, place, part["text"])
                for place, part in enumerate(content)
                if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            ]
    return found


def _chars(segments: Iterable[_Segment]) -> int:
    return sum(len(segment.text) for segment in segments)


def _replace(messages: list[Message], segment: _Segment, text: str) -> None:
    message = messages[segment.message]
    if segment.part is None:
        message["content"] = text
        return
    parts = list(message["content"])
    parts[segment.part] = {**parts[segment.part], "text": text}
    message["content"] = parts


def _ask(messages: list[Message], question: str, *, in_last: bool) -> None:
    if not in_last:
        messages.append({"role": "user", "content": question})
        return
    content = messages[-1]["content"]
    if isinstance(content, str):
        messages[-1]["content"] = f"{content}\n\n{question}"
    else:
        messages[-1]["content"] = [*content, {"type": "text", "text": question}]
