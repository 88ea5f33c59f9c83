"""Tool calls beside each other: what became of each call and of each argument, by the scorer's own rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor.calls import MAX_CALLS, MAX_PATHS, beside
from scorers.canonical import read_call
from scorers.records import ToolCall

BOOK = {"type": "object", "properties": {"note": {"type": "string"}, "city": {"type": "string"}}}


def call(name: str = "book", **arguments: Any) -> ToolCall:
    return ToolCall(name, json.dumps(arguments))


def fates(left: list[ToolCall], right: list[ToolCall], **tools: Any) -> list[tuple[str, dict[str, str]]]:
    """(fate of the call, fate by path) of each call."""
    return [(one["fate"], {p["path"]: p["fate"] for p in one["paths"]}) for one in beside(left, right, tools)]


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, {"a": "same"}),
        ({"a": 1}, {"a": True}, {"a": "changed"}),
        ({"a": "1"}, {"a": 1}, {"a": "changed"}),
        ({"a": None}, {}, {"a": "added"}),
        ({}, {"a": None}, {"a": "missing"}),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3, 4]}}, {"a.b[0]": "same", "a.b[1]": "changed", "a.b[2]": "missing"}),
        ({"a": {}}, {"a": {"b": 1}}, {"a.b": "missing"}),
        ({"a": []}, {"a": {"b": 1}}, {"a": "changed"}),
        ({"a": [1]}, {"a": {"b": 1}}, {"a": "changed"}),
        ({}, {}, {"(no arguments)": "same"}),
        ({"b": 1, "z": 2}, {"z": 2, "a": 0}, {"z": "same", "a": "missing", "b": "added"}),
    ],
)
def test_the_fate_of_each_argument(left: dict[str, Any], right: dict[str, Any], expected: dict[str, str]) -> None:
    ((fate, paths),) = fates([call(**left)], [call(**right)])
    assert paths == expected
    assert fate == ("same" if set(expected.values()) == {"same"} else "changed")


def test_values_come_with_their_types() -> None:
    (one,) = beside([call(days="3")], [call(days=3)], {})
    assert one["paths"][0]["left"] == {"type": "string", "value": '"3"'}
    assert one["paths"][0]["right"] == {"type": "integer", "value": "3"}
    kinds = [None, True, 1, 1.5, "s", [], {}]
    (one,) = beside([call(**{str(n): kind for n, kind in enumerate(kinds)})], [], {})
    words = ["null", "boolean", "integer", "number", "string", "array", "object"]
    assert [path["left"]["type"] for path in one["paths"]] == words


def test_equal_calls_are_paired_whatever_their_order_then_calls_of_one_name_then_the_rest() -> None:
    left = [call("a", x=1), call("b", x=1), call("c", x=1)]
    right = [call("b", x=2), call("a", x=1), call("d", x=1)]
    told = beside(left, right, {})
    assert [(one["left"], one["right"], one["fate"]) for one in told] == [
        ("b", "b", "changed"),
        ("a", "a", "same"),
        ("c", "d", "changed"),
    ]


def test_equal_calls_are_paired_before_others_of_their_name() -> None:
    told = beside([call(x=1), call(x=2)], [call(x=2), call(x=3)], {})
    assert [(one["fate"], one["paths"][0]["left"]["value"]) for one in told] == [("same", "2"), ("changed", "1")]


def test_calls_that_one_side_does_not_make() -> None:
    assert fates([call(a=1)], []) == [("added", {"a": "added"})]
    assert fates([], [call(a=1)]) == [("missing", {"a": "missing"})]
    assert fates([], []) == []


def test_a_long_free_text_may_be_reworded_and_an_undeclared_one_may_not() -> None:
    left, right = call(note="x" * 80), call(note="y" * 80)
    assert fates([left], [right], book=BOOK) == [("same", {"note": "reworded"})]
    assert fates([left], [right]) == [("changed", {"note": "changed"})]


def test_arguments_that_are_no_json_are_shown_as_they_are() -> None:
    (one,) = beside([ToolCall("book", "{city:")], [call(city="Oslo")], {})
    assert one["fate"] == "changed"
    assert one["paths"][0]["path"] == "(not JSON)"
    assert json.loads(one["paths"][0]["left"]["value"]) == "{city:"


def test_what_is_laid_out_is_bounded() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"k": deep}
    many = {str(n): n for n in range(1_000)}
    told = beside([call(deep=deep, **many)] * 40, [call(long="x" * 100_000)] * 40, {})
    assert len(told) == MAX_CALLS
    assert all(len(one["paths"]) <= MAX_PATHS for one in told)
    assert len(json.dumps(told)) < 500_000


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "b" * 70]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_calls = st.lists(st.builds(lambda n, a: ToolCall(n, json.dumps(a)), st.sampled_from("fg"), _json), max_size=3)


@given(_calls, _calls)
def test_all_is_the_same_just_where_the_scorer_says_so(left: list[ToolCall], right: list[ToolCall]) -> None:
    told = beside(left, right, {})
    ours, theirs = ([read_call(one, None).strict for one in side] for side in (left, right))
    same = sorted(map(repr, ours)) == sorted(map(repr, theirs))
    equal = len(ours) == len(theirs) and all(ours.count(one) == theirs.count(one) for one in ours)
    assert all(one["fate"] == "same" for one in told) == equal
    assert equal or not same
    for one in told:
        if one["fate"] == "same":
            assert {path["fate"] for path in one["paths"]} <= {"same"}
        else:
            assert any(path["fate"] != "same" for path in one["paths"]) or one["left"] != one["right"]
