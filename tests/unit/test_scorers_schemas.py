"""Clients' schemas: valid, invalid, or left undecided; never fetched for, never slow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from scorers.schemas import SchemaCache, Validity

UNDECIDED, VALID, INVALID = Validity.UNDECIDED, Validity.VALID, Validity.INVALID


def doubling(depth: int) -> dict[str, Any]:
    """A schema whose check takes 2**depth steps."""
    parts: dict[str, Any] = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": {**parts, f"a{depth}": {}}, "$ref": "#/$defs/a0"}


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
        ({"$ref": "#"}, 1, UNDECIDED),
        ({"type": "string", "multipleOf": 1e-300}, "x", VALID),
        (None, 1, UNDECIDED),
        ("string", 1, UNDECIDED),
    ],
)
def test_validity(schema: Any, value: Any, validity: Validity) -> None:
    verdict = SchemaCache().check(schema, value)
    assert verdict.validity is validity
    assert bool(verdict.errors) is (validity is INVALID)
    assert bool(verdict.notes) is (validity is UNDECIDED)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": "^(a+)+$"}, "a" * 60 + "b"),
        ({"pattern": "^(a|a)*$"}, "a" * 60 + "b"),
        ({"pattern": "a*a*a*a*a*b"}, "a" * 5000),
        ({"pattern": "^" + "a?" * 60 + "a" * 60 + "$"}, "a" * 60),
        ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 60 + "b": 1}),
        ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 60 + "b": 1}),
        ({"properties": {"x": {"patternProperties": {"(a*)*$": {}}}}}, {"x": {"a" * 60 + "b": 1}}),
        ({"patternProperties": {"a+$": {}}}, {"a" * 200_000 + "b": 1}),
        (doubling(60), 1),
    ],
)
def test_schemas_that_mean_harm_are_quick(schema: Any, value: Any) -> None:
    started = time.process_time()
    verdict = SchemaCache().check(schema, value)
    assert time.process_time() - started < 3.0
    assert verdict.notes


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
    assert cache.check(doubling(60), 1).validity is UNDECIDED
    assert cache.check({"pattern": "^(a+)+$"}, "a").notes
    fine = cache.check({"$defs": {"x": {"type": "string"}}, "$ref": "#/$defs/x"}, "a")
    assert (fine.validity, fine.notes) == (VALID, ())
