"""What several deployments say of one thing, they say alike: tags, paths, the user, the engine, the time to drain."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import orjson
import pytest

from proxy import __version__
from proxy.app import DRAIN_MARGIN_S
from proxy.settings import RelaySettings
from proxy.supervisor import Policy
from tests.unit.crd_schemas import REPOSITORY, documents
from tests.unit.deploy_files import (
    DEPLOY,
    ETC,
    KUBERNETES,
    PROGRAM,
    STATE,
    compose,
    container,
    instruction,
    pod,
    seconds,
    unit,
)


def rollout_pods() -> list[dict[str, Any]]:
    """The pods of the Argo and Flagger examples."""
    found = []
    for file in (DEPLOY / "argo" / "rollout.yaml", DEPLOY / "flagger" / "deployment.yaml"):
        owner = next(each for each in documents(file.read_text()) if each["kind"] in ("Rollout", "Deployment"))
        found.append(owner["spec"]["template"]["spec"])
    return found


def test_every_image_of_ours_has_this_versions_tag() -> None:
    text = "".join(
        file.read_text() for file in [REPOSITORY / "Dockerfile", *DEPLOY.rglob("*.yaml"), DEPLOY / "README.md"]
    )
    tags = set(re.findall(r"parity-proxy:([\w.]+)", text))
    (image,) = documents((KUBERNETES / "kustomization.yaml").read_text())[0]["images"]
    assert tags | {image["newTag"]} == {__version__}
    assert compose()["services"]["parity"]["image"] == f"parity-proxy:{__version__}"


def test_every_engine_is_the_version_that_the_tests_run() -> None:
    (tested,) = re.findall(r"^VLLM_VERSION := (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    text = "".join(file.read_text() for file in DEPLOY.rglob("*.yaml"))
    images = re.findall(r"vllm/vllm-openai:(\S+)", text)
    assert len(images) >= 3
    assert set(images) == {f"v{tested}"}


def test_every_image_is_pinned() -> None:
    for name, service in compose()["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name


def test_one_program_one_settings_file_one_folder_for_the_state() -> None:
    config = f"{ETC}/parity.toml"
    assert unit()["ExecStart"] == [f"{PROGRAM} serve --config {config}"]
    assert orjson.loads(instruction("ENTRYPOINT")) + orjson.loads(instruction("CMD")) == unit()["ExecStart"][0].split()
    assert unit()["WorkingDirectory"] == [STATE] == [f"/var/lib/{unit()['StateDirectory'][0]}"]
    targets = {each.split(":")[1] for each in compose()["services"]["parity"]["volumes"]}
    assert targets == {config, STATE}
    assert {ETC, STATE} <= {each["mountPath"] for each in container()["volumeMounts"]}
    for each in rollout_pods():
        mounts = {mount["mountPath"] for mount in each["containers"][1]["volumeMounts"]}
        assert mounts == {ETC, STATE}


def test_one_user() -> None:
    uid, gid = map(int, instruction("USER").split(":"))
    security = pod()["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (uid, gid, gid)
    assert [each["securityContext"]["fsGroup"] for each in rollout_pods()] == [gid, gid]
    assert f"useradd --uid {uid} " in (DEPLOY / "README.md").read_text()
    assert unit()["User"] == unit()["Group"] == ["parity"]


def takes_s(relay: RelaySettings) -> float:
    """What `parity serve` may take to end before it kills what is left. Source: proxy.app, proxy.supervisor."""
    return relay.drain_timeout_s + DRAIN_MARGIN_S + Policy().monitor_timeout_s


@pytest.mark.parametrize("how", ["kubernetes", "compose", "systemd", "argo", "flagger"])
def test_no_running_reply_is_cut_by_who_waits_too_short(how: str) -> None:
    settings = {"kubernetes": KUBERNETES / "parity.toml", "compose": DEPLOY / "compose" / "parity.toml"}
    file = settings.get(how)
    relay = RelaySettings(**({} if file is None else tomllib.loads(file.read_text())["relay"]))
    needs_s = takes_s(relay)
    if how == "kubernetes":
        program, asleep_s = container()["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "/bin/sleep"
        assert pod()["terminationGracePeriodSeconds"] > float(asleep_s) + needs_s
    elif how == "compose":
        assert seconds(compose()["services"]["parity"]["stop_grace_period"]) > needs_s
    elif how == "systemd":
        assert seconds(unit()["TimeoutStopSec"][0]) > needs_s
    else:
        pods = dict(zip(("argo", "flagger"), rollout_pods(), strict=True))
        assert pods[how]["terminationGracePeriodSeconds"] > needs_s
