"""The quick reading of chat logprobs, held against json's reading of the same bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.decode import decode_reply
from scorers.grid import TokenGrid, grid_of
from scorers.records import TokenLogprobs
from scorers.scan import scan_chat
from scorers.wire import from_chat_entries

RECORDED = (Path(__file__).parent / "data" / "vllm_chat_ids.json").read_bytes()


def entry(token: int, logprob: float) -> dict[str, Any]:
    key = f"token_id:{token}"
    return {"token": key, "logprob": logprob, "bytes": list(key.encode())}


def body_of(steps: list[list[tuple[int, float]]]) -> bytes:
    content = [{**entry(*step[0]), "top_logprobs": [entry(*item) for item in step]} for step in steps]
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "logprobs": {"content": content}}
    return orjson.dumps({"id": "c", "choices": [{**choice, "finish_reason": "stop"}], "model": "m", "usage": None})


def by_json(body: bytes) -> TokenGrid:
    logprobs = from_chat_entries(orjson.loads(body)["choices"][0]["logprobs"]["content"])
    return grid_of(logprobs, None)


def assert_same(left: TokenGrid, right: TokenGrid) -> None:
    assert left.chosen.tolist() == right.chosen.tolist()
    assert left.ids.tolist() == right.ids.tolist()
    finite = np.isfinite(right.logprobs)
    assert (np.isfinite(left.logprobs) == finite).all()
    assert np.abs(left.logprobs[finite] - right.logprobs[finite]).max(initial=0.0) <= 1.1e-8


def test_a_recorded_reply_of_vllm_is_read_quickly() -> None:
    scanned = scan_chat(RECORDED)
    assert scanned is not None
    assert_same(scanned.grid, by_json(RECORDED))
    assert orjson.loads(scanned.rest)["choices"][0]["logprobs"] == {"content": []}


def test_decode_takes_the_quick_reading_and_keeps_the_rest() -> None:
    choice = decode_reply("chat", "application/json", RECORDED).choices[0]
    assert isinstance(choice.logprobs, TokenGrid)
    assert choice.token_ids is not None
    assert choice.logprobs.chosen.tolist() == list(choice.token_ids)


logprobs = st.one_of(
    st.floats(-30, -1e-9),
    st.floats(-30, -1e-9).map(lambda x: float(np.float32(x))),
    st.sampled_from([0.0, -0.0, -1e-7, -1.1920928955078125e-07, -9999.0, -100.25, -0.5, -10.0, -1e-100, -3.0]),
)


def lists_of(k: int) -> st.SearchStrategy[list[list[tuple[int, float]]]]:
    step = st.lists(st.tuples(st.integers(0, 99_999_999), logprobs), min_size=k, max_size=k, unique_by=lambda x: x[0])
    return st.lists(step, min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4).flatmap(lists_of))
def test_both_readings_agree(steps: list[list[tuple[int, float]]]) -> None:
    body = body_of(steps)
    scanned = scan_chat(body)
    assert scanned is not None
    assert_same(scanned.grid, by_json(body))


def test_lists_of_unequal_size_are_left_to_json() -> None:
    body = body_of([[(1, -0.5)], [(1, -0.5), (2, -1.0)], [(1, -0.5), (2, -1.0), (3, -2.0)]])
    assert scan_chat(body) is None
    logprobs = decode_reply("chat", "", body).choices[0].logprobs
    assert isinstance(logprobs, TokenLogprobs)
    assert [len(top) for top in logprobs.top] == [1, 2, 3]


@settings(max_examples=200, deadline=None)
@given(st.floats(-1.0, -1e-9))
def test_small_logprobs_are_read_to_sixteen_decimals(value: float) -> None:
    scanned = scan_chat(body_of([[(1, value)]]))
    assert scanned is not None
    assert math.isclose(scanned.grid.logprobs[0, 0], value, abs_tol=1.2e-16)


def test_a_chosen_token_outside_its_list_is_added() -> None:
    content = [{**entry(chosen, -0.5), "top_logprobs": [entry(8, -0.25)]} for chosen in (8, 7)]
    body = orjson.dumps({"choices": [{"message": {}, "logprobs": {"content": content}, "finish_reason": "stop"}]})
    scanned = scan_chat(body)
    assert scanned is not None
    assert scanned.grid.ids[0].tolist() == [8, -1]
    assert sorted(scanned.grid.ids[1].tolist()) == [7, 8]


@pytest.mark.parametrize(
    "damage",
    [
        (b'"logprob":-', b'"logprop":-'),
        (b'"bytes":', b'"xytes":'),
        (b'"top_logprobs":', b'"top_logprobz":'),
        (b"token_id:", b"token_ix:"),
        (b'"logprob":-', b'"logprob":x'),
        (b"token_id:1", b"token_id:x"),
        (b'"content":[{', b'"content":[ {'),
        (b'"choices":[', b'"choices":[{"index":1,"message":{},"logprobs":null},'),
    ],
)
def test_another_spelling_is_left_to_json(damage: tuple[bytes, bytes]) -> None:
    body = RECORDED.replace(b'"token":"token_id:', b'"token":"token_id:1')
    damaged = body.replace(*damage)
    assert damaged != body
    scanned = scan_chat(damaged)
    if damage[0] == b'"choices":[':  # found, and refused by decode for its second choice
        assert len(decode_reply("chat", "", damaged).choices) == 2
    else:
        assert scanned is None


@pytest.mark.parametrize("place", [1, 7, 19])
@pytest.mark.parametrize(
    "damage", [(b"token_id:", b"token_ix:"), (b'"logprob":', b'"logprop":'), (b"token_id:", b"token_id::")]
)
def test_one_entry_of_another_spelling_is_enough(place: int, damage: tuple[bytes, bytes]) -> None:
    old, new = damage
    pieces = RECORDED.split(old)
    assert scan_chat(old.join(pieces[: place + 1]) + new + old.join(pieces[place + 1 :])) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise(data: st.DataObject) -> None:
    body = bytearray(RECORDED)
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'0129:",{}[]-.ed \xff'))
    cut = data.draw(st.integers(0, len(body)))
    for variant in (bytes(body), bytes(body[:cut]), RECORDED[:cut]):
        scanned = scan_chat(variant)
        assert scanned is None or np.isfinite(scanned.grid.logprobs[scanned.grid.ids >= 0]).all()
