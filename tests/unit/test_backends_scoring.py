"""Calls about tokens: which requests a prefill can speak for, and what is asked."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from backends.scoring import (
    prefill_shows,
    shape_prompt_tokens,
    shape_text_tokens,
    shape_tokens_text,
    shape_verification,
)
from backends.shape import ShadowCall
from tests.unit.monitor_rig import WEATHER, chat_request


def asked(call: object) -> tuple[str, dict[str, Any]]:
    assert isinstance(call, ShadowCall)
    return call.path, orjson.loads(call.body)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [WEATHER], "tool_choice": "auto", "parallel_tool_calls": False},
        {"max_tokens": 9, "stop": ["x"], "stop_token_ids": [3]},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": {}, "n": 1},
        {"response_format": {"type": "text"}, "min_tokens": 0, "ignore_eos": False, "reasoning_effort": None},
        {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 3},
        {"chat_template_kwargs": {"enable_thinking": False}, "user": "u", "metadata": {"a": 1}, "seed": 4},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
    ],
)
def test_what_a_prefill_speaks_for(more: dict[str, Any]) -> None:
    assert prefill_shows("chat", {**chat_request(), **more})


@pytest.mark.parametrize(
    "more",
    [
        {"frequency_penalty": 0.1},
        {"presence_penalty": -0.1},
        {"repetition_penalty": 1.05},
        {"logit_bias": {"5": 1}},
        {"n": 2},
        {"min_tokens": 3},
        {"ignore_eos": True},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"choice": ["a"]}},
        {"guided_json": {}},
        {"tool_choice": "required", "tools": [WEATHER]},
        {"tool_choice": "none", "tools": [WEATHER]},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "tools": [WEATHER]},
        {"tools": [{"type": "function", "function": {**WEATHER["function"], "strict": True}}]},  # type: ignore[dict-item]
        {"bad_words": ["x"]},
        {"allowed_token_ids": [1]},
        {"reasoning_effort": "low"},  # part of the prompt that /tokenize does not take
        {"documents": []},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"skip_special_tokens": False},
        {"some_option_of_next_year": 1},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]},
    ],
)
def test_what_it_does_not(more: dict[str, Any]) -> None:
    assert not prefill_shows("chat", {**chat_request(), **more})


def test_the_prompt_is_asked_for_as_the_chat_would_render_it() -> None:
    body = chat_request(tools=[WEATHER], chat_template_kwargs={"a": 1}, max_tokens=3, stream=True, user="u")
    path, sent = asked(shape_prompt_tokens("chat", body, "ref"))
    assert path == "/tokenize"
    assert sent == {
        "model": "ref",
        "messages": body["messages"],
        "tools": [WEATHER],
        "chat_template_kwargs": {"a": 1},
        "add_generation_prompt": True,
    }


def test_the_prompt_of_a_completion() -> None:
    assert shape_prompt_tokens("completion", {"prompt": [4, 5]}, "ref") == (4, 5)
    body = {"prompt": "Once", "add_special_tokens": False}
    assert asked(shape_prompt_tokens("completion", body, None)) == ("/tokenize", body)


def test_text_and_tokens() -> None:
    assert asked(shape_text_tokens("fine", "ref")) == (
        "/tokenize",
        {"model": "ref", "prompt": "fine", "add_special_tokens": False},
    )
    assert asked(shape_tokens_text((1, 2), "ref")) == ("/detokenize", {"model": "ref", "tokens": [1, 2]})


def test_what_cannot_be_written_is_not_asked() -> None:
    assert shape_text_tokens("\ud800", "ref") is None
    assert shape_prompt_tokens("chat", {"messages": [{"role": "user", "content": "\ud800"}]}, "ref") is None


def test_a_verification_reads_all_and_says_one() -> None:
    path, sent = asked(shape_verification((1, 2), (5,), model="ref", top_logprobs=20, stop_token_ids=[9]))
    assert path == "/v1/completions"
    assert sent == {
        "model": "ref",
        "prompt": [1, 2, 5],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 20,
        "logprobs": 20,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stop_token_ids": [9],
    }
