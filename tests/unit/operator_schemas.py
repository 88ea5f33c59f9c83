"""ServiceMonitor and PrometheusRule: what our manifests use of the two, written from the operator's API reference.

It is a subset: a field that the operator knows and this does not is refused here, so that a new one is looked up and
added; a rule that the operator's own admission webhook checks (the PromQL of an expression) is promtool's to find.
Where `shared/schemas` holds the operator's own CRDs, the manifests are held to these too.

Source:  prometheus-operator.dev/docs/api-reference/api, monitoring.coreos.com/v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|[smhdwy]))+$"}
_LABEL_NAME = {"type": "string", "pattern": r"^[a-zA-Z_][a-zA-Z0-9_]*$"}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_SECRET_KEY = _object(("key",), name=_TEXT, key=_TEXT, optional={"type": "boolean"})
_ENDPOINT = _object(
    ("port",),
    port=_TEXT,
    path={"type": "string", "pattern": "^/"},
    interval=_DURATION,
    scrapeTimeout=_DURATION,
    honorLabels={"type": "boolean"},
    authorization=_object(type=_TEXT, credentials=_SECRET_KEY),
)
_RULE = _object(
    ("expr",),
    record=_TEXT,
    alert=_TEXT,
    expr={"x-kubernetes-int-or-string": True},
    labels=_TEXTS,
    annotations=_TEXTS,
    keep_firing_for=_DURATION,
    **{"for": _DURATION},
)
_GROUP = _object(
    ("name",), name={"type": "string", "minLength": 1}, interval=_DURATION, rules={"type": "array", "items": _RULE}
)

DOCUMENTED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _object(
        ("spec",),
        spec=_object(
            ("selector", "endpoints"),
            selector=_object(matchLabels=_TEXTS),
            jobLabel=_LABEL_NAME,
            endpoints={"type": "array", "minItems": 1, "items": _ENDPOINT},
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _object(
        ("spec",),
        spec=_object(
            groups={
                "type": "array",
                "items": _GROUP,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            }
        ),
    ),
}
