"""What the runbook tells somebody at night to type, read and set is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel
from typer.testing import CliRunner

from proxy.cli import cli
from proxy.monitor.control import create_control_app
from proxy.settings import Settings
from tests.unit.monitor_samples import FixedView
from tests.unit.real_exposition import series, state

RUNBOOK = (Path(__file__).resolve().parents[2] / "docs" / "runbook.md").read_text()
COMMANDS = re.findall(r"^\$ (.+)$", RUNBOOK, re.MULTILINE)


def test_every_address_on_the_control_port_is_served() -> None:
    control = create_control_app(FixedView(), cast(Any, None), cast(Any, None), None, "r")
    served = {re.sub(r"\{act\}", "(pause|resume)", getattr(route, "path", "")) for route in control.routes}
    asked = set(re.findall(r"127\.0\.0\.1:9090(/[\w/]+)", RUNBOOK))
    assert asked >= {"/gate", "/state", "/pairs", "/metrics", "/mirror/pause", "/gate/reset"}
    for path in asked:
        assert any(re.fullmatch(route, path) for route in served), path


def test_every_parity_command_exists_with_its_options() -> None:
    told = {command for command in COMMANDS if command.startswith("parity ")}
    assert told
    for command in told:
        _, name, *arguments = command.split()
        shown = CliRunner().invoke(cli, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
        assert shown.exit_code == 0, command
        for option in (argument for argument in arguments if argument.startswith("--")):
            assert option in shown.output, command


def test_every_setting_exists() -> None:
    fields = {
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    }
    told = set(re.findall(r"`((?:relay|sampling|feed|mirror|ledger|control|gate)\.\w+)", RUNBOOK))
    assert len(told) > 10
    assert told <= fields, told - fields


def test_every_metric_that_a_command_looks_for_exists() -> None:
    real = "\n".join(f"{name}{{" + ",".join(f'{k}="{v}"' for k, v in sorted(labels)) for name, labels in series("full"))
    patterns = [found for command in COMMANDS for found in re.findall(r"grep (?:-E )?'(\^parity_[^']*)'", command)]
    assert len(patterns) > 5
    for pattern in patterns:
        assert re.search(pattern.replace("{", r"\{"), real, re.MULTILINE), pattern


def test_every_field_that_jq_picks_is_in_the_answer() -> None:
    answers = {"state": set(state("full")), "gate": set(FixedView().verdict().as_dict())}
    for command in COMMANDS:
        found = re.search(r"9090/(state|gate) \| jq '\{([\w, ]+)\}'", command)
        if found:
            assert set(found[2].split(", ")) <= answers[found[1]], command
