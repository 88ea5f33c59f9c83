"""What rollout tools read from a verdict."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.monitor import gate
from scorers.judge import Verdict
from tests.unit.monitor_samples import FixedView, verdict


def test_plain_is_the_verdict() -> None:
    assert gate.plain(verdict("pass"), None) == verdict("pass").as_dict()
    assert gate.plain(verdict("pass"), "awq-int4-g128") == verdict("pass").as_dict()


@pytest.mark.parametrize("asked", ["fp8", "", "AWQ-INT4-G128"])
@pytest.mark.parametrize("state", ["pass", "fail"])
def test_another_recipe_is_never_judged(asked: str, state: Any) -> None:
    for answer in (gate.plain(verdict(state), asked), gate.argo(verdict(state), asked)["data"]):
        assert answer["verdict"] == "inconclusive"
        assert "awq-int4-g128" in answer["reason"]


def test_argo_has_what_its_conditions_read() -> None:
    answer = gate.argo(verdict("fail"), None)
    assert list(answer) == ["data"]
    assert answer["data"]["verdict"] == "fail"
    assert set(answer["data"]["budgets"]["tool_call_mismatch"]) >= {"value", "limit", "noise", "critical"}
    assert answer["data"]["budgets"]["logprob_kl"]["value"] is None
    assert orjson.loads(orjson.dumps(answer)) == answer


def test_a_broken_monitor_is_inconclusive() -> None:
    view = FixedView()
    view.broken = ZeroDivisionError()
    answer = gate.plain(gate.current(view, "r"), None)
    assert (answer["verdict"], answer["recipe"], answer["budgets"]) == ("inconclusive", "r", {})
    assert "log" in answer["reason"]


def test_no_data_never_passes() -> None:
    assert gate.argo(Verdict("inconclusive", ()), None)["data"]["reason"] == ""
