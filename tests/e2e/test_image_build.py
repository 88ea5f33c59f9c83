"""The Dockerfile's build stage without a Docker: its steps, one by one, in a folder with what the image would get.

What no Docker here can show is the base image, and the user that the last stage makes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from proxy import __version__
from tests.unit.crd_schemas import REPOSITORY
from tests.unit.deploy_files import TOKENS, dockerfile


def build_stage() -> list[tuple[str, str]]:
    steps = dockerfile()
    second = [at for at, (word, _) in enumerate(steps) if word == "FROM"][1]
    return steps[:second]


def context(folder: Path) -> None:
    """What is committed or could be, less what .dockerignore names."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    patterns = (REPOSITORY / ".dockerignore").read_text().split()
    ignored = [each.removeprefix("**/").removeprefix("/") for each in patterns]
    for name in filter(None, names.split("\0")):
        if not any(fnmatch(part, each) for part in Path(name).parts for each in ignored):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)


@pytest.mark.timeout(600)
def test_the_steps_of_the_build_stage_make_a_parity_that_takes_the_settings(tmp_path: Path) -> None:
    given, source, installed = tmp_path / "context", tmp_path / "src", tmp_path / "parity"
    context(given)
    source.mkdir()
    ran = 0
    for word, rest in build_stage():
        what = given / rest.split()[0]
        if word == "COPY" and what.is_dir():
            shutil.copytree(what, source, dirs_exist_ok=True)
        elif word == "COPY":
            shutil.copy(what, source)
        elif word == "RUN":
            command = rest.replace("/opt/parity", str(installed))
            done = subprocess.run(command, shell=True, cwd=source, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{rest}\n{done.stderr[-2000:]}"
            ran += 1
    assert ran == 3
    shutil.rmtree(source)  # nothing of it is in the last stage
    parity, environment = installed / "bin/parity", {"PATH": os.environ["PATH"], "COLUMNS": "200", **TOKENS}
    for words, expected in (
        (["--version"], f"parity-proxy {__version__}"),
        (["check-config", str(REPOSITORY / "deploy/compose/parity.toml")], "tool_call_mismatch"),
    ):
        command = [parity, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
