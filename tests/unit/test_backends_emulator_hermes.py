"""Tool calls in text: whole, and in pieces of every size."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.emulator.hermes import CallReader, Depth, read_calls

ONE = '<tool_call>{"name": "f", "arguments": {"a": "x}\\"{", "b": [1, {"c": 2}]}}</tool_call>'
CASES = {
    "no call": ("just text", "just text", []),
    "one": (ONE, None, [("f", '{"a": "x}\\"{", "b": [1, {"c": 2}]}')]),
    "content before": ("Sure. " + ONE, "Sure. ", [("f", '{"a": "x}\\"{", "b": [1, {"c": 2}]}')]),
    "two": (
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
        '<tool_call>{"name": "g", "arguments": {"n": 1}}</tool_call>',
        None,
        [("f", "{}"), ("g", '{"n": 1}')],
    ),
    "other order": ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', None, [("f", '{"a": 1}')]),
    "left open": ('<tool_call>{"name": "f", "arguments": {"a": 1}}', None, [("f", '{"a": 1}')]),
    "no json": ("<tool_call>nope</tool_call>", "<tool_call>nope</tool_call>", []),
    "almost a tag": ("a <tool_cal> b <", "a <tool_cal> b <", []),
    "unicode": ('<tool_call>{"name": "f", "arguments": {"a": "é東"}}</tool_call>', None, [("f", '{"a": "é東"}')]),
}


def streamed(text: str, cuts: list[int]) -> tuple[str, list[tuple[str, str]]]:
    reader, content, calls = CallReader(), "", []
    places = [0, *sorted(cuts), len(text)]
    for number, (start, end) in enumerate(pairwise(places), start=2):
        delta = reader.read(text[start:end], final=number == len(places))
        content += delta.content
        for index, name, arguments in delta.calls:
            if name is not None:
                assert index == len(calls)
                calls.append([name, ""])
            calls[index][1] += arguments
    assert reader.count == len(calls)
    return content, [(name, arguments) for name, arguments in calls]


@pytest.mark.parametrize("name", CASES)
def test_whole_texts(name: str) -> None:
    text, content, calls = CASES[name]
    assert read_calls(text) == (content, tuple(calls))


@pytest.mark.parametrize("name", CASES)
def test_one_character_at_a_time(name: str) -> None:
    text, content, calls = CASES[name]
    assert streamed(text, list(range(1, len(text)))) == (content or "", calls)


@given(st.sampled_from(sorted(CASES)), st.data())
def test_any_pieces(name: str, data: st.DataObject) -> None:
    text, content, calls = CASES[name]
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    assert streamed(text, cuts) == (content or "", calls)


@given(st.text(alphabet='<>/tool_call{}"name: ,\\', max_size=60), st.integers(1, 5))
def test_any_text_is_read_to_its_end(text: str, size: int) -> None:
    """Whatever a model writes, pieces of any size show the same."""
    pieces = streamed("<tool_call>" + text, list(range(size, len(text) + 11, size)))
    assert pieces == streamed("<tool_call>" + text, [])


def test_the_name_comes_alone_and_the_arguments_as_they_grow() -> None:
    reader = CallReader()
    assert reader.read('<tool_call>{"name": "get').calls == []
    assert reader.read('_it", "argum').calls == []
    assert reader.read('ents": {"a"').calls == [(0, "get_it", ""), (0, None, '{"a"')]
    assert reader.read(": 1}}").calls == [(0, None, ": 1}")]
    assert reader.read("</tool_call>").calls == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_a_value_ends_where_its_json_ends(value: object) -> None:
    written = json.dumps(value)
    depth = Depth()
    assert depth.take(written + "}</tool_call>") == len(written)
    assert depth.closed
