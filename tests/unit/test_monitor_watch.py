"""What the arms say they are: known, compared, and not forgotten when an arm is away."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.base import BackendTimeout, BackendUnavailable, Reply
from backends.weights import WeightFiles
from proxy.errors import LedgerError
from proxy.monitor.watch import ContractWatch, changes, gate_of, read_gate
from scorers.judge import Budget, GateRules

BUDGET = Budget("tool_call_mismatch", 0.03, bounded=True, critical=True)
GATE = gate_of([BUDGET], GateRules())


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
    return ContractWatch(candidate, reference, candidate_model="m", reference_model=model, recipe="awq", gate=GATE)


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
    assert changes({"recipe": "awq", "gate": GATE}, before)[0].startswith("candidate engine_version: absent became")


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


@pytest.mark.asyncio
async def test_different_templates_are_known_before_any_row_and_until_an_arm_changes() -> None:
    candidate, reference = Arm("candidate", tokens=[1, 2]), Arm("reference", tokens=[3])
    of = watch(candidate, reference)
    await of.look()
    first = of.contract(None)
    assert first["prompt_tokens"] == "differ"
    assert of.contract(first, "agree")["prompt_tokens"] == "differ"  # rows do not undo what both arms say
    assert changes(first, of.contract(first, "agree")) == []
    candidate.says["tokens"] = [3]
    await of.look()
    second = of.contract(first)
    assert second["prompt_tokens"] == "agree"
    assert changes(first, second)[-1] == "prompt tokens: differ became agree"


@pytest.mark.asyncio
async def test_the_word_of_the_rows_stands_until_an_arm_or_the_recipe_changes() -> None:
    candidate, reference = Arm("candidate"), Arm("reference")
    of = watch(candidate, reference)
    await of.look()
    standing = of.contract(of.contract(None), "differ")
    assert standing["prompt_tokens"] == "differ"
    assert of.contract(standing)["prompt_tokens"] == "differ"
    restarted = watch(candidate, reference)  # with the arms away
    assert restarted.contract(standing) == standing
    assert of.contract({**standing, "recipe": "gptq"})["prompt_tokens"] == "agree"
    reference.says["version"] = "0.33.0"
    await of.look()
    assert of.contract(standing, "differ")["prompt_tokens"] == "agree"
    old = {part: value for part, value in standing.items() if part != "prompt_tokens"}
    assert changes(old, {**old, "prompt_tokens": "agree"}) == []  # written by a version that did not keep it


@pytest.mark.asyncio
async def test_weights_are_in_the_contract_and_a_mount_that_is_away_is_no_change(tmp_path: Path) -> None:
    shard = tmp_path / "model" / "model.safetensors"
    shard.parent.mkdir()
    shard.write_bytes(b"weights")

    def made() -> ContractWatch:
        files = {"candidate": WeightFiles("candidate", shard.parent)}
        return ContractWatch(
            Arm("candidate"),
            Arm("reference"),
            candidate_model="m",
            reference_model="m",
            recipe="awq",
            gate=GATE,
            weights=files,
        )

    of = made()
    await of.look()
    standing = of.contract(None)
    assert len(standing["candidate"]["weights"]) == 16
    assert "weights" not in standing["reference"]
    assert str(tmp_path) not in str(standing)
    os.rename(shard.parent, tmp_path / "away")
    for one in (of, made()):  # while it runs, and after a restart
        await one.look()
        assert one.contract(standing) == standing
    os.rename(tmp_path / "away", shard.parent)
    shard.write_bytes(b"WEIGHTS")
    await of.look()
    assert changes(standing, of.contract(standing))[0].startswith("candidate weights: ")


def test_what_is_asked_of_the_arms_is_part_of_the_contract() -> None:
    kl = Budget("logprob_kl", 0.05, bounded=False, critical=False)
    after = {"gate": gate_of([replace(BUDGET, limit=0.05), kl], GateRules(min_coverage=0.6))}
    assert changes({"gate": GATE}, after) == [
        "budget logprob_kl was added",
        "budget tool_call_mismatch limit: 0.03 became 0.05",
        "rule min_coverage: 0.5 became 0.6",
    ]
    assert "budget logprob_kl was removed" in changes(after, {"gate": GATE})
    two = [gate_of(order, GateRules()) for order in ([BUDGET, kl], [kl, BUDGET])]
    assert changes({"gate": two[0]}, {"gate": two[1]}) == ["gate: the order of its budgets changed"]
    assert changes({}, {"gate": GATE}) == ["gate: its budgets were not recorded before"]
    assert changes({"gate": orjson.loads(orjson.dumps(GATE))}, {"gate": GATE}) == []


def test_a_stored_gate_is_read_back_or_refused_with_the_reason() -> None:
    stored = orjson.loads(orjson.dumps({"gate": gate_of([BUDGET], GateRules(max_pairs=7))}))
    assert read_gate(stored) == ((BUDGET,), GateRules(max_pairs=7))
    with pytest.raises(LedgerError, match="did not keep its budgets"):
        read_gate({"recipe": "awq"})
    for damaged in ({"budgets": []}, {"budgets": [], "rules": {}}, {"budgets": [{"name": "x"}], "rules": {}}, [1]):
        with pytest.raises(LedgerError, match="cannot be read"):
            read_gate({"gate": damaged})
