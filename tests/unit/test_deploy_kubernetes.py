"""deploy/kubernetes: what the API server, the operator, kustomize, our settings and each other ask of the manifests."""

from __future__ import annotations

import copy
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy import app
from proxy.settings_file import Loaded, load_settings
from scorers.catalogue import SPECS
from tests.unit import crd_schemas
from tests.unit.crd_schemas import documents, held_to
from tests.unit.deploy_files import DEPLOY, ETC, KUBERNETES, STATE, TOKENS, container, here, manifests, pod
from tests.unit.operator_schemas import DOCUMENTED

GIB = 2**30
KINDS = ["StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PrometheusRule"]
NAMES = [(kind, "parity") for kind in KINDS] + [("Service", "parity-control")]


def faults(manifest: Mapping[str, Any]) -> list[str]:
    own = DOCUMENTED.get((manifest["apiVersion"], manifest["kind"]))
    return crd_schemas.faults(manifest) if own is None else held_to(manifest, own)


def the(kind: str, name: str = "parity") -> Any:
    return manifests()[kind, name]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_the_api_server_would_take_it(kind: str, name: str) -> None:
    assert faults(the(kind, name)) == []


def test_the_operators_own_definitions_would_take_its_two() -> None:
    for kind in ("ServiceMonitor", "PrometheusRule"):
        try:
            found = crd_schemas.faults(the(kind))
        except AssertionError:
            pytest.skip(f"no CRD of {kind} in shared/schemas; it is held to tests/unit/operator_schemas.py alone")
        assert found == []


def _at(node: Any, *path: Any) -> Any:
    for part in path:
        node = node[part]
    return node


POD = ("spec", "template", "spec")
CONTAINER = (*POD, "containers", 0)
CLAIM = ("spec", "volumeClaimTemplates", 0)
ENDPOINT = ("spec", "endpoints", 0)
RULE = ("spec", "groups", 0, "rules", 0)


@pytest.mark.parametrize(
    ("kind", "plant", "word"),
    [
        ("StatefulSet", lambda m: _at(m, *CONTAINER).update(readinesProbe={}), "readinesProbe"),
        ("StatefulSet", lambda m: _at(m, *CONTAINER, "livenessProbe").update(periodSecond=1), "periodSecond"),
        ("StatefulSet", lambda m: _at(m, *CONTAINER, "securityContext").update(readOnlyRoot=True), "readOnlyRoot"),
        ("StatefulSet", lambda m: _at(m, *POD).update(terminationGracePeriodSeconds="75"), "75"),
        ("StatefulSet", lambda m: _at(m, *CLAIM, "spec").update(accessMode=[]), "accessMode"),
        ("PodDisruptionBudget", lambda m: _at(m, "spec").update(maxUnavailble=1), "maxUnavailble"),
        ("Service", lambda m: _at(m, "spec", "ports", 0).update(targetport=1), "targetport"),
        ("NetworkPolicy", lambda m: _at(m, "spec", "ingress", 1, "from", 0).update(namespace={}), "namespace"),
        ("ServiceMonitor", lambda m: _at(m, *ENDPOINT).update(intervall="15s"), "intervall"),
        ("ServiceMonitor", lambda m: _at(m, *ENDPOINT).update(interval="15 s"), "15 s"),
        ("ServiceMonitor", lambda m: _at(m, *ENDPOINT, "authorization").update(credential={}), "credential"),
        ("ServiceMonitor", lambda m: _at(m, "spec").pop("selector"), "selector"),
        ("PrometheusRule", lambda m: _at(m, *RULE).pop("expr"), "expr"),
        ("PrometheusRule", lambda m: _at(m, *RULE).update(anotations={}), "anotations"),
        ("PrometheusRule", lambda m: _at(m, *RULE, "labels").update(severity=1), "severity"),
        ("PrometheusRule", lambda m: _at(m, "spec", "groups").append(_at(m, "spec", "groups", 0)), "two entries"),
    ],
)
def test_a_planted_mistake_is_found(kind: str, plant: Callable[[Any], Any], word: str) -> None:
    manifest = copy.deepcopy(the(kind))
    plant(manifest)
    found = faults(manifest)
    assert any(word in line for line in found), found


def test_an_api_version_that_is_no_longer_served_is_found() -> None:
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        faults({**the("PodDisruptionBudget"), "apiVersion": "policy/v1beta1"})


