"""Typed reads: what passes, what is refused, and that errors hold no content."""

from __future__ import annotations

from typing import Any

import pytest

from scorers.wire import (
    DecodeError,
    DecodeReason,
    chat_logprobs,
    choice_index,
    completion_logprobs,
    content_text,
    from_chat_entries,
    joined,
    optional_count,
    parse_object,
    prompt_step,
    token_ids,
)


def test_an_error_names_the_field_and_no_content() -> None:
    with pytest.raises(DecodeError) as caught:
        parse_object(b'{"secret": ', "reply")
    assert caught.value.reason is DecodeReason.NOT_JSON
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [-1, 1.0, "1", True, [], {}])
def test_counts_are_whole_numbers(value: Any) -> None:
    with pytest.raises(DecodeError):
        optional_count(value, "x")


def test_an_absent_index_is_the_first() -> None:
    assert (choice_index(None), choice_index(127)) == (0, 127)
    with pytest.raises(DecodeError):
        choice_index(128)


def test_contents_are_strings_parts_or_nothing() -> None:
    assert content_text(None, "x") == ""
    assert content_text([{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}], "x") == "a\nb"
    for value in (3, {"text": "a"}, ["a"], [{"text": 3}]):
        with pytest.raises(DecodeError):
            content_text(value, "x")


def test_token_ids_are_whole_numbers() -> None:
    assert token_ids([1, 2], "x") == (1, 2)
    for value in ([1.0], [True], ["1"], "12", {}):
        with pytest.raises(DecodeError):
            token_ids(value, "x")


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"token": "a"},
        {"token": 1, "logprob": -1.0},
        {"token": "a", "logprob": "x"},
        {"token": "a", "logprob": True},
        {"token": "a", "logprob": None},
        {"token": "a", "logprob": -1.0, "top_logprobs": 5},
        {"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b"}]},
        {"token": "a", "logprob": -1.0, "top_logprobs": [{"token": None, "logprob": -1.0}]},
        {"token": "a", "logprob": -1.0, "top_logprobs": [{"token": [], "logprob": -1.0}]},
        7,
        None,
    ],
)
def test_malformed_logprob_entries(entry: Any) -> None:
    with pytest.raises(DecodeError):
        from_chat_entries([entry])


LLAMA = {
    "id": 81,
    "token": "o",
    "bytes": [111],
    "logprob": -0.25,
    "top_logprobs": [
        {"id": 81, "token": "o", "bytes": [111], "logprob": -0.25},
        {"id": 7, "token": "", "bytes": [], "logprob": -2.0},
        {"id": 9, "token": "", "bytes": [], "logprob": -3.0},
    ],
}


def test_llama_cpp_names_its_tokens_by_id_in_chats_and_in_completions() -> None:
    """Also those that have no text of their own, which would else be one key."""
    for read in (chat_logprobs, completion_logprobs):
        found = read({"content": [LLAMA, LLAMA]})
        assert found is not None
        assert found.tokens == ("token_id:81", "token_id:81")
        assert found.chosen == (-0.25, -0.25)
        assert found.top[0] == {"token_id:81": -0.25, "token_id:7": -2.0, "token_id:9": -3.0}


@pytest.mark.parametrize(
    "entry",
    [{**LLAMA, "id": -1}, {**LLAMA, "id": True}, {**LLAMA, "top_logprobs": [{"token": "o", "logprob": -1.0}]}, "o",
     {**LLAMA, "top_logprobs": 5}, {**LLAMA, "logprob": None}],
    ids=str,
)  # fmt: skip
def test_malformed_entries_with_ids(entry: Any) -> None:
    with pytest.raises(DecodeError):
        chat_logprobs({"content": [LLAMA, entry]})


def test_a_completion_without_lists_still_tells_its_tokens() -> None:
    one = completion_logprobs({"tokens": ["a", "b"], "token_logprobs": [-1, -2.0], "top_logprobs": None})
    two = completion_logprobs({"tokens": ["c"], "token_logprobs": [-3.0], "top_logprobs": [{"c": -3.0}]})
    assert one is not None
    assert two is not None
    both = joined([one, two])
    assert both is not None
    assert both.tokens == ("a", "b", "c")
    assert both.top == ({}, {}, {"c": -3.0})
    assert joined([]) is None


@pytest.mark.parametrize(
    "step",
    [{"x": {"logprob": -1.0}}, {"1": {}}, {"1": -1.0}, {"1": {"logprob": None}}, {"٣": {"logprob": -1.0}}, None, []],
)
def test_malformed_prompt_steps(step: Any) -> None:
    with pytest.raises(DecodeError):
        prompt_step(step)
