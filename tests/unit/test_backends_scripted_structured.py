"""Answers to a schema satisfy it."""

from __future__ import annotations

import random
from typing import Any

import jsonschema
import pytest

from backends.scripted.structured import instance


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 6}}, "required": ["a"]},
        {"type": "array", "items": {"type": "string", "minLength": 9, "maxLength": 12}, "minItems": 2, "maxItems": 2},
        {"enum": ["x", 3]},
        {"const": {"k": 1}},
        {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        {"type": ["null", "number"], "exclusiveMinimum": 0, "maximum": 1},
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}}},
        {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6},
    ],
)
def test_structured_answers_satisfy_their_schema(schema: dict[str, Any]) -> None:
    for seed in range(20):
        jsonschema.validate(instance(schema, ["birds", "trees"], random.Random(seed)), schema)
