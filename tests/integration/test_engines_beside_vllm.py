"""A running monitor between engines that lack something: what is said of it, what is scored, what never is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.scripted import Script
from proxy.monitor.capability_watch import CapabilityWatch
from proxy.report.recompute import recompute
from proxy.settings import BudgetSettings
from scorers.records import Reason
from tests.integration.monitor_world import World, engines, running, until, world_settings
from tests.integration.test_cli import parity, settings
from tests.integration.test_epochs import fed

pytestmark = pytest.mark.asyncio

TOP1 = {"top1_disagreement": BudgetSettings(limit=0.05, critical=True), "logprob_kl": BudgetSettings(limit=0.05)}


def numbers(world: World, score: str, arm: str = "candidate") -> list[Any]:
    """What the rows of all epochs say of a score: numbers, and reasons that are losses."""
    latest = world.ledger.latest_epoch()
    rows = [row for epoch in range(1, latest[0] + 1 if latest else 1) for row in world.ledger.observations(epoch)]
    found = [getattr(row, arm).get(score) for row in rows if row.kind == "live"]
    return [one for one in found if one is not None and (not isinstance(one, Reason) or one.lost)]


async def played(
    path: Path,
    candidate: Mapping[str, str],
    reference: Mapping[str, str],
    *,
    budgets: Mapping[str, BudgetSettings] = TOP1,
    number: int = 40,
    **mirror: Any,
) -> tuple[World, Any, Mapping[str, Any]]:
    """(the world, its verdict, its state) after some traffic between engines that lack these."""
    given = world_settings(path, budgets=budgets, needle_rate=0.0, **mirror)
    scripts = Script(lacks=candidate), Script(lacks=reference)
    async with (
        engines(*scripts) as (one, other),
        running(World(given, one, other, look_interval_s=0.1, capabilities=CapabilityWatch(20))) as world,
    ):
        await fed(world, 1, number)
        verdict, state = world.monitor.verdict(), world.monitor.state()
        assert verdict.as_dict() == recompute(given.ledger.path)
        world.kept = {  # type: ignore[attr-defined]
            (score, arm): numbers(world, score, arm)
            for score in ("top1_disagreement", "tool_call_mismatch", "teacher_forced_kl", "text_mismatch")
            for arm in ("candidate", "noise")
        }
    return world, verdict, state


async def test_two_whole_engines_lack_nothing_and_the_contract_says_no_word_of_it(tmp_path: Path) -> None:
    world, verdict, state = await played(tmp_path, {}, {})
    assert state["lacks"] == []
    assert "lacks" not in state["contract"]
    assert verdict.contract["lacks"] == {}
    kept = world.kept["top1_disagreement", "candidate"]  # type: ignore[attr-defined]
    assert kept
    assert all(isinstance(one, float) for one in kept)


async def test_a_reference_without_logprobs_is_named_by_the_budget_that_waits_for_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "proxy.monitor"):
        world, verdict, state = await played(tmp_path, {}, {"logprobs": "ignored"})
    assert verdict.state == "inconclusive"
    why = "no pair can give it a number: the reference lacks logprobs (ignored); use an engine or a setting that"
    assert [reason for reason in verdict.reasons if reason.startswith(f"top1_disagreement: {why}")]
    assert [reason for reason in verdict.reasons if reason.startswith(f"logprob_kl: {why}")]  # not required: a note
    assert verdict.budgets["top1_disagreement"].reasons[0].startswith(why)
    kept = world.kept["top1_disagreement", "candidate"]  # type: ignore[attr-defined]
    assert set(kept) == {Reason.ENGINE_LACKS}
    assert set(world.kept["top1_disagreement", "noise"]) == {Reason.ENGINE_LACKS}  # type: ignore[attr-defined]
    assert any(isinstance(one, float) for one in world.kept["text_mismatch", "candidate"])  # type: ignore[attr-defined]
    assert state["contract"]["lacks"] == {
        "reference": {"logprobs": "ignored", "token_id_keys": "ignored", "top_logprobs": "ignored"}
    }
    assert [lack["capability"] for lack in state["lacks"]] == ["logprobs"]
    said = [record.getMessage() for record in caplog.records if "logprobs" in record.getMessage()]
    assert said == [state["lacks"][0]["sentence"]]  # once, though it was asked twice
    assert said[0].startswith(
        "the reference (vllm) ignores the wish for logprobs: no number for logprob_kl, logprob_kl_max, logprob_tv, "
        "top1_disagreement, tail_mass, reference_doubt; "
    )


async def test_engines_that_refuse_our_fields_are_asked_without_them_and_scored(tmp_path: Path) -> None:
    """A hosted API answers 400 to what it does not know: each shadow call would fail."""
    strict = {"token_ids": "refused", "token_id_keys": "refused", "seed": "refused", "prompt_logprobs": "refused"}
    world, verdict, state = await played(tmp_path, {}, strict, teacher_forced_rate=1.0)
    assert state["arms"]["reference"]["failures_in_a_row"] == 0
    kept = world.kept["top1_disagreement", "candidate"]  # type: ignore[attr-defined]
    assert len(kept) >= 10
    assert set(kept) == {0.0}  # compared by text, and equal
    assert set(world.kept["teacher_forced_kl", "candidate"]) == {Reason.ENGINE_LACKS}  # type: ignore[attr-defined]
    assert verdict.budgets["top1_disagreement"].samples == len(kept)


async def test_shorter_lists_of_one_arm_are_asked_of_both(tmp_path: Path) -> None:
    world, _, state = await played(tmp_path, {"top_logprobs": "refused"}, {})
    kept = world.kept["top1_disagreement", "candidate"]  # type: ignore[attr-defined]
    assert set(kept) == {0.0}
    assert state["contract"]["lacks"] == {"candidate": {"top_logprobs": "5 of 20"}}
    assert state["lacks"][0]["sentence"].startswith("the candidate (vllm) gives 5 of 20: lists of that many logprobs (")


async def test_a_reference_that_ignores_tools_fails_no_candidate(tmp_path: Path) -> None:
    budgets = {"tool_call_mismatch": BudgetSettings(limit=0.05, critical=True, slack=0.05)}
    world, verdict, _ = await played(tmp_path, {}, {"tools": "ignored"}, budgets=budgets, number=80)
    assert verdict.state == "inconclusive"
    kept = world.kept["tool_call_mismatch", "candidate"]  # type: ignore[attr-defined]
    assert set(kept) == {Reason.ENGINE_LACKS}
    assert (
        verdict.budgets["tool_call_mismatch"]
        .reasons[0]
        .startswith("no pair can give it a number: the reference lacks tools (ignored); start it with a tool parser")
    )


async def test_a_candidate_that_ignores_tools_is_judged_for_it(tmp_path: Path) -> None:
    """Its clients get no call either."""
    budgets = {"tool_call_mismatch": BudgetSettings(limit=0.05, critical=True, slack=0.05)}
    world, verdict, _ = await played(tmp_path, {"tools": "ignored"}, {}, budgets=budgets, number=80)
    kept = world.kept["tool_call_mismatch", "candidate"]  # type: ignore[attr-defined]
    assert 1.0 in kept
    assert Reason.ENGINE_LACKS not in kept
    assert not [reason for reason in verdict.reasons if "can give it a number" in reason]
    assert verdict.contract["lacks"] == {"candidate": {"tools": "ignored"}}


async def test_an_arm_that_changes_what_it_can_do_begins_another_epoch(tmp_path: Path) -> None:
    given = world_settings(tmp_path, needle_rate=0.0)
    async with engines(Script(), Script()) as (candidate, reference):
        async with running(World(given, candidate, reference, capabilities=CapabilityWatch(20))) as world:
            assert world.monitor.state()["epoch"] == 1
        async with engines(Script(), Script(lacks={"token_ids": "refused"})) as (_, other):
            watch = CapabilityWatch(20)
            async with running(World(given, candidate, other, look_interval_s=0.1, capabilities=watch)) as world:
                assert world.monitor.state()["epoch"] == 2
                assert world.monitor.verdict().contract["reason"] == (
                    "reference token_ids: had became lacking (refused)"
                )
                await until(lambda: watch.as_dict()["reference"]["findings"]["token_ids"] == "refused")
        # Away now: what was known of it stands.
        async with running(World(given, candidate, other, capabilities=CapabilityWatch(20))) as world:
            assert world.monitor.state()["epoch"] == 2


async def checked(path: Path, candidate: Script, reference: Script, *more: str) -> tuple[int, str]:
    """Exit code and words of `parity check-config --probe` between two engines; its budget is tool_call_mismatch."""
    async with engines(candidate, reference) as (one, other):
        file = settings(path, one.url, other.url)
        done = await asyncio.to_thread(parity, "check-config", str(file), "--probe", *more)
        return done.returncode, done.stdout


async def test_check_config_asks_the_engines_and_fails_where_a_budget_can_never_be_scored(tmp_path: Path) -> None:
    code, said = await checked(tmp_path, Script(), Script())
    assert code == 0
    assert "top_logprobs" in said
    assert "has 20" in said
    assert "not asked" in said  # prompt logprobs, of the candidate
    assert "✗" not in said
    code, said = await checked(tmp_path, Script(lacks={"version": "missing"}), Script(lacks={"tools": "refused"}))
    assert code == 1
    assert "✗ budgets.tool_call_mismatch: no pair can give it a number: the reference lacks tools (refused)" in said
    assert "note: the candidate (vllm) has no endpoint for its version: another engine version is noticed by" in said
    code, said = await checked(tmp_path, Script(), Script(lacks={"tools": "refused"}), "--json")
    assert code == 1
    told = orjson.loads(said)["probe"]
    assert told["arms"]["reference"]["findings"]["tools"] == "refused"
    assert set(told["impossible"]) == {"tool_call_mismatch"}
    assert told["silent"] == {}


async def test_check_config_says_who_did_not_answer_and_knows_nothing_of_it(tmp_path: Path) -> None:
    async with engines() as (candidate, reference):
        file = settings(tmp_path, candidate.url, reference.url)
        await reference.aclose()
        done = await asyncio.to_thread(parity, "check-config", str(file), "--probe")
    assert done.returncode == 0
    assert "note: the reference did not answer: reference: cannot connect to" in done.stdout
    assert "unknown" in done.stdout
