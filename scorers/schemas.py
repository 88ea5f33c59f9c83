"""Clients' JSON Schemas: compiled once per schema, never fetched for, never able to stall or break a scorer.

A schema arrives with a request, so it is untrusted. Draft 2020-12 decides; what cannot be decided safely is
left undecided and named in a note: an invalid schema, a reference out of the document, a pattern that could
backtrack for ever, more references than the step bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from scorers.records import Json

# Every bound here is a *choice*.
_MAX_SCHEMAS = 256  # compiled validators kept, oldest use dropped first
_MAX_SCHEMA_BYTES = 256 * 1024
_MAX_REFERENCES = 5_000  # $ref steps in one validation: a few per value in honest schemas
_MAX_ERRORS = 5  # named in an explanation
_MAX_PATTERN_KEY_CHARS = 1_000
_MAX_PATTERN_WORK = 10_000_000  # characters ** quantifiers: below a second of re's time at its worst

_GROUP_QUANTIFIED = re.compile(r"\)[*+?{]")
_QUANTIFIER = re.compile(r"(?<!\\)(?<!\()(?:[*+?]|\{\d*,\d*\})")


class Validity(StrEnum):
    VALID = "valid"
    INVALID = "invalid"
    UNDECIDED = "undecided"  # the schema cannot be used; notes say why


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the schema says of a value. `errors` are paths and keywords, `notes` what was not checked."""

    validity: Validity
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Compiled:
    compiled: Any
    by_key_pattern: bool


class _TooManyReferencesError(Exception):
    """The step bound of one validation was reached."""


class SchemaCache:
    """Compiled validators by schema content, bounded. Calls are a pure function of their arguments; the cache
    and the step counter make it one thread's at a time."""

    def __init__(self, max_schemas: int = _MAX_SCHEMAS) -> None:
        self._max_schemas = max_schemas
        self._compiled: dict[bytes, _Compiled | str] = {}
        self._references = 0
        self._skipped: set[str] = set()
        self._validator_class: Any = validators.extend(  # type: ignore[no-untyped-call]
            Draft202012Validator,
            {
                "$ref": self._counted("$ref"),
                "$dynamicRef": self._counted("$dynamicRef"),
                "pattern": self._pattern,
            },
        )

    def __len__(self) -> int:
        return len(self._compiled)

    def check(self, schema: Json, value: Json) -> Verdict:
        """Whether `value` is valid under `schema`; UNDECIDED where the schema cannot be used safely."""
        validator = self._validator(schema)
        if isinstance(validator, str):
            return Verdict(Validity.UNDECIDED, notes=(validator,))
        self._references = 0
        self._skipped = set()
        errors: list[str] = []
        try:
            if validator.by_key_pattern and _longest_key(value) > _MAX_PATTERN_KEY_CHARS:
                return Verdict(Validity.UNDECIDED, notes=("a key too long for patternProperties",))
            for error in validator.compiled.iter_errors(value):
                errors.append(_place(error))
                if len(errors) >= _MAX_ERRORS:
                    break
        except (Unresolvable, _TooManyReferencesError, RecursionError, re.error, ValueError, OverflowError) as problem:
            # ValueError and OverflowError: multipleOf and length keywords on numbers beyond float.
            return Verdict(Validity.UNDECIDED, notes=(_problem(problem),))
        notes = tuple(sorted(self._skipped))
        return Verdict(Validity.INVALID if errors else Validity.VALID, tuple(errors), notes)

    def _validator(self, schema: Json) -> _Compiled | str:
        """The compiled validator, or the note that says why there is none."""
        try:
            key = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
        except (orjson.JSONEncodeError, RecursionError):
            return "schema too deep"
        if key in self._compiled:
            self._compiled[key] = compiled = self._compiled.pop(key)
            return compiled
        compiled = self._compile(schema, key)
        self._compiled[key] = compiled
        if len(self._compiled) > self._max_schemas:
            del self._compiled[next(iter(self._compiled))]
        return compiled

    def _compile(self, schema: Json, key: bytes) -> _Compiled | str:
        if not isinstance(schema, (dict, bool)):
            return "schema is no JSON Schema"
        if len(key) > _MAX_SCHEMA_BYTES:
            return "schema too large"
        try:
            Draft202012Validator.check_schema(schema)
            keyed = list(_key_patterns(schema))
        except (SchemaError, RecursionError, re.error):
            return "schema is no valid JSON Schema"
        if not all(_is_tame(pattern, _MAX_PATTERN_KEY_CHARS) for pattern in keyed):
            return "patternProperties cannot be checked in bounded time"
        # An empty registry: jsonschema's own default would fetch remote references.
        return _Compiled(self._validator_class(schema, registry=Registry()), bool(keyed))

    def _counted(self, keyword: str) -> Any:
        original = Draft202012Validator.VALIDATORS[keyword]

        def check(validator: Any, target: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            self._references += 1
            if self._references > _MAX_REFERENCES:
                raise _TooManyReferencesError
            yield from original(validator, target, instance, schema) or ()

        return check

    def _pattern(self, validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not isinstance(instance, str):
            return
        if not _is_tame(pattern, len(instance)):
            self._skipped.add("pattern not checked")
        elif not re.search(pattern, instance):
            yield ValidationError("pattern")


def _key_patterns(schema: Json) -> Iterator[str]:
    """Every pattern under a `patternProperties`, which several keywords of jsonschema search."""
    if isinstance(schema, dict):
        patterns = schema.get("patternProperties")
        if isinstance(patterns, dict):
            yield from patterns
        for part in schema.values():
            yield from _key_patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _key_patterns(part)


def _longest_key(value: Json) -> int:
    if isinstance(value, dict):
        return max((max(len(key), _longest_key(part)) for key, part in value.items()), default=0)
    if isinstance(value, list):
        return max(map(_longest_key, value), default=0)
    return 0


def _is_tame(pattern: str, length: int) -> bool:
    """Whether re can search the pattern in bounded time: no quantified group (nested repeats, repeated
    alternatives), and few enough quantifiers for the length."""
    if _GROUP_QUANTIFIED.search(pattern):
        return False
    quantifiers = len(_QUANTIFIER.findall(pattern))
    return float(max(length, 2)) ** min(quantifiers + 1, 64) <= _MAX_PATTERN_WORK


def _place(error: ValidationError) -> str:
    """Path and keyword; never the value."""
    path = ".".join(str(part) for part in error.absolute_path)
    return f"{path[:120] or '$'}: {error.validator or 'schema'}"


def _problem(problem: Exception) -> str:
    if isinstance(problem, _TooManyReferencesError):
        return "schema: too many references"
    if isinstance(problem, Unresolvable):
        return "schema: reference out of the document"
    return f"schema: {type(problem).__name__}"
