"""The demo's traffic: an endless, seeded stream of requests that the shipped model can answer, of all three kinds.

Tools (one call, several, none that fits, an answer from a result), facts to find in short and in long lists, and talk.
The facts of a list stand in an earlier turn than the question, as retrieved documents do, so that an answer from
them is one from far back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from backends.emulator.tasks import needles
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.requests import item

Body: TypeAlias = dict[str, Any]

TOOLS = ("tool_one", "tool_one", "tool_parallel", "tool_none", "tool_result")
TALK = ("chat", "arithmetic")
SHORT_FACTS = (20, 28)  # about 600 to 800 tokens
LONG_FACTS = (75, 110)  # about 2,000 to 3,000 tokens: where a coarse KV cache loses facts first
SHARES = (("tools", 0.3), ("short_facts", 0.25), ("long_facts", 0.25), ("talk", 0.2))  # *choice*
GREEDY = 0.9  # *choice*: nearly all are compared as served
STREAMED = 0.5  # *choice*
MAX_TOKENS = 192  # the longest right answer of these kinds has some 150
_QUESTION_CHARS = 400  # a last turn beyond it holds the list itself


def bodies(seed: int, model: str) -> Iterator[Body]:
    """Request bodies for `/v1/chat/completions`, never ending; the same for the same seed."""
    d = Draw(seed, "heldout")
    while True:
        yield _body(d, _kind(d), model)


def _kind(d: Draw) -> str:
    drawn = d.random()
    for kind, share in SHARES:
        drawn -= share
        if drawn < 0.0:
            return kind
    return SHARES[-1][0]


def _body(d: Draw, kind: str, model: str) -> Body:
    if kind.endswith("facts"):
        request = _facts(d, SHORT_FACTS if kind == "short_facts" else LONG_FACTS)
    else:
        request = item(d, d.pick(TOOLS if kind == "tools" else TALK)).request()
    body: Body = {"model": model, "messages": request["messages"], "max_tokens": MAX_TOKENS}
    if request["tools"]:
        body["tools"] = request["tools"]
    body["temperature"] = 0.0 if d.chance(GREEDY) else 0.7
    if d.chance(STREAMED):
        body["stream"] = True
    return body


def _facts(d: Draw, between: tuple[int, int]) -> Body:
    while True:
        request = needles.list_item(d, d.randint(*between)).request()
        turns = request["messages"]
        if len(turns) > 1 and len(str(turns[-1]["content"])) < _QUESTION_CHARS:
            return request
