"""What lies in deploy/ and in the Dockerfile, read: manifests, the unit, the Dockerfile's steps, a pod's settings."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.unit.crd_schemas import REPOSITORY, documents

DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
TOKENS = {"PARITY_CONTROL_TOKEN": "c", "PARITY_GATE_TOKEN": "g"}
ETC, STATE, PROGRAM = "/etc/parity", "/var/lib/parity", "/opt/parity/bin/parity"


@cache
def compose() -> dict[str, Any]:
    """deploy/compose.yaml, its merge keys resolved, its variables as they stand. Not to be changed."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


@cache
def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) -> what deploy/kubernetes applies, before kustomize adds to it. Not to be changed."""
    listed = documents((KUBERNETES / "kustomization.yaml").read_text())[0]["resources"]
    found = [each for file in listed for each in documents((KUBERNETES / file).read_text())]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pod() -> dict[str, Any]:
    """The pod of deploy/kubernetes."""
    found: dict[str, Any] = manifests()["StatefulSet", "parity"]["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    """Its one container."""
    (found,) = pod()["containers"]
    return dict(found)


def unit() -> dict[str, list[str]]:
    """The unit's keys with their values in order; a key may stand more than once."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / "parity.service").read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's steps: (instruction, the rest), continued lines joined."""
    lines = [line for line in (REPOSITORY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


def instruction(name: str) -> str:
    """The last of that name: the final stage's."""
    return [rest for word, rest in dockerfile() if word == name][-1]


def seconds(duration: str) -> float:
    """Units:  seconds, of a compose or systemd duration such as "60s", "1m" or "60"."""
    match = re.fullmatch(r"(\d+)(s|m|h)?", duration)
    assert match, duration
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, None: 1}[match[2]]


def here(text: str, folder: Path) -> str:
    """Settings for a pod as settings for this machine: each mounted path under `folder`, every one of them made."""
    paths = [mount["mountPath"] for mount in container()["volumeMounts"]]
    for path in paths:
        (folder / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return re.sub(f'"({"|".join(paths)})/', lambda match: f'"{folder}{match[1]}/', text)
