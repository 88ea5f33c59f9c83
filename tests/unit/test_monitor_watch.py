"""What the arms say they are: known, compared, and not forgotten when an arm is away."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from backends.base import BackendTimeout, BackendUnavailable, Reply
from proxy.monitor.watch import ContractWatch, changes


class Arm:
    """An arm that answers for its contract alone."""

    def __init__(self, name: str, **says: Any) -> None:
        self.name = name
        self.says = says
        self.error: Exception | None = None

    async def get(self, path: str, timeout_s: float) -> Reply:
        if self.error is not None:
            raise self.error
        bodies = {
            "/version": {"version": self.says.get("version", "0.32.0")},
            "/v1/models": {"data": [{"id": self.says.get("model", "m"), "max_model_len": 2048}]},
        }
        return Reply(200, "application/json", orjson.dumps(bodies[path]), 0.0)

    async def post(self, path: str, body: bytes, headers: Any, timeout_s: float) -> Reply:
        reply = {"tokens": self.says.get("tokens", [1, 2])} if path == "/tokenize" else {"system_fingerprint": "f"}
        return Reply(200, "application/json", orjson.dumps(reply), 0.0)

    async def aclose(self) -> None: ...


def watch(candidate: Arm, reference: Arm, model: str | None = "m") -> ContractWatch:
    return ContractWatch(candidate, reference, candidate_model="m", reference_model=model, recipe="awq")


@pytest.mark.asyncio
async def test_both_arms_are_in_the_contract() -> None:
    of = watch(Arm("candidate"), Arm("reference"))
    assert of.unseen == ("candidate", "reference")
    await of.look()
    contract = of.contract(None)
    assert (contract["recipe"], contract["candidate"]["model"]) == ("awq", "m")
    assert changes(contract, of.contract(contract)) == []
    assert list(of.unseen) == []
    assert not of.unreachable
    assert not of.alarms()


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [BackendUnavailable("gone"), BackendTimeout("stalled")])
async def test_an_arm_that_is_away_has_not_changed(error: Exception) -> None:
    candidate, reference = Arm("candidate"), Arm("reference")
    first = watch(candidate, reference)
    await first.look()
    standing = first.contract(None)
    reference.error = error
    await first.look()
    assert first.contract(standing) == standing
    assert first.unreachable == {"reference": str(error)}
    assert list(first.unseen) == []  # it was seen once
    restarted = watch(candidate, reference)
    await restarted.look()
    assert restarted.unseen == ("reference",)
    assert restarted.contract(standing) == standing
    assert restarted.contract(None)["reference"] == {}
    reference.error = None
    await restarted.look()
    assert list(restarted.unseen) == []
    assert not restarted.unreachable


@pytest.mark.asyncio
async def test_what_changed_is_named() -> None:
    candidate, reference = Arm("candidate"), Arm("reference")
    of = watch(candidate, reference)
    await of.look()
    before = of.contract(None)
    candidate.says["version"] = "0.33.0"
    await of.look()
    assert changes(before, of.contract(before)) == ["candidate engine_version: 0.32.0 became 0.33.0"]
    assert changes({**before, "recipe": "gptq"}, before) == ["recipe: gptq became awq"]
    assert changes({"recipe": "awq"}, before)[0].startswith("candidate engine_version: absent became")


@pytest.mark.asyncio
async def test_arms_that_cannot_be_compared_raise_an_alarm() -> None:
    of = watch(Arm("candidate"), Arm("reference", model="other", tokens=[3]))
    await of.look()
    alarms = of.alarms()
    assert any("'m'" in alarm and "reference" in alarm for alarm in alarms)
    assert any("different tokens" in alarm for alarm in alarms)


@pytest.mark.asyncio
async def test_an_answer_that_breaks_the_reading_is_an_arm_that_cannot_be_observed() -> None:
    candidate, reference = Arm("candidate"), Arm("reference")
    of = watch(candidate, reference)
    await of.look()
    standing = of.contract(None)
    reference.error = TypeError("unhashable")
    await of.look()
    assert "TypeError" in of.unreachable["reference"]
    assert of.contract(standing) == standing
    reference.error = None
    await of.look()
    assert not of.unreachable
