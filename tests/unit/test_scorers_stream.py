"""Framing of recorded event streams, down to the bytes; the merged replies are test_scorers_decode's."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.decode import DecodeError, DecodeReason
from scorers.stream import _chunk, decode_stream, event_data
from tests.bench.monitor_pairs import pairs

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\r\n\r\ndata: b\r\r", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": comment\n\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"database: x\n\ndata\n\n", []),
        (b"data:\n\n", []),
        (b"\n\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b"data: a\n\ndata: cut", [b"a"]),
        (b"data: a\n\ndata: [DONE]", [b"a", b"[DONE]"]),
        (b"data: a\n\ndata: [DONE]\n", [b"a", b"[DONE]"]),
    ],
)
def test_framing(body: bytes, expected: list[bytes]) -> None:
    assert list(event_data(body)) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=9), max_size=5))
def test_line_endings_mean_the_same(lines: list[str]) -> None:
    payloads = [line.encode() for line in lines]
    for newline in (b"\n", b"\r\n", b"\r"):
        body = b"".join(b"data: " + payload + newline * 2 for payload in payloads)
        assert list(event_data(body)) == payloads


def seconds_of(chunks: int, choice: dict[str, Any]) -> float:
    """Time to read a stream of so many equal chunks."""
    piece = b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"
    body = piece * chunks + b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    started = time.process_time()
    decode_stream("chat", body)
    return time.process_time() - started


@pytest.mark.parametrize(
    "choice",
    [
        {"index": 0, "token_ids": list(range(8)), "delta": {}},
        {"index": 0, "delta": {"content": "x" * 64}},
        {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "x" * 512, "arguments": "y" * 64}}]}},
    ],
)
def test_the_cost_of_a_stream_grows_with_its_length_only(choice: dict[str, Any]) -> None:
    short, long = (min(seconds_of(count, choice) for _ in range(3)) for count in (2_000, 16_000))
    assert long < 8 * short * 2.5  # eight times as long; squared would be 64 times


def test_nothing_counts_after_the_end() -> None:
    body = (DATA / "vllm_chat_stream.sse").read_bytes()
    assert decode_stream("chat", body + b"data: {broken\n\n") == decode_stream("chat", body)


def test_a_real_stream_cut_at_any_event_is_truncated() -> None:
    body = (DATA / "vllm_chat_tool_stream.sse").read_bytes()
    *events, _done, _rest = body.split(b"\n\n")
    for kept in range(len(events) + 1):
        with pytest.raises(DecodeError) as caught:
            decode_stream("chat", b"\n\n".join(events[:kept]) + b"\n\n")
        assert caught.value.reason is DecodeReason.TRUNCATED


TEXTS = st.sampled_from(
    ["a", "", " b", "é€", "\\", '"', "\n", '"}', '","x":"', "x" * 40, "\u2028", "\x00", "another text"]
)
BASES = st.sampled_from(
    [
        {"model": "m", "id": "1"},
        {"model": "m", "id": "1", "system_fingerprint": "f"},
        {"model": "n"},
        {},
        {"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
        {"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        {"model": "m", "prompt_token_ids": [1, 2]},
        {"model": "m", "error": {"message": "content"}},
        {"model": '"content":"x"', "other": {"content": "y"}},
    ]
)
PARTS = st.sampled_from(
    [
        {},
        {"logprobs": None, "finish_reason": None},
        {"token_ids": [5]},
        {"finish_reason": "stop"},
        {"stop": {"content": "z"}},
    ]
)
DELTAS = st.sampled_from(
    [{}, {"role": "assistant"}, {"reasoning": "why"}, {"refusal": "no"}, {"refusal": None},
     {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}]
)  # fmt: skip


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """One event; most of a list of them look like their neighbours."""
    delta = {**draw(DELTAS), "content": draw(TEXTS)}
    if draw(st.booleans()):
        delta = dict(reversed(delta.items()))
    part = {"index": draw(st.integers(0, 1)), "delta": delta, **draw(PARTS)}
    base = draw(BASES)
    chunk = {"choices": [part], **base} if draw(st.booleans()) else {**base, "choices": [part]}
    raw = json.dumps(
        chunk, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    )
    data = raw.encode()
    if draw(st.integers(0, 20)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data.replace(b"\n", b" ").replace(b"\r", b" ")


@settings(max_examples=300, deadline=None)
@given(st.lists(events(), min_size=1, max_size=4), st.data())
def test_what_needs_no_json_adds_up_to_what_the_parser_makes_of_it(few: list[bytes], data: st.DataObject) -> None:
    order = data.draw(st.lists(st.sampled_from(few), min_size=2, max_size=12))
    texts = data.draw(st.lists(TEXTS, min_size=1, max_size=3))
    varied = [event.replace(b'"a"', json.dumps(texts[n % len(texts)]).encode()) for n, event in enumerate(order)]
    last = (
        b'data: {"choices":[{"index":0,"finish_reason":"stop"},{"index":1,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    body = b"".join(b"data: " + event + b"\n\n" for event in varied) + last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scorers.stream._usual", lambda *_: None)
        plain = outcome(body)
    assert outcome(body) == plain


def outcome(body: bytes) -> object:
    try:
        return decode_stream("chat", body)
    except DecodeError as error:
        return error.reason, str(error)


def test_most_of_a_clients_stream_needs_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    body = pairs(1)[0].served
    parsed: list[bytes] = []
    monkeypatch.setattr("scorers.stream._chunk", lambda data: parsed.append(data) or _chunk(data))
    assert len(decode_stream("chat", body).choices[0].text.split()) == 240
    assert len(parsed) < 30 < body.count(b"data: ")
