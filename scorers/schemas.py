"""Clients' JSON Schemas: compiled once per schema, never fetched for, never able to stall or break a scorer.

A schema arrives with a request, so it is untrusted. Draft 2020-12 decides. What cannot be checked in bounded
time by the schema alone (an invalid or huge schema, a reference out of the document, a wild pattern) is left
unchecked and named in a note: the same for every value. A value that runs into a bound is EXHAUSTED, never
valid: one side alone must not be able to switch its own check off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from scorers.patterns import MAX_WAYS, TamePattern, tame
from scorers.records import Json

# Every bound here is a *choice*.
_MAX_SCHEMAS = 256  # compiled validators kept, oldest use dropped first
_MAX_SCHEMA_BYTES = 256 * 1024
_MAX_SCHEMA_PARTS = 2_000  # objects and lists of a schema: the metaschema takes 0.2 ms for each
_MAX_STEPS = 50_000  # keywords of one validation, some us each; honest schemas take some per value
_MAX_DEPTH = 96  # keywords inside keywords, far below the interpreter's own limit
_MAX_ERRORS = 5  # named in an explanation
_PARTS_PER_STEP = 4  # entries of a list or object that a keyword walks in the time of one step
_REFERENCE_STEPS = 8

_REFERENCES = ("$ref", "$dynamicRef")
_UNBOUNDED = ("unevaluatedProperties", "unevaluatedItems")  # these evaluate their neighbours anew, at each level


class Validity(StrEnum):
    VALID = "valid"
    INVALID = "invalid"
    UNDECIDED = "undecided"  # the schema cannot be used, whatever the value; notes say why
    EXHAUSTED = "exhausted"  # the check of this value reached a bound; notes say which


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the schema says of a value. `errors` are paths and keywords, `notes` what was not checked."""

    validity: Validity
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A schema that can be used. `notes`: what is not checked of it. `patterns`: those that may run."""

    validator: Any
    patterns: Mapping[str, TamePattern]
    notes: tuple[str, ...]
    reference_steps: int


@dataclass(slots=True)
class _Spent:
    """What one validation has used so far."""

    schema: _Compiled
    steps: int = 0
    depth: int = 0
    ways: int = 0

    def walk(self, parts: int) -> None:
        self.steps += 1 + parts // _PARTS_PER_STEP
        if self.steps > _MAX_STEPS:
            raise _ExhaustedError("too many steps")

    def finds(self, pattern: TamePattern, text: str) -> bool:
        """Whether the pattern stands in the text."""
        if len(text) > pattern.max_chars:
            raise _ExhaustedError("a text too long for its pattern")
        self.ways += pattern.cost(len(text))
        if self.ways > 2 * MAX_WAYS:
            raise _ExhaustedError("too many texts under patterns")
        return pattern.found_in(text)


class _ExhaustedError(Exception):
    """A bound of one validation was reached; the message names it."""


class SchemaCache:
    """Compiled validators by schema content, bounded. Calls are a pure function of their arguments; the cache
    and the step counter make it one thread's at a time."""

    def __init__(self, max_schemas: int = _MAX_SCHEMAS) -> None:
        self._max_schemas = max_schemas
        self._compiled: dict[bytes, _Compiled | str] = {}
        self._spent: _Spent | None = None
        own = {
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
            "uniqueItems": self._unique_items,
            **dict.fromkeys(_UNBOUNDED, _unchecked),
        }
        keywords = {**Draft202012Validator.VALIDATORS, **own}
        self._validator_class: Any = validators.extend(  # type: ignore[no-untyped-call]
            Draft202012Validator, {name: self._counted(name, check) for name, check in keywords.items()}
        )

    def __len__(self) -> int:
        return len(self._compiled)

    def check(self, schema: Json, value: Json) -> Verdict:
        """Whether `value` is valid under `schema`; UNDECIDED where the schema cannot be used safely, EXHAUSTED where
        it can and this value reached a bound before any error was found."""
        compiled = self._validator(schema)
        if isinstance(compiled, str):
            return Verdict(Validity.UNDECIDED, notes=(compiled,))
        self._spent = _Spent(compiled)
        errors: list[str] = []
        notes = compiled.notes
        validity = Validity.VALID
        try:
            for error in compiled.validator.iter_errors(value):
                errors.append(_place(error))
                if len(errors) >= _MAX_ERRORS:
                    break
        except _ExhaustedError as problem:
            validity, notes = Validity.EXHAUSTED, (*notes, str(problem))
        except Exception as problem:  # noqa: BLE001  numbers beyond float, references to what the metaschema never saw
            validity, notes = Validity.EXHAUSTED, (*notes, f"schema: {type(problem).__name__}")
        return Verdict(Validity.INVALID if errors else validity, tuple(errors), notes)

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
        survey = _Survey()
        try:
            survey.visit(schema)
            if len(key) > _MAX_SCHEMA_BYTES or survey.parts > _MAX_SCHEMA_PARTS:
                return "schema too large"
            Draft202012Validator.check_schema(schema)
        except RecursionError:
            return "schema too deep"
        except (SchemaError, OverflowError):  # OverflowError: a repeat in a pattern beyond what re counts to
            return "schema is no valid JSON Schema"
        if not _all_lead_somewhere(schema, survey.references):
            return "schema: reference out of the document"
        patterns = {pattern: found for pattern in survey.patterns if (found := tame(pattern)) is not None}
        notes = [] if len(patterns) == len(survey.patterns) else ["pattern not checked"]
        notes += [f"{keyword} not checked" for keyword in _UNBOUNDED if f'"{keyword}"'.encode() in key]
        # A reference by anchor or to an embedded id makes the library crawl the whole schema, each time.
        crawls = b'"$id"' in key or b'nchor"' in key
        return _Compiled(
            # An empty registry: jsonschema's own default would fetch remote references.
            validator=self._validator_class(schema, registry=Registry()),
            patterns=patterns,
            notes=tuple(notes),
            reference_steps=max(_REFERENCE_STEPS, survey.parts if crawls else 0),
        )

    @property
    def _now(self) -> _Spent:
        if self._spent is None:
            raise RuntimeError("a keyword outside of a check")
        return self._spent

    def _counted(self, keyword: str, original: Any) -> Any:
        """The keyword's check, which pays for its step first: each level, each entry that it walks."""
        refers = keyword in _REFERENCES

        def check(validator: Any, target: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            spent = self._now
            spent.walk(_size(target) + _size(instance))
            if refers:
                spent.walk(spent.schema.reference_steps * _PARTS_PER_STEP)
            spent.depth += 1
            if spent.depth > _MAX_DEPTH:
                raise _ExhaustedError("too deep")
            try:
                yield from original(validator, target, instance, schema) or ()
            finally:
                spent.depth -= 1

        return check

    def _pattern(self, validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
        found = self._now.schema.patterns.get(pattern)
        if found is not None and isinstance(instance, str) and not self._now.finds(found, instance):
            yield ValidationError("pattern")

    def _pattern_properties(
        self, validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        if not isinstance(instance, dict):
            return
        for pattern, subschema in patterns.items():
            found = self._now.schema.patterns.get(pattern)
            for key, part in instance.items():
                if found is not None and self._now.finds(found, key):
                    yield from validator.descend(part, subschema, path=key, schema_path=pattern)

    def _additional_properties(
        self, validator: Any, subschema: Any, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        """The properties that neither `properties` nor `patternProperties` name; unchecked where a pattern is."""
        if not isinstance(instance, dict):
            return
        patterns = [self._now.schema.patterns.get(pattern) for pattern in schema.get("patternProperties", {})]
        found = [pattern for pattern in patterns if pattern is not None]
        if len(found) < len(patterns):
            return
        named = schema.get("properties", {})
        for key, part in instance.items():
            if key not in named and not any(self._now.finds(pattern, key) for pattern in found):
                if subschema is False:
                    yield ValidationError("additionalProperties")
                else:
                    yield from validator.descend(part, subschema, path=key)

    def _unique_items(self, validator: Any, asked: bool, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not asked or not isinstance(instance, list):
            return
        if {type(item) for item in instance} <= _HASHED:
            unique = len(set(instance)) == len(instance)
        else:
            self._now.walk(len(instance) ** 2)  # the library compares each with each
            unique = not list(_UNIQUE(validator, asked, instance, schema) or ())
        if not unique:
            yield ValidationError("uniqueItems")


_HASHED = {str, int, float, type(None)}  # exact types: true is not 1
_UNIQUE: Any = Draft202012Validator.VALIDATORS["uniqueItems"]


def _unchecked(validator: Any, target: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    return iter(())


@dataclass(slots=True)
class _Survey:
    """What a schema holds: how many objects and lists, every text that may be used as a pattern or a reference."""

    parts: int = 0
    patterns: set[str] = field(default_factory=set)
    references: set[str] = field(default_factory=set)

    def visit(self, schema: Json) -> None:
        if isinstance(schema, dict):
            if isinstance(schema.get("pattern"), str):
                self.patterns.add(schema["pattern"])
            if isinstance(schema.get("patternProperties"), dict):
                self.patterns.update(schema["patternProperties"])
            self.references.update(schema[key] for key in _REFERENCES if isinstance(schema.get(key), str))
        elif not isinstance(schema, list):
            return
        self.parts += 1
        for part in schema.values() if isinstance(schema, dict) else schema:
            self.visit(part)


def _all_lead_somewhere(schema: Json, references: set[str]) -> bool:
    """Whether every reference leads to a schema within the document."""
    if not references:
        return True
    root = DRAFT202012.create_resource(schema)
    uri = root.id() or ""
    try:
        resolver = Registry().with_resource(uri, root).crawl().resolver(uri)
        return all(isinstance(resolver.lookup(reference).contents, (dict, bool)) for reference in references)
    except (Unresolvable, ValueError, TypeError, AttributeError):  # but the first: pointers into texts and numbers
        return False


def _size(value: Json) -> int:
    return len(value) if isinstance(value, (list, dict)) else 0


def _place(error: ValidationError) -> str:
    """Path and keyword; never the value."""
    path = ".".join(str(part) for part in error.absolute_path)
    return f"{path[:120] or '$'}: {error.validator or 'schema'}"
