"""Kubernetes manifests against the schemas that an API server holds them to, as strictly as it can be asked to be.

A CRD's structural schema becomes a JSON Schema in which a field that the schema does not know is an error, as it is
to `kubectl apply --validate=strict`; without that the API server drops it in silence. Plain objects go to the schemas
that the package kubernetes-validate carries.

The CRDs lie in `shared/schemas` beside the checkout, or above it; they are the projects' own, so none is kept here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES = "1.33"

_OWN = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "maxLength": 253, "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"},
        "namespace": {"type": "string", "maxLength": 63, "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_JUNCTORS = ("allOf", "anyOf", "oneOf")
_INT_RANGES = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, as it is to the API server."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f'the key "{key}" stands twice', node.start_mark)
        return super().construct_mapping(node, deep)


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.load_all(text, StrictLoader) if document is not None]


def schema_folder() -> Path:
    """`shared/schemas` beside the checkout or further up; without it the test is skipped, and says so."""
    for folder in REPOSITORY.parents:
        if (folder / "shared" / "schemas" / "README.md").is_file():
            return folder / "shared" / "schemas"
    pytest.skip("no shared/schemas beside the checkout or above it: the CRD schemas are not part of the repository")


def faults(manifest: Mapping[str, Any]) -> list[str]:
    """What the API server would hold against a manifest, one line each; empty when nothing."""
    group = str(manifest["apiVersion"]).partition("/")[0]
    if "." not in group or group.endswith(".k8s.io"):
        try:
            kubernetes_validate.validate(dict(manifest), KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [_told(error)]
        return []
    key = (str(manifest["apiVersion"]), str(manifest["kind"]))
    definitions = _definitions()
    assert key in definitions, f"no CRD for {' '.join(key)}; there are {sorted(definitions)}"
    return held_to(manifest, definitions[key])


def held_to(manifest: Mapping[str, Any], structural: Mapping[str, Any]) -> list[str]:
    """What a custom resource's structural schema has against a manifest, one line each."""
    schema = closed(structural)
    own = {name: {"const": manifest[name]} for name in ("apiVersion", "kind")}
    schema["properties"] = {**schema["properties"], **own, "metadata": _OWN}
    schema["required"] = sorted({*schema.get("required", ()), *own, "metadata"})
    return [_told(error) for error in _Validator(schema).iter_errors(manifest)]


def _told(error: Any) -> str:
    return f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"


@cache
def _definitions() -> dict[tuple[str, str], Mapping[str, Any]]:
    """(apiVersion, kind) -> the structural schema, of every served version of every CRD there is."""
    found = {}
    for file in sorted(schema_folder().rglob("*.yaml")):
        for crd in yaml.safe_load_all(file.read_text()):
            spec = crd["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = version["schema"]["openAPIV3Schema"]
    return found


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A structural schema as JSON Schema, unknown fields refused. Junctors only judge values, and stay open."""
    result = dict(schema)
    for name in ("properties",):
        if name in schema:
            result[name] = {key: closed(value) for key, value in schema[name].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            result[name] = closed(schema[name])
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if (
        schema.get("type") == "object"
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        result["additionalProperties"] = False
    if schema.get("nullable"):
        result["type"] = [schema["type"], "null"]
    if schema.get("format") in _INT_RANGES:
        low, high = _INT_RANGES[schema["format"]]
        result["minimum"], result["maximum"] = (
            max(low, schema.get("minimum", low)),
            min(high, schema.get("maximum", high)),
        )
    if schema.get("x-kubernetes-list-type") == "set":
        result["uniqueItems"] = True
    result.pop("default", None)
    return result


def _map_keys(_: Any, keys: list[str], items: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    """A list that is a map holds each key once; a key that is left out has its default."""
    defaults = {key: schema["items"]["properties"][key].get("default") for key in keys}
    seen = [tuple(item.get(key, defaults[key]) for key in keys) for item in items]
    for one in sorted({str(key) for key in seen if seen.count(key) > 1}):
        yield ValidationError(f"two entries have the key {one}")


def _rules(_: Any, rules: list[Mapping[str, str]], __: Any, ___: Any) -> Iterator[ValidationError]:
    """CEL cannot be run here. A rule on the change of an object says nothing of a new one."""
    for rule in rules:
        if "oldSelf" not in rule["rule"]:
            yield ValidationError(f"a rule applies that this check cannot run: {rule['rule']}")


_Validator = extend(Draft202012Validator, {"x-kubernetes-list-map-keys": _map_keys, "x-kubernetes-validations": _rules})
