"""The Dockerfile without a Docker: its commands are the documents' own, and what it says of itself holds."""

from __future__ import annotations

import re
import tomllib

import orjson
import pytest

from proxy.settings import ControlSettings, RelaySettings
from tests.unit.crd_schemas import REPOSITORY
from tests.unit.deploy_files import DEPLOY, ETC, PROGRAM, STATE, container, dockerfile, instruction


def told_to_people() -> set[str]:
    """Every command that the two READMEs tell people to type."""
    found = set()
    for file in (REPOSITORY / "README.md", DEPLOY / "README.md"):
        for block in re.findall(r"```console\n(.*?)```", file.read_text(), re.DOTALL):
            found |= {re.sub(r"\s+# .*", "", line[2:]).strip() for line in block.splitlines() if line.startswith("$ ")}
    return found


RUNS = [rest for word, rest in dockerfile() if word == "RUN"]


@pytest.mark.parametrize("step", RUNS)
def test_a_run_step_is_a_command_of_the_documents(step: str) -> None:
    assert step in told_to_people()


def test_it_installs_by_all_of_the_readmes_steps_in_their_order() -> None:
    text = (REPOSITORY / "README.md").read_text()
    block = next(each for each in re.findall(r"```console\n(.*?)```", text, re.DOTALL) if "/opt/parity" in each)
    install = [line[2:] for line in block.splitlines() if not line.startswith("$ export ")]
    assert len(install) == 3
    assert RUNS[:3] == install
    assert instruction("ENV").split()[0] == "PATH=/opt/parity/bin:$PATH"
    assert "$ export PATH=/opt/parity/bin:$PATH" in block


def test_what_the_steps_read_is_copied_and_not_ignored() -> None:
    before: list[str] = []
    for word, rest in dockerfile():
        if word == "COPY":
            before.append(rest.split()[0])
        if word == "RUN" and rest.endswith("-r requirements.lock"):
            assert "requirements.lock" in before or "." in before
        if word == "RUN" and rest.endswith("--no-build-isolation ."):
            assert "." in before
    ignored = set((REPOSITORY / ".dockerignore").read_text().split())
    assert not ignored & {"pyproject.toml", "README.md", "LICENSE", "requirements.lock", "proxy", "backends", "scorers"}
    assert {".git", ".venv*", "tests"} <= ignored


def test_its_python_is_one_that_the_project_takes_and_both_stages_share_it() -> None:
    bases = [rest.split()[0] for word, rest in dockerfile() if word == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1  # a virtual environment is bound to its interpreter's place
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    version = re.fullmatch(r"python:(3\.\d+)-slim", bases[0])
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]
    assert "parity" in project["scripts"]


def test_it_is_not_root_and_kubernetes_can_see_that() -> None:
    words = [word for word, _ in dockerfile()]
    last_stage = words[len(words) - words[::-1].index("FROM") :]
    assert last_stage.index("USER") < last_stage.index("ENTRYPOINT")
    user = instruction("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a name cannot be told from root without the image's passwd"
    assert f"useradd --uid {user.partition(':')[0]} " in RUNS[-1]


def test_it_listens_where_the_settings_listen_by_default_and_keeps_its_state_in_a_volume() -> None:
    assert instruction("EXPOSE").split() == [str(RelaySettings().port), str(ControlSettings().port)]
    assert instruction("WORKDIR") == instruction("VOLUME") == STATE
    assert f"--home-dir {STATE} " in RUNS[-1]
    assert orjson.loads(instruction("ENTRYPOINT")) == [PROGRAM]
    assert orjson.loads(instruction("CMD")) == ["serve", "--config", f"{ETC}/parity.toml"]


def test_its_health_is_the_pods_liveness() -> None:
    options, _, command = instruction("HEALTHCHECK").partition(" CMD ")
    assert orjson.loads(command) == container()["livenessProbe"]["exec"]["command"]
    within = re.search(r"--timeout=(\d+)s", options)
    assert within
    assert int(within[1]) == container()["livenessProbe"]["timeoutSeconds"]
