"""Teacher-forced calls: the reply's own tokens, within a bound, or none."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.monitor.forcing import forced_call
from scorers.decode import decode_request
from tests.unit.monitor_rig import CHAT, chat_reply, chat_request, ok, settings

REQUEST = decode_request(CHAT, orjson.dumps(chat_request()))


def reply(prompt: Any = (1, 2, 3), completion: Any = (5,)) -> bytes:
    parsed = orjson.loads(chat_reply(token_ids=completion))
    return orjson.dumps({**parsed, "prompt_token_ids": prompt})


def test_the_prompt_and_the_completion_are_read_again_by_the_reference() -> None:
    call = forced_call(REQUEST, ok(reply()), settings())
    assert call is not None
    assert (call.prompt_tokens, call.completion_tokens) == (3, 1)
    body = orjson.loads(call.call.body)
    assert (body["model"], body["prompt"], body["prompt_logprobs"]) == ("ref", [1, 2, 3, 5], 20)


def test_none_without_token_ids_or_without_a_reply_that_can_be_read() -> None:
    for body in (chat_reply(), reply(prompt=None), reply(completion=None), reply(completion=[]), b"garbage"):
        assert forced_call(REQUEST, ok(body), settings()) is None


def test_the_length_is_capped() -> None:
    of = settings(max_scored_prompt_tokens=4)
    assert forced_call(REQUEST, ok(reply()), of) is not None
    assert forced_call(REQUEST, ok(reply(completion=[5, 6])), of) is None
