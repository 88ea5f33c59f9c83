"""Which arms a contract is about: the words win over the settings file, and every mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.contract.arms import Words, arms_of
from proxy.errors import SettingsError

FILE = """
[candidate]
url = "http://127.0.0.1:8001"
[reference]
url = "http://127.0.0.1:8002"
model = "m"
weights = "/models/m"
api_key_env = "KEY"
[budgets.tool_call_mismatch]
limit = 0.03
critical = true
"""


def test_a_settings_file_tells_the_arms_and_the_words_win(tmp_path: Path) -> None:
    file = tmp_path / "parity.toml"
    file.write_text(FILE)
    arms = arms_of(file, {"reference": Words()}, {"KEY": "secret"})
    assert set(arms) == {"reference"}
    one = arms["reference"]
    assert (one.url, one.model, one.weights, one.api_key) == (
        "http://127.0.0.1:8002",
        "m",
        Path("/models/m"),
        "secret",
    )
    said = Words("http://other:1/", "n", Path("w"), "OTHER", "--dtype bfloat16")
    one = arms_of(file, {"reference": said}, {"KEY": "secret", "OTHER": "more"})["reference"]
    assert (one.url, one.model, one.weights, one.api_key) == ("http://other:1", "n", Path("w"), "more")
    assert one.flags == "--dtype bfloat16"


def test_an_arm_that_nobody_names_is_left_out_and_mistakes_are_told_at_once() -> None:
    assert arms_of(None, {"reference": Words()}, {}) == {}
    with pytest.raises(SettingsError) as caught:
        arms_of(None, {"reference": Words("127.0.0.1:8000", api_key_env="NONE")}, {})
    assert "is no origin" in caught.value.problems[0]
    assert caught.value.problems[1].startswith("the environment has no NONE")
