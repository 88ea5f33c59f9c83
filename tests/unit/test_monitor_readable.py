"""A row is readable whatever its bodies hold."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor.readable import side_by_side, summary
from proxy.monitor.rows import PairBodies
from tests.unit.monitor_samples import bodies, reply, row


def test_a_summary_has_no_bodies_and_no_explanations() -> None:
    shown = summary(row(3, bodies=bodies()))
    assert shown["stratum"] == "1k-4k/tools/whole/greedy"
    assert shown["scores"][0] == {"arm": "candidate", "name": "tool_call_mismatch", "value": 1.0, "reason": None}
    assert not {"request", "candidate", "reference"} & shown.keys()


def test_a_served_stream_is_decoded_like_a_whole_reply() -> None:
    chunk = {"id": "x", "object": "chat.completion.chunk", "model": "m"}
    deltas = [{"role": "assistant", "content": "Hel"}, {"content": "lo"}]
    lines = [{**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    lines.append({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    stream = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
    kept = replace(bodies(), candidate=stream.encode(), control=reply("Hello"))
    shown = side_by_side(row(1, bodies=kept))
    assert shown["candidate"]["choices"][0]["text"] == "Hello"
    assert shown["control"]["choices"][0]["finish_reason"] == "stop"


def test_what_cannot_be_decoded_says_why_and_keeps_its_raw_text() -> None:
    whole = bodies("a long answer")
    cut = PairBodies(whole.request[:20], whole.candidate[:60], b"")
    shown = side_by_side(row(1, bodies=cut))
    assert shown["request"]["undecodable"]
    assert shown["candidate"]["choices"] is None
    assert shown["candidate"]["undecodable"]
    assert shown["candidate"]["raw"] == whole.candidate[:60].decode()
    assert shown["reference"]["undecodable"] == "no reply"


def test_without_bodies_there_are_none() -> None:
    assert side_by_side(row(1))["candidate"] is None


def test_a_completion_is_decoded_as_one() -> None:
    body = b'{"id":"x","model":"m","choices":[{"index":0,"text":"42","finish_reason":"stop"}]}'
    kept = PairBodies(b'{"model":"m","prompt":"6*7="}', body, body)
    shown = side_by_side(row(1, path="/v1/completions", bodies=kept))
    assert (shown["request"]["prompt"], shown["candidate"]["choices"][0]["text"]) == ("6*7=", "42")


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_shown(request: bytes, reply: bytes) -> None:
    shown = side_by_side(row(1, bodies=PairBodies(request, reply, reply)))
    assert isinstance(shown["candidate"]["raw"], str)
