"""The chat template: messages and tools to token ids, and back. The form is Qwen's (ChatML, hermes tool calls).

The scripted model reads only what the template wrote, as a real one does; so a rendered chat sent as token ids to
/v1/completions is understood like the chat itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.scripted.tokens import IM_END, IM_START, decode, encode, fold

_TOOLS_OPEN = "\n\n# Tools\n\n<tools>\n"
_TOOLS_CLOSE = "\n</tools>"
_ASSISTANT = tuple(encode("assistant\n"))
_DEFAULT_SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as the model sees it."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model answers to. `tools` are the offered functions (name, description, parameters)."""

    ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def state(self) -> int:
        """The hash of the whole prompt: the seed of everything that is answered to it."""
        return fold(1, self.ids)

    @property
    def question(self) -> str:
        """The last user turn, or all text where there is none."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), self.text)

    @property
    def text(self) -> str:
        return "\n".join(turn.text for turn in self.turns)


def render(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, generate: bool = True
) -> Prompt:
    """The prompt of a chat. `generate` opens the assistant's turn, as chat completions do."""
    turns = [Turn(str(message.get("role", "user")), _text_of(message)) for message in messages]
    functions = tuple(_function_of(tool) for tool in tools)
    if functions and (not turns or turns[0].role not in ("system", "developer")):
        turns.insert(0, Turn("system", ""))
    return _prompt(turns, functions, generate=generate)


def with_default_system(prompt: Prompt, *, generate: bool = True) -> Prompt:
    """A rendered chat as another template writes it: one with a system turn of its own where the chat brings none.

    Source:  Qwen2.5's template does so and Qwen3's does not. A chat that brings a system turn is read alike by both.
    """
    turns = list(prompt.turns)
    if turns and turns[0].role in ("system", "developer"):
        if turns[0].text:
            return prompt
        turns.pop(0)
    return _prompt([Turn("system", _DEFAULT_SYSTEM), *turns], prompt.tools, generate=generate)


def read(ids: Sequence[int]) -> Prompt:
    """The prompt in token ids: a chat where they were rendered from one, else one user turn of plain text."""
    if not ids or ids[0] != IM_START:
        return plain(ids)
    turns: list[Turn] = []
    functions: tuple[Mapping[str, Any], ...] = ()
    for block in _blocks(ids):
        role, _, text = decode(block).partition("\n")
        if not turns and _TOOLS_OPEN in text:
            text, _, written = text.partition(_TOOLS_OPEN)
            functions = _read_functions(written)
        turns.append(Turn(role, text))
    if turns and turns[-1] == Turn("assistant", ""):
        turns.pop()
    return Prompt(tuple(ids), tuple(turns), functions)


def plain(ids: Sequence[int]) -> Prompt:
    """Token ids as one user turn of plain text."""
    return Prompt(tuple(ids), (Turn("user", decode(ids)),))


def generation_start(ids: Sequence[int]) -> int | None:
    """Where the last open assistant turn begins to speak, or None when these ids are no rendered chat."""
    for index in range(len(ids) - 1, -1, -1):
        if ids[index] == IM_START:
            start = index + 1 + len(_ASSISTANT)
            return start if tuple(ids[index + 1 : start]) == _ASSISTANT else None
    return None


def call_text(name: str, arguments: str) -> str:
    """A tool call as the model writes it; hermes' parser reads it back."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def _prompt(turns: Sequence[Turn], functions: tuple[Mapping[str, Any], ...], *, generate: bool) -> Prompt:
    ids: list[int] = []
    for index, turn in enumerate(turns):
        written = turn.text + (_written(functions) if functions and index == 0 else "")
        ids += [IM_START, *encode(turn.role + "\n"), *encode(written), IM_END, 10]
    if generate:
        ids += [IM_START, *_ASSISTANT]
    return Prompt(tuple(ids), tuple(turns), functions)


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        text = "\n".join(part for part in parts if isinstance(part, str))
    else:
        text = content if isinstance(content, str) else ""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            text += call_text(str(function.get("name")), str(function.get("arguments")))
    return text


def _function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def _written(functions: Sequence[Mapping[str, Any]]) -> str:
    return _TOOLS_OPEN + "\n".join(orjson.dumps(function).decode() for function in functions) + _TOOLS_CLOSE


def _read_functions(written: str) -> tuple[Mapping[str, Any], ...]:
    found: list[Mapping[str, Any]] = []
    for line in written.removesuffix(_TOOLS_CLOSE).splitlines():
        try:
            function = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # a prompt that only looks like ours: that line offers no tool
        if isinstance(function, dict):
            found.append(function)
    return tuple(found)


def _blocks(ids: Sequence[int]) -> list[Sequence[int]]:
    starts = [index for index, token in enumerate(ids) if token == IM_START]
    blocks: list[Sequence[int]] = []
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        block = ids[start + 1 : end]
        closed = next((index for index in range(len(block) - 1, -1, -1) if block[index] == IM_END), len(block))
        blocks.append(block[:closed])
    return blocks
