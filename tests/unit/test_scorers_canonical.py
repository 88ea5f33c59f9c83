"""Canonical forms: what the strict and the loose rule hold equal."""

from __future__ import annotations

import pytest

from scorers.canonical import FREE_TEXT_CHARS, loosened, read_call, word_loss
from scorers.records import ToolCall


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("New York", "new york"),
        ("New-York", "NewYork"),
        ("St. John's", 'st john"s'),
        ("Jan 5, 2024", "jan 5 2024"),
        ("12 Main St.", "12 main st"),
        ("a*b^c_d/e", "abcde"),
    ],
)
def test_loosely_equal(left: str, right: str) -> None:
    assert loosened(left) == loosened(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1.0", "10"),  # BFCL's own rule holds these equal
        ("2024-01-05", "20240105"),
        ("12-34", "1234"),
        ("1/2", "12"),
        ("-5", "5"),
        ("user_1", "user1"),
        ("AB12", "ab12"),
        ("a.b@x.org", "ab@xorg"),
        ("https://a.b/c", "https://ab/c"),
        ("a 1 2", "a 12"),
        ("-", "/"),
        ("Paris", "Rome"),
        ("", "-"),
    ],
)
def test_not_even_loosely_equal(left: str, right: str) -> None:
    assert loosened(left) != loosened(right)


def test_blank_arguments_are_an_empty_object() -> None:
    assert read_call(ToolCall("f", ""), None).strict == read_call(ToolCall("f", "{}"), None).strict
    assert read_call(ToolCall("f", " \n"), None).parsed


def test_what_is_no_json_compares_as_text() -> None:
    one, two = read_call(ToolCall("f", '{"a'), None), read_call(ToolCall("f", '{"a '), None)
    assert not one.parsed
    assert one.strict != two.strict
    assert one.strict == read_call(ToolCall("f", '{"a'), None).strict


@pytest.mark.parametrize("text", ["NaN", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "Infinity"])
def test_values_that_json_does_not_have(text: str) -> None:
    assert not read_call(ToolCall("f", text), None).parsed


def test_tagged_forms_do_not_collide() -> None:
    values = ("true", '"true"', "1", '"1"', "[1]", '{"1":1}', "null", '["bool",true]', '"free text"', '["free text"]')
    texts = ["{}", '{"a":[]}', '{"a":{}}', *(f'{{"a":{value}}}' for value in values)]
    for rule in ("strict", "loose"):
        assert len({getattr(read_call(ToolCall("f", text), None), rule) for text in texts}) == len(texts)


def test_free_text_is_found_through_the_schema() -> None:
    long = "x" * (FREE_TEXT_CHARS + 1)
    schema = {"properties": {"a": {"properties": {"b": {"type": "string"}}}, "c": {"items": {"type": "string"}}}}
    found = read_call(ToolCall("f", f'{{"a":{{"b":"{long}"}},"c":["{long}"],"d":"{long}"}}'), schema)
    assert set(found.free) == {"$.a.b", "$.c[0]"}  # d is not declared: it stays a value
    at_bound = read_call(ToolCall("f", f'{{"a":{{"b":"{long[1:]}"}}}}'), schema)
    assert not at_bound.free


def test_word_loss() -> None:
    assert word_loss("the red fox", "The RED fox") == 0.0
    assert word_loss("a b", "c d") == 1.0
    assert word_loss("a b c d", "a b") == pytest.approx(1 - 4 / 6)
    assert word_loss("?", "!") == 1.0
    assert word_loss("", "") == 0.0
