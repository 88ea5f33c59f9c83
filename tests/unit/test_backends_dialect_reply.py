"""Whole bodies where the chosen token is not the best one; the rest is held against the real engine's recording."""

from __future__ import annotations

from typing import Any

import orjson

from backends.dialect.reply import whole
from backends.dialect.words import Stamp, Step
from backends.scripted.answer import Answer
from backends.scripted.ask import Ask, read_ask
from backends.scripted.generate import Generated

# The model would rather have said "b" or "c" than "a".
STEP = Step(97, -5.0, 3, ((98, -0.1), (99, -3.0)))


def reply(fields: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    ask: Ask = read_ask(chat, orjson.dumps(body | fields), "application/json", "m", 4_096)
    choice = Generated(ask.prompts[0], Answer("a"), (97,), "a", "length", None, False, (STEP,))
    prefills = [[STEP]] if ask.prompt_logprobs is not None else []
    parsed: dict[str, Any] = orjson.loads(whole(ask, Stamp("x-1", 0, "f"), [choice], prefills))
    return parsed


def test_a_chat_lists_the_chosen_token_first_and_keeps_to_k() -> None:
    (entry,) = reply({"logprobs": True, "top_logprobs": 2}, chat=True)["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("a", -5.0, [97])
    assert [(one["token"], one["logprob"]) for one in entry["top_logprobs"]] == [("a", -5.0), ("b", -0.1)]


def test_a_completion_lists_the_best_k_and_the_chosen_one() -> None:
    logprobs = reply({"logprobs": 2}, chat=False)["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == [{"a": -5.0, "b": -0.1, "c": -3.0}]
    assert logprobs["token_logprobs"] == [-5.0]


def test_prompt_logprobs_have_the_token_that_is_there_with_its_rank() -> None:
    (first, row) = reply({"prompt_logprobs": 1}, chat=False)["choices"][0]["prompt_logprobs"]
    assert first is None
    assert row == {
        "97": {"logprob": -5.0, "rank": 3, "decoded_token": "a"},
        "98": {"logprob": -0.1, "rank": 1, "decoded_token": "b"},
    }
