"""deploy/compose.yaml: the specification's schema, our settings, Prometheus' own check, and the two engines alike."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import app
from proxy.settings_file import Loaded, load_settings
from scorers.catalogue import SPECS
from tests.unit.crd_schemas import REPOSITORY
from tests.unit.deploy_files import DEPLOY, ETC, STATE, TOKENS, compose

SERVICES = ("candidate", "reference", "parity", "prometheus", "grafana")


def devices(composed: dict[str, Any], arm: str) -> list[Any]:
    found: list[Any] = composed["services"][arm]["deploy"]["resources"]["reservations"]["devices"]
    return found


def against_the_specification(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_specification_takes_it() -> None:
    done = against_the_specification(DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout
    assert tuple(compose()["services"]) == SERVICES


@pytest.mark.parametrize(
    ("plant", "word"),
    [
        (lambda c: c["services"]["parity"].update(imagee="x"), "imagee"),
        (lambda c: c["services"]["candidate"]["healthcheck"].update(intervall="1s"), "intervall"),
        (lambda c: c["services"]["candidate"]["deploy"]["resources"].update(reservation={}), "reservation"),
        (lambda c: devices(c, "reference")[0].pop("capabilities"), "capabilities"),
        (lambda c: c["services"]["prometheus"].update(restart=True), "restart"),
        (lambda c: c.update(volume={}), "volume"),
    ],
)
def test_a_planted_mistake_is_found(plant: Callable[[Any], Any], word: str, tmp_path: Path) -> None:
    mistaken = copy.deepcopy(compose())
    plant(mistaken)
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(mistaken))
    done = against_the_specification(tmp_path / "compose.yaml")
    assert done.returncode == 1
    assert word in done.stdout


def mounts(service: str) -> dict[str, str]:
    """What a service has mounted: the path in the container -> the source."""
    found = {}
    for each in compose()["services"][service]["volumes"]:
        source, target, *_ = each.split(":")
        found[target] = source
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_is_there(service: str) -> None:
    for source in mounts(service).values():
        if not source.startswith("./"):
            assert source in compose()["volumes"]
        elif not source.startswith("./grafana/") or (DEPLOY / "grafana").exists():
            assert (DEPLOY / source).exists(), source


def settings() -> Loaded:
    loaded = load_settings(DEPLOY / mounts("parity")[f"{ETC}/parity.toml"], TOKENS, SPECS)
    app.check(loaded)
    return loaded


def test_the_settings_are_ones_that_parity_takes_and_fit_the_services() -> None:
    loaded = settings()
    relay, control = loaded.settings.relay, loaded.settings.control
    service = compose()["services"]["parity"]
    assert service["ports"] == [f"{relay.port}:{relay.port}", f"127.0.0.1:{control.port}:{control.port}"]
    assert set(service["environment"]) == set(TOKENS)
    assert (loaded.secrets.control_token, loaded.secrets.gate_token) == ("c", "g")
    assert (relay.host, control.host) == ("0.0.0.0", "0.0.0.0")
    assert mounts("parity")[STATE] == "ledger"
    assert loaded.settings.ledger.path.parent == loaded.settings.feed.socket.parent == Path()  # the image's WORKDIR
    for arm in ("candidate", "reference"):
        port = next(word for word in compose()["services"][arm]["command"] if word.startswith("--port="))
        number = port.removeprefix("--port=")
        assert getattr(loaded.settings, arm).url == f"http://{arm}:{number}"
        assert f"127.0.0.1:{number}/health" in compose()["services"][arm]["healthcheck"]["test"][3]


def flags(arm: str) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in compose()["services"][arm]["command"][1:])


def test_the_engines_differ_by_the_recipe_alone() -> None:
    candidate, reference = flags("candidate"), flags("reference")
    differing = {name for name in candidate | reference if candidate.get(name) != reference.get(name)}
    assert differing == {"--dtype", "--kv-cache-dtype"}
    assert (reference["--dtype"], reference["--kv-cache-dtype"]) == ("bfloat16", "auto")
    assert int(candidate["--max-logprobs"]) >= settings().settings.mirror.top_logprobs
    two = [compose()["services"][arm] for arm in ("candidate", "reference")]
    assert two[0].keys() == two[1].keys()
    assert {key for key in two[0] if two[0][key] != two[1][key]} == {"command", "deploy"}
    assert devices(compose(), "candidate") != devices(compose(), "reference"), "one GPU for both"


def test_prometheus_scrapes_the_control_port_with_its_token_and_else_as_without_compose() -> None:
    config = yaml.safe_load((DEPLOY / mounts("prometheus")["/etc/prometheus/prometheus.yml"]).read_text())
    alone = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    ours, engines = config.pop("scrape_configs")
    (one,) = alone.pop("scrape_configs")
    assert config == alone
    assert ours["static_configs"] == [{"targets": [f"parity:{settings().settings.control.port}"]}]
    assert ours["job_name"] == one["job_name"]
    assert "parity" not in engines["job_name"]  # ParityMonitorAbsent takes such a job's targets for monitors
    (secret,) = compose()["services"]["prometheus"]["secrets"]
    assert ours["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert compose()["secrets"][secret] == {"environment": settings().settings.control.token_env}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_would_start_on_what_is_mounted(tmp_path: Path) -> None:
    for target, source in mounts("prometheus").items():
        if target.startswith("/etc/prometheus/"):
            copy_of = shutil.copytree if (DEPLOY / source).is_dir() else shutil.copy
            copy_of(DEPLOY / source, tmp_path / target.removeprefix("/etc/prometheus/"))
    command = ["promtool", "check", "config", "--syntax-only", "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rules = subprocess.run(["promtool", "check", "rules", *tmp_path.glob("rules/*.yml")], check=False, timeout=60)
    assert rules.returncode == 0


def test_only_clients_come_in_from_beyond_this_machine() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == ["8080:8080"]


def test_the_proxy_holds_no_more_rights_than_it_needs() -> None:
    service = compose()["services"]["parity"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert (DEPLOY / service["build"]).resolve() == REPOSITORY
