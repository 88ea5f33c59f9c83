"""Framing of recorded event streams, down to the bytes; the merged replies are test_scorers_decode's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.decode import DecodeError, DecodeReason
from scorers.stream import decode_stream, event_data

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
