"""Bodies in, records out: real replies of vLLM 0.32, hand-made corners, and bytes that mean harm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.canonical import read_call
from scorers.decode import DecodeError, DecodeReason, decode_reply, decode_request, decode_teacher_forced
from scorers.grid import TokenGrid, grid_of
from scorers.records import Choice, DecodedReply, TokenLogprobs, ToolCall

DATA = Path(__file__).parent / "data"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SSE = "text/event-stream; charset=utf-8"


def recorded(name: str) -> bytes:
    return (DATA / name).read_bytes()


def whole(name: str, kind: Literal["chat", "completion"] = "chat") -> DecodedReply:
    return decode_reply(kind, "application/json", recorded(name))


def streamed(name: str, kind: Literal["chat", "completion"] = "chat") -> DecodedReply:
    return decode_reply(kind, SSE, recorded(name))


def as_grid(choice: Choice) -> TokenGrid:
    assert choice.logprobs is not None
    return choice.logprobs if isinstance(choice.logprobs, TokenGrid) else grid_of(choice.logprobs, None)


def events(*chunks: Any, done: bool = True, newline: str = "\n") -> bytes:
    lines = [chunk if isinstance(chunk, str) else "data: " + orjson.dumps(chunk).decode() for chunk in chunks]
    lines += ["data: [DONE]"] if done else []
    return "".join(line + newline * 2 for line in lines).encode()


def delta(finish: str | None = None, /, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def reason_of(kind: Literal["chat", "completion"], content_type: str, body: bytes) -> DecodeReason:
    with pytest.raises(DecodeError) as caught:
        decode_reply(kind, content_type, body)
    return caught.value.reason


# ---- real replies


def test_a_whole_chat_reply() -> None:
    reply = whole("vllm_chat_ids.json")
    (choice,) = reply.choices
    assert (reply.model, reply.prompt_tokens, reply.completion_tokens) == ("m", len(reply.prompt_token_ids or ()), 5)
    assert (reply.system_fingerprint or "").startswith("vllm-0.32")
    assert choice.token_ids is not None
    assert as_grid(choice).chosen.tolist() == list(choice.token_ids)
    assert choice.finish_reason == "length"


@pytest.mark.parametrize(
    ("whole_name", "stream_name", "kind"),
    [
        ("vllm_chat_ids.json", "vllm_chat_stream.sse", "chat"),
        ("vllm_chat_two.json", "vllm_chat_stream_two.sse", "chat"),
        ("vllm_completion_ids.json", "vllm_completion_stream.sse", "completion"),
        ("vllm_chat_tool.json", "vllm_chat_tool_stream.sse", "chat"),
    ],
)
def test_a_stream_adds_up_to_the_whole_reply(
    whole_name: str, stream_name: str, kind: Literal["chat", "completion"]
) -> None:
    one, many = whole(whole_name, kind), streamed(stream_name, kind)
    assert many.prompt_token_ids == one.prompt_token_ids
    assert len(many.choices) == len(one.choices)
    for left, right in zip(one.choices, many.choices, strict=True):
        assert (left.text, left.token_ids) == (right.text, right.token_ids)
        # vLLM's streaming parser keeps the model's whitespace in arguments, the whole one writes them anew.
        assert [read_call(c, None).strict for c in left.tool_calls] == [
            read_call(c, None).strict for c in right.tool_calls
        ]
        assert left.finish_reason == right.finish_reason
        mine, other = as_grid(left), as_grid(right)
        assert mine.chosen.tolist() == other.chosen.tolist()
        assert mine.ids.tolist() == other.ids.tolist()
        assert abs(mine.logprobs - other.logprobs).max() < 1e-8


def test_a_streams_usage_chunk() -> None:
    reply = streamed("vllm_chat_stream.sse")
    assert (reply.prompt_tokens, reply.completion_tokens) == (len(reply.prompt_token_ids or ()), 5)


def test_a_real_tool_call() -> None:
    reply = whole("vllm_chat_tool.json")
    assert reply.choices[0].tool_calls == (ToolCall("switch", '{"on": true}'),)


def test_logprobs_that_nobody_looks_at_are_left_unread() -> None:
    body = recorded("vllm_chat_ids.json")
    full, lean = (decode_reply("chat", "application/json", body, logprobs=wanted) for wanted in (True, False))
    assert lean.choices[0].logprobs is None
    assert replace(lean.choices[0], logprobs=full.choices[0].logprobs) == full.choices[0]
    assert replace(lean, choices=full.choices) == full
    for name in ("vllm_chat_plain.json", "vllm_chat_two.json", "vllm_chat_tool.json"):
        lean = decode_reply("chat", "application/json", recorded(name), logprobs=False)
        assert [c.text for c in lean.choices] == [c.text for c in whole(name).choices]


def test_keys_are_texts_when_ids_were_not_asked_for() -> None:
    logprobs = whole("vllm_chat_text_keys.json").choices[0].logprobs
    assert isinstance(logprobs, TokenLogprobs)
    assert logprobs.tokens[0] == "\\"
    assert set(logprobs.top[0]) == {"\\", " gif"}


def test_a_completion_with_logprobs() -> None:
    reply = whole("vllm_completion_ids.json", "completion")
    logprobs = reply.choices[0].logprobs
    assert isinstance(logprobs, TokenLogprobs)
    assert len(logprobs.tokens) == len(logprobs.chosen) == len(logprobs.top) == 5
    assert logprobs.top[0][logprobs.tokens[0]] == logprobs.chosen[0]
    assert reply.prompt_token_ids is not None


def test_an_engines_error_is_no_reply() -> None:
    assert reason_of("chat", "application/json", recorded("vllm_error.json")) is DecodeReason.ERROR_REPLY


def test_teacher_forced_logprobs_equal_the_decodes_own() -> None:
    """vLLM on the CPU in BF16: prefill and decode agree exactly, so the alignment of positions is right."""
    reply = whole("vllm_chat_ids.json")
    own = as_grid(reply.choices[0])
    forced = decode_teacher_forced(recorded("vllm_teacher_forced.json"), len(reply.prompt_token_ids or ()), 5)
    assert len(forced.top) == 5
    for step, token in enumerate(own.chosen.tolist()):
        assert forced.top[step][f"token_id:{token}"] == pytest.approx(own.logprobs[step].max(), abs=1e-8)


@pytest.mark.parametrize(("prompt", "completion"), [(18, 5), (20, 5), (0, 5), (19, 4)])
def test_teacher_forced_refuses_other_counts(prompt: int, completion: int) -> None:
    n = len(whole("vllm_chat_ids.json").prompt_token_ids or ())
    shift = prompt - 19
    with pytest.raises(DecodeError):
        decode_teacher_forced(recorded("vllm_teacher_forced.json"), n + shift if prompt else 0, completion)


# ---- requests


def test_a_chat_request() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = {
        "model": "m",
        "temperature": 0,
        "n": 2,
        "stream": True,
        "max_tokens": 7,
        "max_completion_tokens": 9,
        "messages": [
            {"role": "system", "content": "one"},
            {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "image_url", "image_url": {}}]},
            {"role": "assistant", "content": None, "tool_calls": []},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}, {"type": "custom"}],
        "functions": [{"name": "old"}],
        "tool_choice": "auto",
    }
    request = decode_request(CHAT + "?trace=1", orjson.dumps(body))
    assert (request.kind, request.model, request.n, request.stream) == ("chat", "m", 2, True)
    assert (request.greedy, request.temperature, request.max_tokens) == (True, 0.0, 9)
    assert request.prompt_text == "one\ntwo"
    assert dict(request.tools) == {"f": schema, "old": {"type": "object"}}
    assert request.body == body


@pytest.mark.parametrize(("temperature", "greedy"), [(0, True), (0.0, True), (0.7, False), (None, False)])
def test_greedy_is_what_the_request_says(temperature: float | None, greedy: bool) -> None:
    body = {"prompt": "x"} if temperature is None else {"prompt": "x", "temperature": temperature}
    assert decode_request(TEXT, orjson.dumps(body)).greedy is greedy


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/embeddings", b"{}", DecodeReason.PATH),
        (CHAT, b"{", DecodeReason.NOT_JSON),
        (CHAT, b'{"messages": "\xff"}', DecodeReason.NOT_JSON),
        (CHAT, b'{"temperature": NaN}', DecodeReason.NOT_JSON),
        (CHAT, b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", DecodeReason.NOT_JSON),
        (CHAT, b"[]", DecodeReason.WRONG_SHAPE),
        (CHAT, b'{"messages": "hi"}', DecodeReason.WRONG_SHAPE),
        (CHAT, b'{"messages": []}', DecodeReason.WRONG_SHAPE),
        (CHAT, b'{"messages": [{"content": 1}]}', DecodeReason.WRONG_SHAPE),
        (CHAT, b'{"messages": [{"content": "x"}], "n": 0}', DecodeReason.WRONG_SHAPE),
        (CHAT, b'{"messages": [{"content": "x"}], "n": true}', DecodeReason.WRONG_SHAPE),
        (CHAT, b'{"messages": [{"content": "x"}], "stream": "yes"}', DecodeReason.WRONG_SHAPE),
        (CHAT, b'{"messages": [{"content": "x"}], "temperature": true}', DecodeReason.WRONG_SHAPE),
        (CHAT, b'{"messages": [{"content": "x"}], "tools": [{"function": {}}]}', DecodeReason.WRONG_SHAPE),
        (TEXT, b'{"prompt": 3}', DecodeReason.WRONG_SHAPE),
    ],
)
def test_unreadable_requests(path: str, body: bytes, reason: DecodeReason) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_request(path, body)
    assert caught.value.reason is reason


# ---- streams, by hand


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_framing(newline: str) -> None:
    body = events(
        ": keep-alive",
        "event: message" + newline + "id: 3" + newline + "data: " + '{"choices":[{"index":0,' + newline
        + 'data: "delta":{"content":"a"}}]}',
        delta(content="b"),
        delta("stop"),
        newline=newline,
    )  # fmt: skip
    assert decode_reply("chat", SSE, b"\xef\xbb\xbf" + body).choices[0].text == "ab"


def test_tool_call_deltas_are_merged_by_index() -> None:
    def call(index: int | None, name: str | None = None, arguments: str | None = None) -> dict[str, Any]:
        position = {} if index is None else {"index": index}
        return {**position, "function": {"name": name, "arguments": arguments}}

    body = events(
        delta(role="assistant", content=None),
        delta(tool_calls=[call(1, "second", "")]),
        delta(tool_calls=[call(0, "first", '{"a"'), call(1, None, '{"b":')]),
        delta(tool_calls=[call(0, None, ":1}")]),
        delta(tool_calls=[call(1, None, "2}")]),
        delta("tool_calls"),
    )
    assert decode_reply("chat", SSE, body).choices[0].tool_calls == (
        ToolCall("first", '{"a":1}'),
        ToolCall("second", '{"b":2}'),
    )


def test_legacy_function_call_in_both_forms() -> None:
    parts = events(
        delta(function_call={"name": "f", "arguments": "{"}), delta("stop", function_call={"arguments": "}"})
    )
    message = {"content": None, "function_call": {"name": "f", "arguments": "{}"}}
    one = orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "function_call"}]})
    assert decode_reply("chat", SSE, parts).choices[0].tool_calls == (ToolCall("f", "{}"),)
    assert decode_reply("chat", "application/json", one).choices[0].tool_calls == (ToolCall("f", "{}"),)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_under_either_name(field: str) -> None:
    def part(text: str) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {field: text}}]}

    body = events(part("think "), part("hard"), delta("stop", content="so"))
    (choice,) = decode_reply("chat", SSE, body).choices
    assert (choice.reasoning, choice.text) == ("think hard", "so")


def test_interleaved_choices_are_kept_apart_and_sorted() -> None:
    body = events(
        delta(index=1, content="b"), delta(index=0, content="a"), delta("length", index=1), delta("stop", index=0)
    )
    choices = decode_reply("chat", SSE, body).choices
    assert [(c.index, c.text, c.finish_reason) for c in choices] == [(0, "a", "stop"), (1, "b", "length")]


FULL = events(delta(content="a"), delta("stop"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (events(delta(content="a"), delta("stop"), done=False), DecodeReason.TRUNCATED),
        (events(delta(content="a")), DecodeReason.TRUNCATED),
        (events(), DecodeReason.EMPTY),
        (b"", DecodeReason.TRUNCATED),
        (events(delta(content="a"), {"error": {"message": "engine died", "code": 500}}), DecodeReason.ERROR_REPLY),
        (events(delta(content="a"), "data: {", delta("stop")), DecodeReason.NOT_JSON),
        (events("data: [1]"), DecodeReason.WRONG_SHAPE),
        (events(delta(tool_calls=[{"index": 10**9, "function": {"name": "f"}}])), DecodeReason.WRONG_SHAPE),
        (events({"choices": [{"index": 10**9, "delta": {}}]}), DecodeReason.WRONG_SHAPE),
    ],
)
def test_streams_that_are_no_reply(body: bytes, reason: DecodeReason) -> None:
    assert reason_of("chat", SSE, body) is reason


@pytest.mark.parametrize("cut", range(len(FULL) - len("data: [DONE]\n\n")))
def test_a_stream_cut_anywhere_before_its_end_is_truncated(cut: int) -> None:
    assert reason_of("chat", SSE, FULL[:cut]) is DecodeReason.TRUNCATED


def test_done_without_a_last_blank_line_still_ends_the_stream() -> None:
    assert decode_reply("chat", SSE, FULL.rstrip()).choices[0].text == "a"


def test_a_body_without_content_type_is_told_by_its_start() -> None:
    assert decode_reply("chat", "", FULL).choices[0].text == "a"
    assert decode_reply("chat", "", b": ping\n\n" + FULL).choices[0].text == "a"
    assert decode_reply("chat", "", recorded("vllm_chat_plain.json")).choices[0].finish_reason == "length"


# ---- whole replies, by hand


@pytest.mark.parametrize(
    ("kind", "reply", "reason"),
    [
        ("chat", {"choices": []}, DecodeReason.EMPTY),
        ("chat", {}, DecodeReason.EMPTY),
        ("chat", {"error": {"message": "no"}}, DecodeReason.ERROR_REPLY),
        ("chat", {"choices": [{"index": 0}]}, DecodeReason.WRONG_SHAPE),
        ("chat", {"choices": [{"index": 0, "message": {"content": 5}}]}, DecodeReason.WRONG_SHAPE),
        ("chat", {"choices": [{"index": -1, "message": {}}]}, DecodeReason.WRONG_SHAPE),
        ("chat", {"choices": [{"index": 0, "message": {}}] * 2}, DecodeReason.WRONG_SHAPE),
        ("chat", {"choices": [{"message": {"tool_calls": [{"function": {"name": 1}}]}}]}, DecodeReason.WRONG_SHAPE),
        ("chat", {"choices": [{"message": {}, "logprobs": {"content": [{}]}}]}, DecodeReason.WRONG_SHAPE),
        ("chat", {"choices": [{"message": {}, "token_ids": ["a"]}]}, DecodeReason.WRONG_SHAPE),
        ("completion", {"choices": [{"text": "a", "logprobs": {"tokens": ["a"]}}]}, DecodeReason.WRONG_SHAPE),
        (
            "completion",
            {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [True]}}]},
            DecodeReason.WRONG_SHAPE,
        ),
    ],
)
def test_replies_that_are_none(kind: Literal["chat", "completion"], reply: Any, reason: DecodeReason) -> None:
    assert reason_of(kind, "application/json", orjson.dumps(reply)) is reason


def test_html_is_not_json() -> None:
    assert reason_of("chat", "text/html", b"<html>502</html>") is DecodeReason.NOT_JSON


def test_a_key_for_two_tokens_is_dropped_from_its_list() -> None:
    entry = {"token": "a", "logprob": -0.5, "top_logprobs": [
        {"token": "a", "logprob": -0.5}, {"token": "\ufffd", "logprob": -2.0}, {"token": "\ufffd", "logprob": -3.0},
    ]}  # fmt: skip
    body = orjson.dumps({"choices": [{"message": {}, "logprobs": {"content": [entry]}}]})
    logprobs = decode_reply("chat", "", body).choices[0].logprobs
    assert isinstance(logprobs, TokenLogprobs)
    assert logprobs.top == ({"a": -0.5},)


# ---- bytes that mean harm


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("choices", "message", "delta", "content", "logprobs", "tool_calls", "function", "usage", "token_ids", "index",
          "top_logprobs", "tokens", "prompt_logprobs", "messages", "tools", "finish_reason", "name", "error", "n",
          "text", "prompt", "temperature", "tool_choice", "token_logprobs", "arguments")  # fmt: skip
api_values = st.recursive(
    json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


def _survives(body: bytes) -> None:
    for path in (CHAT, TEXT):
        try:
            decode_request(path, body)
        except DecodeError:
            pass
    for kind in ("chat", "completion"):
        for content_type in ("application/json", SSE, ""):
            try:
                decode_reply(kind, content_type, body)
            except DecodeError:
                pass
    try:
        decode_teacher_forced(body, 1, 1)
    except DecodeError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(body: bytes) -> None:
    _survives(body)


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits
        return b"{}"


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), api_values, max_size=5))
def test_random_shapes_raise_nothing_else(value: dict[str, Any]) -> None:
    _survives(_dumps(value))
    _survives(_dumps({"choices": [value]}))
    _survives(_dumps({"choices": [{"message": value, "delta": value, "logprobs": value}]}))
    _survives(b"data: " + _dumps({"choices": [{"delta": value}]}) + b"\n\ndata: [DONE]\n\n")


DAMAGED = ("vllm_chat_ids.json", "vllm_chat_stream_two.sse", "vllm_completion_ids.json", "vllm_teacher_forced.json")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_recordings_raise_nothing_else(data: st.DataObject) -> None:
    body = bytearray(recorded(data.draw(st.sampled_from(DAMAGED))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    _survives(bytes(body))
    _survives(bytes(body[: data.draw(st.integers(0, len(body)))]))
