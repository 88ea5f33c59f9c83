"""Messages as a chat template gets them: strings for contents, objects for arguments, as the serving engine does it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.checkpoints.worker.rendering import Unrenderable, messages_for_template, rendered, tools_for_template
from backends.emulator.vocabulary import _shown


class Template:
    """A tokenizer as far as it is used, whose template writes what it was given."""

    chat_template = "there is one"

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, tools: Any, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize
        if any(one["role"] == "ghost" for one in messages):
            raise ValueError("no ghosts")
        written = "".join(f"<{one['role']}>{one['content']}" for one in messages)
        return f"{tools or ''}{written}{'<assistant>' if add_generation_prompt else ''}"


TOOL = {"function": {"parameters": {"b": 1, "a": 2}, "name": "f", "x": 0, "strict": True}, "type": "function"}
USER = {"role": "user", "content": "Hello there"}


def test_a_prompt_asks_for_a_reply_and_a_kept_reply_ends_it() -> None:
    assert rendered(Template(), {"messages": [USER]}) == ("<user>Hello there<assistant>", 6)
    reply = {"role": "assistant", "content": "Hi"}
    assert rendered(Template(), {"messages": [USER, reply]})[0] == "<user>Hello there<assistant>Hi"


def test_the_opening_is_the_first_users_words() -> None:
    text, opening = rendered(
        Template(), {"messages": [{"role": "system", "content": "Be kind"}, USER], "tools": [TOOL]}
    )
    assert text[opening:].startswith("Hello there")


def test_a_tool_has_vllms_fields_in_its_order_and_its_own_schema_as_sent() -> None:
    """One word of difference here, and what is calibrated on is not what the model is asked."""
    (shown,) = tools_for_template([TOOL]) or []
    assert list(shown) == ["type", "function"]
    assert list(shown["function"].items()) == [
        ("name", "f"), ("description", None), ("parameters", {"b": 1, "a": 2}), ("strict", True),
    ]  # fmt: skip
    assert list(shown["function"]["parameters"]) == ["b", "a"]
    assert shown == _shown(TOOL)  # the emulator's, which is held against a real vLLM
    assert tools_for_template([]) is None
    for wrong in ("x", [1], [{"type": "function"}]):
        with pytest.raises(Unrenderable):
            tools_for_template(wrong)


def test_text_is_taken_as_it_is() -> None:
    assert rendered(Template(), {"text": "a b c"}) == ("a b c", 0)


def test_arguments_become_objects_as_vllm_does_it_and_text_parts_one_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    broken = {"id": "2", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    empty = {"id": "3", "type": "function", "function": {"name": "f", "arguments": ""}}
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    asked = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call, broken, empty]},
    ]
    first, second = messages_for_template(asked)
    assert first["content"] == "one\ntwo"
    assert second["content"] == ""
    assert [one["function"]["arguments"] for one in second["tool_calls"]] == [{"a": 1}, '{"a": ', {}]
    assert call["function"]["arguments"] == '{"a": 1}'  # the sample itself is as it was


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        ({"messages": []}, "no messages"),
        ({"messages": "hello"}, "no messages"),
        ({"messages": [{"content": "x"}]}, "without a role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "not text alone"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": ["x"]}]}, "no list of calls"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "without a function"),
        ({"messages": [{"role": "ghost", "content": "secret"}]}, "its chat template refuses it"),
        ({"text": ""}, "empty"),
        ({"text": 5}, "no string"),
    ],
)
def test_what_cannot_be_rendered_says_why_without_its_words(sample: dict[str, Any], why: str) -> None:
    with pytest.raises(Unrenderable, match=why) as raised:
        rendered(Template(), sample)
    assert "secret" not in str(raised.value)


def test_a_model_without_a_template_takes_text_alone() -> None:
    bare = Template()
    bare.chat_template = ""
    assert rendered(bare, {"text": "x"}) == ("x", 0)
    with pytest.raises(Unrenderable, match="no chat template"):
        rendered(bare, {"messages": [USER]})
