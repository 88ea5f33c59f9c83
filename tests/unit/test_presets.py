"""A workload in one line: its budgets, how a file changes them, and that each preset is one the gate accepts."""

from __future__ import annotations

import tomllib

import pytest

from proxy.errors import SettingsError
from proxy.presets import PRESETS
from proxy.settings import Settings
from proxy.settings_file import parse_settings
from scorers.catalogue import SPECS

ARMS = '[candidate]\nurl = "http://127.0.0.1:8001"\n[reference]\nurl = "http://127.0.0.1:8002"\n'


def parse(more: str) -> Settings:
    return parse_settings(tomllib.loads(ARMS + more), SPECS)


@pytest.mark.parametrize("workload", PRESETS)
def test_one_line_gives_budgets_that_the_gate_accepts(workload: str) -> None:
    settings = parse(f'[gate]\nworkload = "{workload}"\n')
    assert set(settings.budgets) == set(PRESETS[workload])
    assert any(budget.critical and SPECS[name].bounded for name, budget in settings.budgets.items())


def test_the_files_own_keys_win_and_further_budgets_stay() -> None:
    settings = parse(
        '[gate]\nworkload = "agent"\n[budgets.tool_call_mismatch]\nlimit = 0.02\n[budgets.text_mismatch]\nlimit = 0.2\n'
    )
    assert settings.budgets["tool_call_mismatch"].limit == 0.02
    assert settings.budgets["tool_call_mismatch"].critical
    assert set(settings.budgets) == {*PRESETS["agent"], "text_mismatch"}


def test_false_takes_one_out() -> None:
    settings = parse('[gate]\nworkload = "agent"\n[budgets]\ntool_schema_failure = false\n')
    assert set(settings.budgets) == {"tool_call_mismatch", "logprob_kl"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[gate]\nworkload = "agnet"\n', "gate.workload"),
        ('[gate]\nworkload = "agent"\n[budgets]\ntext_mismatch = false\n', 'a budget of workload "agent"'),
        ('[gate]\nworkload = "agent"\n[budgets]\ntool_call_mismatch = false\n', "no critical budget"),
        ('[gate]\nworkload = "agent"\n[budgets]\ntool_call_mismatch = 0.02\n', "budgets.tool_call_mismatch"),
        ("[budgets]\ntool_call_mismatch = false\n", "budgets.tool_call_mismatch"),
        ("", 'workload = "chat"'),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_fix(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert said in "\n".join(caught.value.problems)
