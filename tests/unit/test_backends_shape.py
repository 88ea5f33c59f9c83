"""Shaping: what changes in a shadow request, and that nothing else does."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.shape import (
    NEEDLE_MAX_TOKENS,
    NeedleCall,
    Refusal,
    RefusalReason,
    ShadowCall,
    shadow_headers,
    shape_needle,
    shape_replay,
    shape_teacher_forced,
)

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
ATTRIBUTION = {
    "store": True,
    "metadata": {"customer": "x"},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "service_tier": "auto",
    "priority": -1,
    "request_id": "r",
    "session_id": "s",
}
KEPT = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": 2}}}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "structured_outputs": {"choice": ["a"]},
    "guided_json": {},
    "stop": ["\n"],
    "max_tokens": 77,
    "top_p": 0.9,
    "top_k": 3,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": 1.0},
    "chat_template_kwargs": {"enable_thinking": False},
    "cache_salt": "the client's partition of the cache",
    "unknown_field": {"x": [1, 2.5, None]},
}


def replay(body: dict[str, Any], path: str = CHAT, **changes: Any) -> dict[str, Any]:
    plan: dict[str, Any] = {"model": None, "top_logprobs": 20, "greedy": True, "seed": None, "max_tokens_cap": None}
    call = shape_replay(body, path, **(plan | changes))
    assert isinstance(call, ShadowCall), call
    parsed: dict[str, Any] = orjson.loads(call.body)
    return parsed


def test_what_an_engine_refuses_is_left_out_also_where_the_client_asked_for_it() -> None:
    ours = {"return_token_ids", "return_tokens_as_token_ids", "seed", "logprobs"}
    body = {"model": "m", "messages": HI, "seed": 5, "return_token_ids": True, "logprobs": True, "top_logprobs": 3}
    assert replay(body, leave_out=ours, seed=7) == {"model": "m", "messages": HI, "temperature": 0}
    assert set(replay(body, leave_out={"seed"}, seed=7)) >= ours - {"seed"}
    plain = replay({"model": "m", "prompt": "x"}, COMPLETIONS, leave_out={"logprobs"})
    assert "logprobs" not in plain
    assert plain["return_token_ids"] is True


def test_a_chat_replay_asks_for_logprobs_and_ids_and_is_not_streamed() -> None:
    body = {"model": "m", "messages": HI, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.7}
    assert replay(body) == {
        "model": "m",
        "messages": HI,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def test_a_completion_replay_names_logprobs_its_own_way() -> None:
    shaped = replay({"prompt": "hi", "logprobs": 1, "stream": True}, COMPLETIONS, top_logprobs=5)
    assert shaped["logprobs"] == 5
    assert "top_logprobs" not in shaped
    assert "stream" not in shaped


def test_what_shapes_the_answer_stays_and_in_order() -> None:
    shaped = replay({"model": "m", "messages": HI, **KEPT, **ATTRIBUTION, "temperature": 0})
    assert {key: shaped[key] for key in KEPT} == KEPT
    assert list(shaped["tools"][0]["function"]["parameters"]) == ["b", "a"]
    added = {"logprobs", "top_logprobs", "return_token_ids", "return_tokens_as_token_ids"}
    assert set(shaped) == {"model", "messages", "temperature"} | set(KEPT) | added


@pytest.mark.parametrize("field", ATTRIBUTION)
def test_nothing_attributes_a_shadow_call_to_the_client(field: str) -> None:
    body = {"messages": HI, **ATTRIBUTION}
    assert field not in replay(body)
    needle = shape_needle(body, CHAT, model=None, top_logprobs=1, seed=1)
    assert isinstance(needle, NeedleCall)
    assert field not in orjson.loads(needle.call.body)


def test_the_clients_body_is_not_touched() -> None:
    body = {"messages": [{"role": "user", "content": "A line.\n" * 50}], "stream": True, "n": 2, "user": "u"}
    before = orjson.dumps(body)
    replay(body, model="other", seed=1, max_tokens_cap=1)
    shape_needle(body, CHAT, model="other", top_logprobs=1, seed=1)
    assert orjson.dumps(body) == before


def test_not_greedy_keeps_the_temperature_and_the_choices() -> None:
    shaped = replay({"messages": HI, "temperature": 0.7, "n": 3, "seed": 1}, greedy=False, seed=9, model="reference")
    assert (shaped["temperature"], shaped["n"], shaped["seed"], shaped["model"]) == (0.7, 3, 9, "reference")


def test_a_sampled_request_made_greedy_has_one_choice() -> None:
    assert "n" not in replay({"messages": HI, "temperature": 0.7, "n": 3})


def test_a_request_that_was_greedy_keeps_its_choices() -> None:
    assert replay({"messages": HI, "temperature": 0, "n": 3})["n"] == 3


@pytest.mark.parametrize(
    ("path", "body", "cap", "expected"),
    [
        (CHAT, {"messages": HI, "max_tokens": 500}, 100, {"max_tokens": 100}),
        (CHAT, {"messages": HI, "max_completion_tokens": 500}, 100, {"max_completion_tokens": 100}),
        (CHAT, {"messages": HI, "max_tokens": 5}, 100, {"max_tokens": 5}),
        (CHAT, {"messages": HI}, 100, {"max_tokens": 100}),
        (CHAT, {"messages": HI}, None, {}),
        (COMPLETIONS, {"prompt": "x"}, 100, {}),
        (COMPLETIONS, {"prompt": "x"}, 8, {"max_tokens": 8}),
    ],
)
def test_the_cap_only_lowers(path: str, body: dict[str, Any], cap: int | None, expected: dict[str, int]) -> None:
    shaped = replay(body, path, max_tokens_cap=cap)
    assert {key: value for key, value in shaped.items() if key.startswith("max_")} == expected


def test_refusals_pass_through() -> None:
    plan: dict[str, Any] = {"model": None, "top_logprobs": 1, "greedy": True, "seed": None, "max_tokens_cap": None}
    assert shape_replay({"input": 1}, "/v1/embeddings", **plan) == Refusal(RefusalReason.PATH, "path")
    huge = {"messages": HI, "seed": 1 << 70}
    assert shape_replay(huge, CHAT, **plan) == Refusal(RefusalReason.BAD_REQUEST, "not_serialisable")
    surrogate = {"messages": [{"role": "user", "content": "\ud800"}]}
    assert shape_replay(surrogate, CHAT, **plan) == Refusal(RefusalReason.BAD_REQUEST, "not_serialisable")


@given(
    st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)),
    st.booleans(),
)
def test_any_other_field_survives(extra: dict[str, Any], greedy: bool) -> None:
    named = {"messages", "n", "best_of", "echo", "use_beam_search", "audio", "modalities", "prompt_logprobs"}
    ours = {"temperature", "logprobs", "top_logprobs", "return_token_ids", "return_tokens_as_token_ids"}
    body = {key: value for key, value in extra.items() if key not in named | ours}
    shaped = replay({"messages": HI, **body}, greedy=greedy)
    gone = {*ATTRIBUTION, "stream", "stream_options", "stream_interval", "kv_transfer_params", "ec_transfer_params"}
    for key in body.keys() - gone - {"prompt_cache_retention", "logprob_token_ids"}:
        assert shaped[key] == body[key]


def test_teacher_forcing_is_one_prefill_of_both() -> None:
    call = shape_teacher_forced([1, 2], [3], model="reference", top_logprobs=20)
    assert call.path == COMPLETIONS
    assert orjson.loads(call.body) == {
        "model": "reference",
        "prompt": [1, 2, 3],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 20,
        "return_tokens_as_token_ids": True,
    }


def long_chat() -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You help."},
            {"role": "user", "content": "The river rose by two metres. The town slept. " * 100},
            {"role": "assistant", "content": "I see."},
            {"role": "user", "content": "What did the town do?"},
        ],
        "tools": KEPT["tools"],
        "response_format": {"type": "json_object"},
        "stop": ["."],
        "n": 2,
        "max_completion_tokens": 3,
        "stream": True,
        "temperature": 0.9,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def needle(body: dict[str, Any], seed: int = 5, model: str | None = "reference") -> NeedleCall:
    call = shape_needle(body, CHAT, model=model, top_logprobs=20, seed=seed)
    assert isinstance(call, NeedleCall), call
    return call


def test_a_needle_call_asks_for_the_planted_fact() -> None:
    call = needle(long_chat())
    shaped = orjson.loads(call.call.body)
    assert shaped["messages"][-1]["role"] == "user"
    assert shaped["messages"][-1]["content"].endswith("Answer with the code only.")
    assert call.answer in call.needle
    assert shaped["messages"][1]["content"].count(call.needle) == 1
    assert "What did the town do?" not in orjson.dumps(shaped).decode()
    assert shaped["max_tokens"] == NEEDLE_MAX_TOKENS
    assert shaped["temperature"] == 0
    assert shaped["chat_template_kwargs"] == {"enable_thinking": False}
    for gone in ("tools", "response_format", "stop", "n", "max_completion_tokens", "stream"):
        assert gone not in shaped


def test_both_arms_get_the_same_needle() -> None:
    ours, theirs = needle(long_chat(), model="a"), needle(long_chat(), model="b")
    assert (ours.needle, ours.answer, ours.depth_ratio) == (theirs.needle, theirs.answer, theirs.depth_ratio)
    assert {**orjson.loads(ours.call.body), "model": "b"} == orjson.loads(theirs.call.body)
    assert needle(long_chat(), seed=6).needle != ours.needle


def test_a_needle_wants_a_chat_with_text() -> None:
    refused = shape_needle({"prompt": "x"}, COMPLETIONS, model=None, top_logprobs=1, seed=1)
    assert refused == Refusal(RefusalReason.UNSUPPORTED, "needle_needs_chat")
    empty = shape_needle({"messages": [{"role": "user", "content": ""}]}, CHAT, model=None, top_logprobs=1, seed=1)
    assert empty == Refusal(RefusalReason.UNSUPPORTED, "no_text")


def test_headers_are_an_allow_list_without_credentials() -> None:
    captured = (
        (b"Authorization", b"Bearer secret"),
        (b"Cookie", b"a=b"),
        (b"X-Api-Key", b"k"),
        (b"X-Goog-Api-Key", b"k"),
        (b"X-Amz-Security-Token", b"k"),
        (b"X-Request-Id", b"r"),
        (b"Content-Length", b"5"),
        (b"Content-Type", b"text/plain"),
        (b"Content-Encoding", b"gzip"),
        (b"Host", b"h"),
        (b"X-Tenant-Class", b"gold"),
        (b"Accept-Language", b"de"),
    )
    everything = [name.decode() for name, _ in captured]
    assert shadow_headers(captured, []) == {"content-type": "application/json", "accept": "application/json"}
    assert shadow_headers(captured, everything) == {
        "content-type": "application/json",
        "accept": "application/json",
        "x-tenant-class": "gold",
        "accept-language": "de",
    }
