"""The Argo and Flagger examples: what the API server, the monitor's own settings and each other hold them to."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import app
from proxy.monitor.gate import FLAGGER_HOOKS
from proxy.settings_file import load_settings
from scorers.catalogue import SPECS
from tests.unit.crd_schemas import REPOSITORY, closed, documents, faults

FOLDERS = ("argo", "flagger")
FILES = sorted(file for folder in FOLDERS for file in (REPOSITORY / "deploy" / folder).glob("*.yaml"))
TOKENS = {"PARITY_CONTROL_TOKEN": "c", "PARITY_GATE_TOKEN": "g"}


def the(kind: str, folder: str) -> dict[str, Any]:
    """The one object of a kind among a folder's examples."""
    found = [
        each
        for file in sorted((REPOSITORY / "deploy" / folder).glob("*.yaml"))
        for each in documents(file.read_text())
        if each["kind"] == kind
    ]
    assert len(found) == 1, f"{len(found)} objects of kind {kind} in deploy/{folder}"
    return found[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_api_server_would_take_it(file: Path) -> None:
    manifests = documents(file.read_text())
    assert manifests
    for manifest in manifests:
        assert faults(manifest) == [], f"{manifest['kind']} {manifest['metadata']['name']}"
        assert manifest["metadata"]["namespace"] == "llm"


def _at(node: Any, *path: Any) -> Any:
    for part in path:
        node = node[part]
    return node


@pytest.mark.parametrize(
    ("kind", "folder", "plant", "word"),
    [
        (
            "AnalysisTemplate",
            "argo",
            lambda m: _at(m, "spec", "metrics", 0).update(inconclusivelimit=3),
            "inconclusivelimit",
        ),
        ("AnalysisTemplate", "argo", lambda m: _at(m, "spec", "metrics", 0, "provider", "web").pop("url"), "url"),
        ("AnalysisTemplate", "argo", lambda m: _at(m, "spec", "metrics", 0).update(count=[120]), "count"),
        ("AnalysisTemplate", "argo", lambda m: _at(m, "metadata").update(name="Quant_Parity"), "metadata.name"),
        ("AnalysisTemplate", "argo", lambda m: m.update(apiVersion="argoproj.io/v1"), "v1alpha1"),
        (
            "Rollout",
            "argo",
            lambda m: _at(m, "spec", "strategy", "canary", "steps", 0).update(setweight=5),
            "setweight",
        ),
        ("Rollout", "argo", lambda m: _at(m, "spec", "template", "spec", "containers", 0).update(img="x"), "img"),
        (
            "Rollout",
            "argo",
            lambda m: _at(m, "spec", "template", "spec", "containers", 1, "ports", 1).update(containerPort=8080),
            "8080",
        ),
        (
            "Canary",
            "flagger",
            lambda m: _at(m, "spec", "analysis", "webhooks", 0).update(type="roll-back"),
            "roll-back",
        ),
        ("Canary", "flagger", lambda m: _at(m, "spec", "analysis", "webhooks", 1).update(timeout="soon"), "soon"),
        ("Canary", "flagger", lambda m: _at(m, "spec", "analysis", "webhooks", 1, "metadata").update(n=1), "1 is not"),
        ("Canary", "flagger", lambda m: _at(m, "spec", "analysis").update(treshold=5), "treshold"),
        ("MetricTemplate", "flagger", lambda m: _at(m, "spec", "provider").update(type="prom"), "prom"),
        ("Deployment", "flagger", lambda m: _at(m, "spec", "template", "spec").update(volume=[]), "volume"),
        ("ConfigMap", "flagger", lambda m: m.update(date={}), "date"),
    ],
)
def test_a_planted_mistake_is_found(kind: str, folder: str, plant: Callable[[Any], Any], word: str) -> None:
    manifest = copy.deepcopy(the(kind, folder))
    plant(manifest)
    try:
        found = faults(manifest)
    except AssertionError as unknown:  # of an apiVersion that no CRD serves
        found = [str(unknown)]
    assert any(word in line for line in found), found


def test_a_key_that_stands_twice_is_found() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="twice"):
        documents("spec:\n  count: 1\n  count: 2\n")


def test_a_structural_schema_is_closed_where_the_api_server_prunes() -> None:
    schema = closed(
        {
            "type": "object",
            "properties": {
                "pruned": {"type": "object"},
                "kept": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "named": {"type": "object", "additionalProperties": {"type": "string"}},
                "either": {"x-kubernetes-int-or-string": True},
            },
            "oneOf": [{"required": ["pruned"]}, {"required": ["kept"]}],
        }
    )
    assert schema["additionalProperties"] is False
    assert schema["properties"]["pruned"]["additionalProperties"] is False
    assert "additionalProperties" not in schema["properties"]["kept"]
    assert schema["properties"]["named"]["additionalProperties"] == {"type": "string"}
    assert schema["properties"]["either"]["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert schema["oneOf"] == [{"required": ["pruned"]}, {"required": ["kept"]}]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_settings_in_the_examples_are_ones_that_parity_takes(folder: str, tmp_path: Path) -> None:
    file = tmp_path / "parity.toml"
    file.write_text(the("ConfigMap", folder)["data"]["parity.toml"])
    loaded = load_settings(file, TOKENS, SPECS)
    app.check(loaded)
    assert (loaded.secrets.control_token, loaded.secrets.gate_token) == ("c", "g")
    owner = the("Rollout" if folder == "argo" else "Deployment", folder)
    pod = owner["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > loaded.settings.relay.drain_timeout_s
    proxy = pod["containers"][1]
    ports = {port["name"]: port["containerPort"] for port in proxy["ports"]}
    assert ports == {"http": loaded.settings.relay.port, "control": loaded.settings.control.port}
    assert {each["name"] for each in proxy["env"]} == set(TOKENS)
    assert proxy["readinessProbe"]["httpGet"]["path"] in loaded.settings.relay.allow_paths


def recipe_of(folder: str) -> str:
    settings = tomllib.loads(the("ConfigMap", folder)["data"]["parity.toml"])
    return str(settings["gate"]["recipe"])


def test_argo_asks_the_recipe_that_the_monitor_judges_at_the_service_that_there_is() -> None:
    template, rollout = the("AnalysisTemplate", "argo"), the("Rollout", "argo")
    steps = rollout["spec"]["strategy"]["canary"]["steps"]
    analysis = next(step["analysis"] for step in steps if "analysis" in step)
    assert analysis["templates"] == [{"templateName": template["metadata"]["name"]}]
    assert analysis["args"] == [{"name": "recipe", "value": recipe_of("argo")}]
    open_args = [each["name"] for each in template["spec"]["args"] if not {"value", "valueFrom"} & set(each)]
    assert open_args == ["recipe"]
    service = rollout["spec"]["strategy"]["canary"]["canaryService"]
    assert f"http://{service}.llm.svc:9090" in [each.get("value") for each in template["spec"]["args"]]


def test_flagger_asks_each_hook_at_its_own_path() -> None:
    canary = the("Canary", "flagger")
    hooks = canary["spec"]["analysis"]["webhooks"]
    assert {hook["type"] for hook in hooks} == {"rollback", "rollout", "confirm-promotion"}
    for hook in hooks:
        assert hook["type"] in FLAGGER_HOOKS
        name = canary["spec"]["targetRef"]["name"]
        assert hook["url"] == f"http://gate:GATE_TOKEN@{name}-canary.llm:9090/gate/v1/flagger/{hook['type']}"
        assert hook["metadata"]["recipe"] == recipe_of("flagger")
