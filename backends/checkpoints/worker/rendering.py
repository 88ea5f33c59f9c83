"""Messages as the model's own chat template writes them, and as the serving engine hands them to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Unrenderable(Exception):
    """A sample that this model's template cannot take; str() says why, without any of the sample's words."""


def messages_for_template(messages: object) -> list[dict[str, Any]]:
    """The messages with contents as strings and tool calls' arguments as objects: so vLLM hands them to a template.

    Raises:  Unrenderable for what is no text, or no message.
    """
    if not isinstance(messages, list) or not messages:
        raise Unrenderable("no messages")
    return [_message(one) for one in messages]


def tools_for_template(tools: object) -> list[dict[str, Any]] | None:
    """The tools as templates get to see them: known fields in a fixed order, null for what is not said.

    Source:  vLLM 0.32, entrypoints/generate/base/protocol.py, FunctionDefinition.
    Raises:  Unrenderable.
    """
    if not tools:
        return None
    if not isinstance(tools, list):
        raise Unrenderable("tools is no list")
    return [_tool(one) for one in tools]


def rendered(tokenizer: Any, sample: Mapping[str, Any]) -> tuple[str, int]:
    """The whole text that the model reads for one sample, and where in it the first user's words begin.

    A sample that ends with an assistant's message is a prompt with its reply: nothing is asked for after it.
    Raises:  Unrenderable.
    """
    if "text" in sample:
        if not isinstance(sample["text"], str) or not sample["text"]:
            raise Unrenderable("text is empty or no string")
        return sample["text"], 0
    messages = messages_for_template(sample.get("messages"))
    if not tokenizer.chat_template:
        raise Unrenderable("the model has no chat template")
    asks = messages[-1]["role"] != "assistant"
    try:
        text = tokenizer.apply_chat_template(
            messages, tools=tools_for_template(sample.get("tools")), tokenize=False, add_generation_prompt=asks
        )
    except Exception as error:  # a template is a program of the model's maker
        raise Unrenderable(f"its chat template refuses it ({type(error).__name__})") from error
    first = next((one["content"] for one in messages if one["role"] == "user" and one["content"]), "")
    return text, max(text.find(first.strip()), 0)


def _message(one: object) -> dict[str, Any]:
    if not isinstance(one, dict) or not isinstance(one.get("role"), str):
        raise Unrenderable("a message without a role")
    made = {**one, "content": _content(one.get("content"))}
    calls = one.get("tool_calls")
    if calls:
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise Unrenderable("tool_calls is no list of calls")
        made["tool_calls"] = [_call(call) for call in calls]
    return made


def _tool(one: object) -> dict[str, Any]:
    function = one.get("function") if isinstance(one, dict) else None
    if not isinstance(function, dict):
        raise Unrenderable("a tool without a function")
    said = {name: function.get(name) for name in ("name", "description", "parameters")}
    said |= {name: function[name] for name in ("strict", "defer_loading") if function.get(name) is not None}
    return {"type": "function", "function": said}


def _content(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        raise Unrenderable("a message that is not text alone")
    return "\n".join(part["text"] for part in content)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict):
        raise Unrenderable("a tool call without a function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            pass  # as it was said: the template writes a string too
    return {**call, "function": {**function, "arguments": arguments}}
