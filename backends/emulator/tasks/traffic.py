"""The demo's traffic: an endless, seeded stream of requests that the shipped model can answer, of all three kinds.

Tools (one call, several, none that fits, an answer from a result), facts to find in short and in long lists, and talk.
The facts of a list stand in an earlier turn than the question, as retrieved documents do, so that an answer from
them is one from far back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from backends.emulator.tasks import needles
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.item import Message
from backends.emulator.tasks.requests import item

Body: TypeAlias = dict[str, Any]

TOOLS = ("tool_one", "tool_one", "tool_parallel", "tool_none", "tool_result")
TALK = ("chat", "arithmetic")
SHORT_FACTS = (16, 30, 1_000, 1_900)  # facts, and characters of the whole prompt: some 600 tokens
LONG_FACTS = (70, 110, 4_400, 7_000)  # 2,000 to 3,000 tokens: where a coarse KV cache loses facts first
SHARES = (("tools", 0.22), ("short_facts", 0.27), ("long_facts", 0.45), ("talk", 0.06))  # *choice*
QUESTIONS = 8  # *choice*: about one document; making one costs as much as reading it
GREEDY = 0.9  # *choice*: nearly all are compared as served
STREAMED = 0.5  # *choice*
MAX_TOKENS = 192  # the longest right answer of these kinds has some 150


def bodies(seed: int, model: str) -> Iterator[Body]:
    """Request bodies for `/v1/chat/completions`, never ending; the same for the same seed."""
    d = Draw(seed, "heldout")
    shelves = {"short_facts": _Shelf(SHORT_FACTS), "long_facts": _Shelf(LONG_FACTS)}
    while True:
        kind = _kind(d)
        if kind in shelves:
            request = needles.asked(d, *shelves[kind].document(d)).request()
        else:
            request = item(d, d.pick(TOOLS if kind == "tools" else TALK)).request()
        yield _body(d, request, model)


@dataclass(slots=True)
class _Shelf:
    """Documents of one size, each asked about a few times; (fewest, most) facts, (shortest, longest) characters.

    All questions about one follow the same opening turns, which an engine's prefix cache keeps.
    """

    size: tuple[int, int, int, int]
    known: list[needles.Fact] = field(default_factory=list)
    given: list[Message] = field(default_factory=list)
    questions: int = 0

    def document(self, d: Draw) -> tuple[list[Message], list[needles.Fact]]:
        if self.questions <= 0:
            fewest, most, shortest, longest = self.size
            body = ""
            while not shortest < len(body) < longest:
                self.known, body = needles.document(d, d.randint(fewest, most))
            self.given = needles.opening(d, body)
            self.questions = QUESTIONS
        self.questions -= 1
        return self.given, self.known


def _kind(d: Draw) -> str:
    drawn = d.random()
    for kind, share in SHARES:
        drawn -= share
        if drawn < 0.0:
            return kind
    return SHARES[-1][0]


def _body(d: Draw, request: Body, model: str) -> Body:
    body: Body = {"model": model, "messages": request["messages"], "max_tokens": MAX_TOKENS}
    if request["tools"]:
        body["tools"] = request["tools"]
    body["temperature"] = 0.0 if d.chance(GREEDY) else 0.7
    if d.chance(STREAMED):
        body["stream"] = True
    return body
