"""The monitor between two engines on real sockets, with its ledger on disk: verdicts, faults, loss and restarts."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from backends.scripted import Script
from proxy.exchange import RelayEvent, Sampled
from proxy.feed import UnixFeedSender
from scorers.records import Reason
from tests.integration.monitor_world import World, engines, running, until, world_settings

SEEN = 60


async def fed(world: World, number: int = SEEN, seed: int = 1) -> list[RelayEvent]:
    """Sends traffic and waits until every exchange has its row."""
    events = await world.exchanges(seed, number)
    before = world.monitor.verdict().coverage.sampled
    world.send(events)
    await until(lambda: world.monitor.verdict().coverage.sampled >= before + number and world.at_rest())
    return events


@pytest.mark.asyncio
async def test_equal_arms_score_everywhere_and_never_fail(tmp_path: Path) -> None:
    async with engines() as (candidate, reference):
        settings = world_settings(tmp_path, teacher_forced_rate=1.0, max_scored_prompt_tokens=700, timeout_s=60.0)
        async with running(World(settings, candidate, reference)) as world:
            await fed(world, 40)
            verdict = world.monitor.verdict()
            rows = world.rows()
            state = world.monitor.state()
    assert verdict.state != "fail"
    assert verdict.coverage.ratio == 1.0
    assert verdict.coverage.lost == {}
    lost = [(r.position, name, v) for r in rows for name, v in r.candidate.items() if isinstance(v, Reason) and v.lost]
    assert lost == []
    values = {name: v for r in rows for name, v in r.candidate.items() if not isinstance(v, Reason)}
    assert {"tool_call_mismatch", "logprob_kl", "teacher_forced_kl", "needle_recall_loss", "text_mismatch"} <= set(
        values
    )
    worst = {
        name: max(v for r in rows for n, v in r.candidate.items() if n == name and not isinstance(v, Reason))
        for name in ("tool_call_mismatch", "logprob_kl", "needle_recall_loss", "text_mismatch")
    }
    assert max(worst.values()) == pytest.approx(0.0, abs=1e-9)
    noise = [v for r in rows for v in r.noise.values() if not isinstance(v, Reason)]
    assert noise
    assert any(r.kind == "probe" for r in rows)
    assert state["prompt_token_mismatches"] == 0
    assert state["alarms"] == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "budget"), [("tool_argument", "tool_call_mismatch"), ("needle", "needle_recall_loss")]
)
async def test_a_planted_fault_fails_with_its_budget_named(tmp_path: Path, fault: str, budget: str) -> None:
    settings = world_settings(tmp_path)
    async with (
        engines(Script(faults={fault: 0.9})) as (candidate, reference),
        running(World(settings, candidate, reference)) as world,
    ):
        for seed in range(1, 8):
            await fed(world, 30, seed=seed)
            if world.monitor.verdict().state == "fail":
                break
        verdict = world.monitor.verdict()
        pairs = world.ledger.pairs(limit=5, before=None, score=budget, mismatched=True)
    assert verdict.state == "fail", verdict.reasons
    assert budget in verdict.reasons[0]
    assert pairs


@pytest.mark.asyncio
async def test_a_restart_gives_the_same_verdict_and_takes_nothing_twice(tmp_path: Path) -> None:
    settings = world_settings(tmp_path)
    async with engines(Script(faults={"tool_argument": 0.1})) as (candidate, reference):
        async with running(World(settings, candidate, reference)) as world:
            events = await fed(world, 40)
            before = world.monitor.verdict().as_dict()
        async with running(World(settings, candidate, reference)) as again:
            assert again.monitor.verdict().as_dict() == before
            again.numbers = count(40)
            again.send(events)  # the feed sends again what was not acknowledged
            again.send(await again.exchanges(2, 5))
            await until(lambda: again.monitor.verdict().coverage.sampled >= 45)
            verdict = again.monitor.verdict()
            assert verdict.coverage.sampled == 45
            assert verdict.epoch == 1


@pytest.mark.asyncio
async def test_a_stalled_reference_costs_coverage_and_comes_back(tmp_path: Path) -> None:
    settings = world_settings(
        tmp_path, timeout_s=3.0, breaker_failures=2, breaker_cooldown_s=0.5, concurrency=2, needle_rate=0.0
    )
    async with engines() as (candidate, reference), running(World(settings, candidate, reference)) as world:
        reference.set_fault("stall", 1.0)
        await fed(world, 10)
        assert world.monitor.state()["breaker"]["state"] != "closed"
        assert world.monitor.verdict().state == "inconclusive"
        assert set(world.monitor.verdict().coverage.lost) <= {"reference_timeout", "breaker_open"}
        reference.set_fault("stall", 0.0)
        await until(lambda: world.monitor.state()["breaker"]["state"] == "half_open")
        await fed(world, 1, seed=2)
        await until(lambda: world.monitor.state()["breaker"]["state"] == "closed")
        scored = world.monitor.verdict().coverage.scored
        await fed(world, 5, seed=3)
        assert world.monitor.verdict().coverage.scored >= scored + 5
        state = world.monitor.state()
        assert state["queue"] == {"exchanges": 0, "bytes": 0, "in_work": 0, "refused": 0, "oldest_s": 0.0}
        assert state["shadow_calls"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["error_500", "cut_stream", "garbage", "close_at_once", "reset"])
async def test_a_reference_that_misbehaves_is_a_counted_reason(tmp_path: Path, fault: str) -> None:
    settings = world_settings(tmp_path, breaker_failures=1000, needle_rate=0.0)
    async with engines() as (candidate, reference), running(World(settings, candidate, reference)) as world:
        reference.set_fault(fault, 1.0)
        await fed(world, 10)
        verdict = world.monitor.verdict()
        assert world.monitor.state()["arms"]["reference"]["last_error"]
    assert verdict.state == "inconclusive"
    assert set(verdict.coverage.lost) == {"reference_error"}
    assert verdict.coverage.scored == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["error_500", "cut_stream", "garbage"])
async def test_a_candidate_that_misbehaves_counts_against_itself(tmp_path: Path, fault: str) -> None:
    settings = world_settings(tmp_path, needle_rate=0.0)
    async with (
        engines(Script(faults={fault: 1.0})) as (candidate, reference),
        running(World(settings, candidate, reference)) as world,
    ):
        await fed(world, 10)
        verdict = world.monitor.verdict()
    assert verdict.state == "inconclusive"
    assert set(verdict.coverage.lost) == {"candidate_error"}


@pytest.mark.asyncio
async def test_a_killed_reference_and_a_late_exchange(tmp_path: Path) -> None:
    settings = world_settings(tmp_path, late_after_s=1.0, needle_rate=0.0, breaker_failures=3)
    async with engines() as (candidate, reference), running(World(settings, candidate, reference)) as world:
        events = await world.exchanges(1, 5)
        late = next(event for event in events if isinstance(event, Sampled))
        await reference.aclose()
        world.send([late, *events[2:]])
        await until(lambda: world.monitor.verdict().coverage.sampled >= 5)
        verdict = world.monitor.verdict()
        world.send(events[:2])  # it comes after all, after its row
        assert world.monitor.state()["order"]["duplicates"] == 2
    assert verdict.coverage.lost["late"] == 1
    assert set(verdict.coverage.lost) <= {"late", "reference_error", "breaker_open"}


@pytest.mark.asyncio
async def test_through_the_feed_socket(tmp_path: Path) -> None:
    settings = world_settings(tmp_path, needle_rate=0.0)
    feed = settings.feed.model_copy(update={"socket": tmp_path / "feed.sock"})
    async with engines() as (candidate, reference), running(World(settings, candidate, reference)) as world:
        receiver = world.receiver(feed)
        await receiver.start()
        sender = UnixFeedSender(feed, worker="w", stats=dict)
        await sender.start()
        events = await world.exchanges(1, 20)
        for event in events:
            assert sender.offer(event)
        await until(lambda: world.monitor.verdict().coverage.sampled >= 20)
        assert world.monitor.readiness() == dict.fromkeys(world.monitor.readiness(), True)
        await sender.aclose(1.0)
        await until(lambda: not world.monitor.readiness()["relay_connected"])
        await receiver.aclose()
    assert world.monitor.verdict().coverage.scored > 0
