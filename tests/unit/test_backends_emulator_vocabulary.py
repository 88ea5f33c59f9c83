"""Chats as token ids: the shipped template as training renders it, and messages that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.dialect.ask import Refused
from backends.emulator.checkpoint import ModelError
from backends.emulator.server import MODEL
from backends.emulator.tasks.requests import requests
from backends.emulator.vocabulary import Vocabulary
from tests.unit.emulator_rig import write_model

VOCABULARY = Vocabulary.of(MODEL)


def chat(*messages: dict[str, Any], **body: Any) -> str:
    return VOCABULARY.decode(VOCABULARY.chat(messages, body.pop("tools", []), body).ids)


def test_a_chat_is_written_as_the_template_says() -> None:
    assert chat({"role": "user", "content": "hi"}) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert chat({"role": "user", "content": "hi"}, add_generation_prompt=False) == "<|im_start|>user\nhi<|im_end|>\n"


def test_parts_are_text_and_calls_are_parsed() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":  "é"}'}}
    said = chat(
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    )
    assert "user\na\nb<|im_end|>" in said
    assert '<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>' in said
    assert "<tool_response>42</tool_response>" in said


def test_tools_are_shown_as_vllm_shows_them() -> None:
    """Null where nothing is said, known fields alone, in vLLM's order."""
    bare = {"function": {"parameters": {}, "name": "f", "strict": None, "extra": 1}, "other": 2}
    full = {"type": "function", "function": {"strict": True, "description": "d", "name": "g", "parameters": {"a": 1}}}
    shown = (
        '{"type": "function", "function": {"name": "f", "description": null, "parameters": {}}}\n'
        '{"type": "function", "function": {"name": "g", "description": "d", "parameters": {"a": 1}, "strict": true}}\n'
    )
    assert f"<tools>\n{shown}</tools>" in chat({"role": "user", "content": "x"}, tools=[bare, full])
    with pytest.raises(Refused):
        chat({"role": "user", "content": "x"}, tools=[{"name": "f"}])


@pytest.mark.parametrize("kind", ["tool_one", "tool_result", "needle_list"])
def test_the_shared_requests_fit(kind: str) -> None:
    for one in requests(3, "heldout", 5, (kind,)):
        ids = VOCABULARY.chat(one["messages"], one["tools"] or [], {}).ids
        assert VOCABULARY.decode(ids).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": 5},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
        {"role": "assistant", "tool_calls": [{}]},
        {"role": "assistant", "tool_calls": ["x"]},
    ],
)
def test_messages_that_cannot_be_read(message: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        chat(message)
    assert caught.value.status == 400


def test_tokens_as_they_are_written() -> None:
    assert VOCABULARY.written(2) == "<|im_end|>"
    halves = VOCABULARY.forced("東")
    assert len(halves) > 1
    assert VOCABULARY.written(halves[0]) == ""
    assert VOCABULARY.spelled(VOCABULARY.forced("7")[0]) == b"7"
    assert VOCABULARY.decode([5, 99_999]) == VOCABULARY.decode([5])


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    assert VOCABULARY.given([1, 1023]).ids == (1, 1023)
    with pytest.raises(Refused, match="1024 is out of vocabulary"):
        VOCABULARY.given([1, 1024])


def test_a_model_without_a_template_only_completes(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    (directory / "chat_template.jinja").unlink()
    bare = Vocabulary.of(directory)
    assert not bare.chats
    with pytest.raises(Refused, match="no chat template"):
        bare.chat([{"role": "user", "content": "hi"}], [], {})
    assert bare.plain("hi").ids


def test_a_template_that_is_none_and_a_tokenizer_that_is_none(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    (directory / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(ModelError, match="chat template cannot be read"):
        Vocabulary.of(directory)
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Vocabulary.of(directory)


def test_a_template_may_refuse(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    (directory / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(Refused, match="roles must alternate"):
        Vocabulary.of(directory).chat([{"role": "user", "content": "hi"}], [], {})
