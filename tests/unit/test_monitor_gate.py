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


@pytest.mark.parametrize("hook", gate.FLAGGER_HOOKS)
@pytest.mark.parametrize("state", ["pass", "fail", "inconclusive"])
def test_flagger_promotes_on_pass_and_rolls_back_on_fail_only(hook: str, state: Any) -> None:
    agreed = gate.flagger(hook, verdict(state), None, False)[0] == gate.AGREED
    if hook.startswith("confirm-"):
        assert agreed == (state == "pass")
    elif hook == "rollback":
        assert agreed == (state == "fail")
    elif hook in gate.FLAGGER_NOTICES:
        assert agreed
    else:
        assert agreed == (state != "fail")


@pytest.mark.parametrize("hook", gate.FLAGGER_HOOKS)
def test_only_the_checks_can_be_told_to_refuse_what_is_undecided(hook: str) -> None:
    told = gate.flagger(hook, verdict(), None, True)
    assert told[0] == (
        gate.REFUSED if hook in ("pre-rollout", "rollout") else gate.flagger(hook, verdict(), None, False)[0]
    )


def test_a_refusal_is_one_line_and_not_a_long_one() -> None:
    status, line = gate.flagger("rollout", verdict("fail", reasons=("a\n b\t" * 900,)), None, False)
    assert (status, len(line), line.endswith("...")) == (409, gate.MAX_LINE_CHARS, True)
    assert line.startswith("fail: a b a b")


def test_argo_reads_the_state_as_booleans_too() -> None:
    for state in ("pass", "fail", "inconclusive"):
        data = gate.argo(verdict(state), None)["data"]
        assert (data["passed"], data["failed"]) == (state == "pass", state == "fail")
