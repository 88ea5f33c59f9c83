"""What a reply shows of a capability, and that a reply in any other shape shows nothing and breaks nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from backends.base import Reply
from backends.capabilities import reply


def of(body: object, status: int = 200) -> Reply:
    return Reply(status, "application/json", body if isinstance(body, bytes) else orjson.dumps(body), 0.0)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"5", b'"x"', b"\xff"])
def test_what_is_no_object_has_nothing_in_it(body: bytes) -> None:
    told = reply.object_in(of(body))
    assert told == {}
    assert reply.choice_of(told) == {}
    assert reply.error_line(of(body, 418)) == "HTTP 418"
    assert not reply.about_the_model(of(body, 404))
    assert list(reply.events_in(of(body))) == []


@pytest.mark.parametrize("choice", [{}, {"logprobs": None}, {"logprobs": []}, {"logprobs": {"content": 5}},
                                    {"logprobs": {"content": [1, None, {"token": "a"}]}}])  # fmt: skip
def test_entries_without_numbers_are_none(choice: dict[str, Any]) -> None:
    assert reply.entries_of(choice) == []
    assert not reply.keyed_by_id(reply.entries_of(choice))
    assert reply.list_length(reply.entries_of(choice)) == 0


def test_ids_are_told_in_either_way_and_must_be_told_of_each_token() -> None:
    vllm, llama, text = ({"token": "token_id:7"}, {"token": "a", "id": 7}, {"token": "a"})
    assert reply.keyed_by_id([vllm])
    assert reply.keyed_by_id([llama])
    assert not reply.keyed_by_id([llama, text])
    assert reply.prompt_ids({"prompt_token_ids": [1, 2]}) == (1, 2)
    assert reply.prompt_ids({"choices": [{"prompt_token_ids": [1, 2]}]}) == (1, 2)
    assert reply.prompt_ids({"prompt_token_ids": ["1"]}) == ()


@pytest.mark.parametrize(
    ("error", "is_model"),
    [
        ({"message": "The model `x` does not exist.", "code": "model_not_found"}, True),
        ({"message": "nothing", "param": "model"}, True),
        ({"message": "File Not Found", "code": 404, "type": "not_found_error"}, False),  # llama.cpp's path
        ({"message": "Invalid URL (POST /v1/foo)"}, False),
    ],
)
def test_a_404_speaks_of_the_model_or_of_the_endpoint(error: dict[str, Any], is_model: bool) -> None:
    assert reply.about_the_model(of({"error": error}, 404)) is is_model


def test_an_error_is_one_bounded_line() -> None:
    line = reply.error_line(of({"error": {"message": "no\n" * 500}}, 400))
    assert line.startswith("HTTP 400: no no")
    assert len(line) == reply.MAX_WHY_CHARS
    assert reply.error_line(of({"error": "as a text"}, 400)) == "HTTP 400: as a text"  # TensorRT-LLM
    assert reply.error_line(of({"message": "flat"}, 400)) == "HTTP 400: flat"  # SGLang


def test_events_are_read_and_their_end_is_none() -> None:
    body = b'data: {"a":1}\n\n: comment\n\ndata: broken\n\ndata:{"b":2}\n\ndata: [DONE]\n\n'
    assert list(reply.events_in(of(body))) == [{"a": 1}, {"b": 2}]
