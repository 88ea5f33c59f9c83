"""OpenAI-shaped requests with their expected answers, for tests, the demo and the evaluation. Needs no torch.

for r in requests(seed=7, split="heldout", count=100):
    post({"messages": r["messages"], "tools": r["tools"]}) ... r["expected"]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from backends.emulator.tasks import chat, needles, tools
from backends.emulator.tasks.draw import Draw, Split
from backends.emulator.tasks.item import Item

KINDS = ("tool_one", "tool_parallel", "tool_none", "tool_result", "needle_list", "needle_text", "arithmetic", "chat")
BUCKETS = (512, 1024, 2048, 4096)
"""Upper bounds, in tokens of the whole prompt, of the length buckets of `needle_text` and `needle_list`."""


def about_tokens(text: str) -> float:
    """Returns the tokens of `text`, to some 15 %: a fit of the shipped tokenizer that needs no tokenizer."""
    lower, upper, digits, spaces, other = (
        len(re.findall(p, text)) for p in ("[a-z]", "[A-Z]", "[0-9]", r"\s", r"[^\sA-Za-z0-9]+")
    )
    return 0.417 * lower + 0.872 * upper + 1.364 * digits + 0.455 * spaces + 0.598 * other


def item(d: Draw, kind: str, bucket: int | None = None) -> Item:
    """Returns one item of `kind`; `bucket` asks a needle item for a prompt of more than half of that many tokens.

    A list of facts then stands in an earlier turn than the question.

    Raises:
        ValueError: for a kind that is not in `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known are {', '.join(KINDS)}")
    if kind == "needle_text":
        top = bucket or d.pick(BUCKETS)
        low = 0.2 if top == BUCKETS[0] else 0.55
        while True:
            made = needles.text_item(d, int(d.uniform(low, 1.1) * top * needles.CHARS_PER_TOKEN) - 200)
            if low < about_tokens("".join(str(m["content"]) for m in made.messages)) / top < 0.9:
                return made
    if kind == "needle_list" and bucket is not None:
        while True:
            known, body = needles.document(d, d.randint(bucket // 70, bucket // 25))
            if 0.55 < about_tokens(body) / bucket < 0.9:
                return needles.asked(d, needles.opening(d, body), known)
    if kind == "needle_list":
        return needles.list_item(d, d.randint(1, 40))
    while True:
        made = (
            tools.result_item(d)
            if kind == "tool_result"
            else chat.chat_item(d)
            if kind in ("chat", "arithmetic")
            else tools.tool_item(d)
        )
        if made.kind == kind:
            return made


def requests(
    seed: int, split: Split = "heldout", count: int = 100, kinds: tuple[str, ...] = KINDS, bucket: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yields `count` requests, the kinds in turn: `kind`, `messages`, `tools` (or None) and `expected`.

    `expected` holds `tool_calls`, a list of name and arguments in which order does not count (empty: no call may be
    made), or `contains`, strings that the answer's text must contain, or both.
    """
    d = Draw(seed, split)
    for i in range(count):
        yield item(d, kinds[i % len(kinds)], bucket).request()


def judge(expected: dict[str, Any], text: str | None, calls: list[dict[str, Any]]) -> bool:
    """Returns whether a reply is right: its `calls` are those expected, its `text` contains what it must."""
    want = expected.get("tool_calls")
    if want is not None:
        if len(want) != len(calls):
            return False
        left = list(calls)
        for call in want:
            if call not in left:
                return False
            left.remove(call)
    return all(part in (text or "") for part in expected.get("contains", ()))
