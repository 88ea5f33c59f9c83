"""One training or test item: a conversation in OpenAI's shape whose last message is the right answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a careful assistant. Answer briefly.",
    "Answer the question of the user.",
    "You are an assistant with access to tools.",
    "Be short and exact.",
    "You are the support agent of a small company.",
    "You help people with their daily tasks. Use tools when they fit.",
    "Read the text and answer the question that follows.",
)


@dataclass(frozen=True)
class Item:
    """A conversation with its gold answer; `expected` is what a checker may demand of that answer."""

    kind: str
    messages: list[Message]
    expected: dict[str, Any]
    tools: list[Tool] = field(default_factory=list)

    def request(self) -> dict[str, Any]:
        """Returns the OpenAI-shaped request without its answer, with `kind` and `expected` beside it."""
        return {
            "kind": self.kind,
            "messages": self.messages[:-1],
            "tools": self.tools or None,
            "expected": self.expected,
        }


def user(text: str) -> Message:
    """Returns a user message."""
    return {"role": "user", "content": text}


def says(text: str) -> Message:
    """Returns an assistant message of plain text."""
    return {"role": "assistant", "content": text}


def calls(wanted: list[dict[str, Any]]) -> Message:
    """Returns an assistant message of tool calls, its arguments as JSON text as OpenAI has them."""
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {"name": c["name"], "arguments": json.dumps(c["arguments"], ensure_ascii=False)},
            }
            for i, c in enumerate(wanted)
        ],
    }
