"""Clients' schemas: valid, invalid, or left undecided; never fetched for, never slow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from scorers.schemas import SchemaCache, Validity

UNDECIDED, VALID, INVALID, EXHAUSTED = Validity.UNDECIDED, Validity.VALID, Validity.INVALID, Validity.EXHAUSTED


def doubling(depth: int) -> dict[str, Any]:
    """A schema whose check takes 2**depth steps."""
    parts: dict[str, Any] = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**parts, f"a{depth}": {}}, "$ref": "#/$defs/a0"}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("schema", "value", "validity"),
    [
        ({"type": "object", "required": ["a"]}, {"a": 1}, VALID),
        ({"type": "object", "required": ["a"]}, {}, INVALID),
        ({"type": "number"}, 3, VALID),
        ({"type": "integer"}, 3.0, VALID),
        ({"type": "integer"}, True, INVALID),
        ({"$defs": {"x": {"type": "string"}}, "$ref": "#/$defs/x"}, "a", VALID),
        ({"pattern": r"^\d{4}-\d{2}$"}, "2024-1x", INVALID),
        ({"pattern": r"^[\w.+-]+@[\w-]+\.[\w.]+$"}, "a@b.cd", VALID),
        ({"patternProperties": {"^a": {"type": "integer"}}}, {"a1": "x"}, INVALID),
        (True, 1, VALID),
        (False, 1, INVALID),
        ({"type": "dict"}, 1, UNDECIDED),
        ({"type": "object", "properties": []}, {}, UNDECIDED),
        ({"pattern": "["}, "x", UNDECIDED),
        ({"$ref": "http://127.0.0.1:9/x.json"}, 1, UNDECIDED),
        ({"$ref": "file:///etc/hostname"}, 1, UNDECIDED),
        ({"$ref": "#/nowhere"}, 1, UNDECIDED),
        ({"$ref": "#"}, 1, EXHAUSTED),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, {}, UNDECIDED),
        ({"properties": {"a": {"$ref": "#/required"}}, "required": ["b"]}, {"b": 1}, UNDECIDED),
        ({"title": "t", "items": {"$ref": "#/title/x"}}, [1], UNDECIDED),
        ({"default": {"type": "nonsense"}, "items": {"$ref": "#/default"}}, [1], EXHAUSTED),
        ({"$defs": {"x": {"$anchor": "here", "type": "string"}}, "items": {"$ref": "#here"}}, [1], INVALID),
        ({"$id": "http://x.test/y", "$defs": {"x": {"type": "string"}}, "items": {"$ref": "#/$defs/x"}}, ["a"], VALID),
        ({"pattern": "a{99999999999999999999}"}, "x", UNDECIDED),
        ({"uniqueItems": True}, [1, True, 1.5, None, "1", {"a": 1}, [1]], VALID),
        ({"uniqueItems": True}, [1, 2, 1.0], INVALID),
        ({"uniqueItems": True}, ["a", "b", "a"], INVALID),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1.0}], INVALID),
        ({"uniqueItems": False}, [1, 1], VALID),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"a": 1, "b": 2}, INVALID),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, {"a": 1, "b": "2"}, VALID),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, {"a": 1, "b": 2}, INVALID),
        ({"patternProperties": {"^a": {}}, "additionalProperties": False}, {"a1": 1}, VALID),
        ({"patternProperties": {"^a": {}}, "additionalProperties": False}, {"b1": 1}, INVALID),
        ({"type": "string", "multipleOf": 1e-300}, "x", VALID),
        (None, 1, UNDECIDED),
        ("string", 1, UNDECIDED),
    ],
)
def test_validity(schema: Any, value: Any, validity: Validity) -> None:
    verdict = SchemaCache().check(schema, value)
    assert verdict.validity is validity
    assert bool(verdict.errors) is (validity is INVALID)
    assert bool(verdict.notes) is (validity in (UNDECIDED, EXHAUSTED))


EMAIL = r"^[\w.+-]+@[\w-]+\.[\w.]+$"


@pytest.mark.parametrize(
    ("schema", "value", "validity"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 60 + "b", VALID),
        ({"pattern": "(?x)^(a+) +$"}, "a" * 60 + "b", VALID),
        ({"pattern": "^" + r"\\+" * 8 + "x$"}, "\\" * 200, VALID),
        ({"pattern": "^" + "(?:a|aa)" * 26 + "$"}, "a" * 60, VALID),
        ({"pattern": "^(a|a)*$"}, "a" * 60 + "b", VALID),
        ({"pattern": "a*a*a*a*a*a*b"}, "a" * 5000, VALID),
        ({"pattern": "^" + "a?" * 60 + "a" * 60 + "$"}, "a" * 60, VALID),
        ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 60 + "b": 1}, VALID),
        ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 60 + "b": 1}, VALID),
        ({"properties": {"x": {"patternProperties": {"(a*)*$": {}}}}}, {"x": {"a" * 60 + "b": 1}}, VALID),
        ({"patternProperties": {"a+$": {}}}, {"a" * 200_000 + "b": 1}, EXHAUSTED),
        ({"items": {"pattern": "a*a*b"}}, ["a" * 200 + "b"] * 5_000, EXHAUSTED),
        ({"propertyNames": {"pattern": EMAIL}}, {"a" * 5_000: 1}, EXHAUSTED),
        (doubling(60), 1, EXHAUSTED),
        (doubling(20), 1, EXHAUSTED),
        ({"items": {"allOf": [{"type": "string"}] * 500}}, ["x"] * 2_000, EXHAUSTED),
        ({"items": {"allOf": [{}] * 1_500}}, ["x"] * 2_000, EXHAUSTED),
        ({"items": {}}, [1] * 1_000_000, EXHAUSTED),
        ({"items": {"enum": [[i] for i in range(1_500)]}}, [[1499]] * 100_000, EXHAUSTED),
        ({"items": {"required": [f"k{i}" for i in range(1_500)]}}, [{}] * 100_000, INVALID),
        ({"items": {"properties": {f"k{i}": True for i in range(1_500)}}}, [{}] * 100_000, EXHAUSTED),
        ({"uniqueItems": True}, [{"a": i} for i in range(10_000)], EXHAUSTED),
        ({"allOf": [{}] * 80_000}, 1, UNDECIDED),
        (
            {"$defs": {f"p{i}": {"$anchor": f"a{i}"} for i in range(900)}, "items": {"$ref": "#a899"}},
            [1] * 999,
            EXHAUSTED,
        ),
        (
            {"allOf": [{"allOf": [{"unevaluatedProperties": False}] * 40}] * 40, "unevaluatedProperties": False},
            {},
            VALID,
        ),
    ],
)
def test_schemas_that_mean_harm_are_quick(schema: Any, value: Any, validity: Validity) -> None:
    """What is left unchecked is named, and whether it is does not depend on the value."""
    started = time.process_time()
    verdict = SchemaCache().check(schema, value)
    assert time.process_time() - started < 2.0
    assert verdict.validity is validity
    assert bool(verdict.notes) is (validity is not INVALID)


@pytest.mark.parametrize(
    ("schema", "honest", "long"),
    [
        ({"pattern": EMAIL}, "a@b.cd", "a" * 10_000 + "@b.cd"),
        ({"patternProperties": {"^a+$": {"type": "integer"}}}, {"aa": 1}, {"a" * 200_001: "x"}),
        ({"type": "array", "items": {"type": "integer"}}, [1], [1] * 100_000),
        ({"$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}, [[]], nested(400)),
    ],
)
def test_a_value_cannot_switch_its_own_check_off(schema: Any, honest: Any, long: Any) -> None:
    assert SchemaCache().check(schema, honest).validity is VALID
    assert SchemaCache().check(schema, long).validity is EXHAUSTED


def test_a_wild_pattern_leaves_the_rest_of_the_schema_checked() -> None:
    schema = {"properties": {"a": {"pattern": "^(a+)+$"}, "b": {"type": "integer"}}}
    for value, validity in (({"a": "x", "b": 1}, VALID), ({"a": "x", "b": "1"}, INVALID), ({"b": 1}, VALID)):
        verdict = SchemaCache().check(schema, value)
        assert (verdict.validity, verdict.notes) == (validity, ("pattern not checked",))


def test_a_reference_out_of_the_document_is_never_fetched(tmp_path: Path) -> None:
    """A file stands for the network here: the library would read either."""
    outside = tmp_path / "schema.json"
    outside.write_text('{"type": "string"}')
    verdict = SchemaCache().check({"$ref": outside.as_uri()}, 1)
    assert verdict.validity is UNDECIDED


def test_errors_name_places_and_no_values() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}, "b": {"pattern": "^z"}}}
    verdict = SchemaCache().check(schema, {"a": "secret", "b": "secret"})
    assert set(verdict.errors) == {"a: enum", "b: pattern"}


def test_errors_are_bounded() -> None:
    schema = {"items": {"type": "string"}}
    assert len(SchemaCache().check(schema, list(range(1000))).errors) == 5


def test_the_cache_is_bounded_and_keeps_what_is_used() -> None:
    cache = SchemaCache(max_schemas=3)
    for i in range(10):
        cache.check({"const": 0}, 0)
        cache.check({"const": i}, i)
        assert len(cache) <= 3
    assert cache.check({"const": 0}, 1).validity is INVALID


def test_a_check_leaves_nothing_behind_for_the_next() -> None:
    cache = SchemaCache()
    assert cache.check(doubling(60), 1).validity is EXHAUSTED
    assert cache.check({"pattern": "^(a+)+$"}, "a").notes
    fine = cache.check({"$defs": {"x": {"type": "string"}}, "$ref": "#/$defs/x"}, "a")
    assert (fine.validity, fine.notes) == (VALID, ())


LEAVES = st.sampled_from(["a", "ab", "b1", "1", "", "x" * 5, 0, 1, 1.0, 2.5, True, False, None])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "b1"]), inner, max_size=3),
    max_leaves=6,
)
PATTERNS = st.sampled_from(["^a", "b$", r"^\w+$", r"^(a|b)\d?$", r"\d"])


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    by_name = st.dictionaries(st.sampled_from(["a", "b", "b1"]), inner, max_size=2)
    several = st.lists(inner, min_size=1, max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"]),
            "properties": by_name,
            "required": st.lists(st.sampled_from(["a", "b"]), unique=True, max_size=2),
            "additionalProperties": inner,
            "patternProperties": st.dictionaries(PATTERNS, inner, max_size=2),
            "pattern": PATTERNS,
            "items": inner,
            "prefixItems": several,
            "uniqueItems": st.booleans(),
            "contains": inner,
            "enum": st.lists(LEAVES, min_size=1, max_size=3),
            "allOf": several,
            "anyOf": several,
            "oneOf": several,
            "not": inner,
            "propertyNames": inner,
            "minLength": st.integers(0, 3),
        },
    )


SCHEMAS: st.SearchStrategy[Any] = st.recursive(st.booleans() | st.just({}), keywords, max_leaves=6)


@settings(max_examples=400, deadline=None)
@given(SCHEMAS, VALUES)
def test_within_the_bounds_the_library_decides(schema: Any, value: Any) -> None:
    """Our own keywords mean what the library's mean."""
    verdict = SchemaCache().check(schema, value)
    assert verdict.notes == ()
    assert (verdict.validity is VALID) is Draft202012Validator(schema).is_valid(value)