def test_kustomize_applies_every_manifest_and_all_its_files_are_there() -> None:
    (kustomization,) = documents((KUBERNETES / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) == {f.name for f in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert sorted(manifests()) == sorted(NAMES)
    (settings,) = kustomization["configMapGenerator"]
    assert settings == {"name": "parity", "files": ["parity.toml"]}
    (volume,) = [each for each in pod()["volumes"] if "configMap" in each]
    assert volume["configMap"]["name"] == settings["name"]
    (image,) = kustomization["images"]
    assert image["name"] == container()["image"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_what_kustomize_renders_the_api_server_would_take() -> None:
    command = ["kubectl", "kustomize", str(KUBERNETES)]
    rendered = documents(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert sorted(each["kind"] for each in rendered) == sorted(["ConfigMap", *(kind for kind, _ in NAMES)])
    for manifest in rendered:
        assert faults(manifest) == [], f"{manifest['kind']} {manifest['metadata']['name']}"
        assert manifest["metadata"]["namespace"] == "llm"
    (settings,) = [each for each in rendered if each["kind"] == "ConfigMap"]
    assert settings["data"] == {"parity.toml": (KUBERNETES / "parity.toml").read_text()}


def loaded(folder: Path) -> Loaded:
    """The ConfigMap's settings, as a pod would read them whose mounted paths lie in `folder`."""
    file = folder / "parity.toml"
    file.write_text(here((KUBERNETES / "parity.toml").read_text(), folder))
    found = load_settings(file, TOKENS, SPECS)
    app.check(found)
    assert app.hints(found) == []
    return found


def test_the_settings_are_ones_that_parity_takes_and_fit_the_pod(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    settings = found.settings
    assert (found.secrets.control_token, found.secrets.gate_token) == ("c", "g")
    assert {each["name"]: each["containerPort"] for each in container()["ports"]} == {
        "http": settings.relay.port,
        "control": settings.control.port,
    }
    assert {each["name"] for each in container()["env"]} == set(TOKENS)
    where = {each["name"]: each for each in container()["volumeMounts"]}
    assert where["settings"] == {"name": "settings", "mountPath": ETC, "readOnly": True}
    assert settings.ledger.path.parent == Path(f"{tmp_path}{where['ledger']['mountPath']}")
    assert settings.feed.socket.parent == Path(f"{tmp_path}{where['run']['mountPath']}")
    assert where["ledger"]["mountPath"] == STATE
    claims = [each["metadata"]["name"] for each in the("StatefulSet")["spec"]["volumeClaimTemplates"]]
    assert sorted(where) == sorted([*claims, *(each["name"] for each in pod()["volumes"])])


def test_memory_and_disk_are_above_the_settings_bounds(tmp_path: Path) -> None:
    settings = loaded(tmp_path).settings
    mirror, feed = settings.mirror, settings.feed
    bounded = settings.relay.workers * (feed.max_queue_bytes + feed.max_capture_bytes) + mirror.max_queue_bytes
    bounded += mirror.concurrency * 3 * mirror.max_reply_bytes
    resources = container()["resources"]
    assert resources["limits"]["memory"] == "2Gi"
    assert bounded + GIB // 2 < 2 * GIB  # half of it for three interpreters and their libraries
    assert "cpu" not in resources["limits"]
    (claim,) = the("StatefulSet")["spec"]["volumeClaimTemplates"]
    storage = claim["spec"]["resources"]["requests"]["storage"]
    assert int(storage.removesuffix("Gi")) * GIB >= 2 * settings.ledger.max_bytes


def test_each_probe_asks_the_relay_and_none_the_monitor(tmp_path: Path) -> None:
    settings = loaded(tmp_path).settings
    alive = container()["livenessProbe"]["exec"]["command"]
    assert f"('127.0.0.1', {settings.relay.port})" in alive[-1]
    assert container()["startupProbe"]["exec"]["command"] == alive
    ready = container()["readinessProbe"]["httpGet"]
    assert ready["port"] == "http"
    assert ready["path"] in settings.relay.allow_paths


def test_no_process_is_root_or_can_become_it_and_the_root_file_system_is_read_only() -> None:
    of_pod, of_container = pod()["securityContext"], container()["securityContext"]
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False


def test_every_selector_finds_the_pods_and_every_named_port_is_theirs() -> None:
    labels = the("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    ports = {each["name"] for each in container()["ports"]}
    assert the("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    for name in ("parity", "parity-control"):
        assert the("Service", name)["spec"]["selector"] == labels
        assert {each["targetPort"] for each in the("Service", name)["spec"]["ports"]} <= ports
    let_in = [port["port"] for rule in the("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert set(let_in) == ports
    assert the("StatefulSet")["spec"]["serviceName"] == "parity-control"
    assert the("Service", "parity-control")["spec"]["clusterIP"] == "None"


def test_prompts_are_read_by_named_namespaces_alone() -> None:
    for rule in the("NetworkPolicy")["spec"]["ingress"]:
        if {"protocol": "TCP", "port": "control"} in rule["ports"]:
            assert all(source["namespaceSelector"]["matchExpressions"] for source in rule["from"])


def test_a_drain_takes_one_pod_at_a_time_and_leaves_one() -> None:
    assert the("PodDisruptionBudget")["spec"]["maxUnavailable"] < the("StatefulSet")["spec"]["replicas"]


def test_the_operator_scrapes_each_monitor_with_the_token_that_it_wants() -> None:
    monitor, service = the("ServiceMonitor"), the("Service", "parity-control")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    assert not wanted.items() <= the("Service")["metadata"]["labels"].items(), "each pod would be scraped twice"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    (token,) = [each for each in container()["env"] if each["name"] == "PARITY_CONTROL_TOKEN"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": token["valueFrom"]["secretKeyRef"]}
    alerts = (DEPLOY / "prometheus" / "rules" / "alerts.yml").read_text()
    (job,) = set(re.findall(r'up\{job=~"([^"]+)"\}', alerts))
    assert re.fullmatch(job, service["metadata"]["name"])  # without a jobLabel the job is the Service's name
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_the_rules_are_those_of_the_prometheus_folder() -> None:
    groups = [
        group
        for file in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    assert len(groups) >= 7
    assert the("PrometheusRule")["spec"]["groups"] == groups, "run: python deploy/kubernetes/make_rules.py"
    written = runpy.run_path(str(KUBERNETES / "make_rules.py"))["manifest"]()
    assert (KUBERNETES / "prometheus-rule.yaml").read_text() == written


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_takes_the_rules_as_they_stand_in_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(the("PrometheusRule")["spec"]))
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yml"], check=False, timeout=60)
    assert done.returncode == 0
