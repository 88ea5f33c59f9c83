"""A running monitor holds its arms against a pin: what breaks it ends the epoch, is named, and stops the judging."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backends.pinned.pin import Pin
from backends.scripted import Script, ScriptedServer
from proxy.contract.arms import Arm
from proxy.contract.take import Wanted, take
from proxy.monitor.pinned import PinnedWatch
from proxy.report.recompute import recompute
from tests.integration.monitor_world import World, engines, running, until, world_settings
from tests.integration.test_cli import parity, settings
from tests.integration.test_epochs import fed, told_alone

pytestmark = [pytest.mark.asyncio, pytest.mark.together]


async def pin_of(server: ScriptedServer) -> Pin:
    arm = Arm("reference", server.url, "m", None, None)
    wanted = Wanted(Path("."), without_weights=True)
    pin, _ = await asyncio.to_thread(take, {"reference": arm}, wanted, None, lambda count: None)
    return pin


async def test_a_break_ends_the_epoch_is_named_and_mended_begins_another(tmp_path: Path) -> None:
    """The planted template adds a system turn where a chat brings none: only the pin's probes see it."""
    given = world_settings(tmp_path, noise_rate=0.0, needle_rate=0.0)
    async with engines() as (candidate, reference):
        pin = await pin_of(reference)
        pinned = PinnedWatch("contract.toml", pin)
        async with running(World(given, candidate, reference, look_interval_s=0.1, pinned=pinned)) as world:
            first = world.monitor.verdict()
            assert first.contract["pin"] == {"file": "contract.toml", "seal": pin.seal, "broken": {}}
            assert "pinned contract" not in " ".join(first.reasons)
            reference.set_fault("template", 1.0)
            await until(lambda: world.monitor.state()["epoch"] == 2)
            broken = world.monitor.verdict()
            assert broken.state == "inconclusive"
            assert broken.reasons[0].startswith(
                "the pinned contract contract.toml does not hold: reference prompt tokens of probe no_"
            )
            why = broken.contract["reason"]
            assert "pinned contract broken: reference prompt tokens of probe no_system_turn: " in why
            assert "reference template" not in why
            candidate.set_fault("tool_name", 0.9)
            await fed(world, 1, 80)
            judged = world.monitor.verdict().as_dict()
            assert judged["verdict"] == "inconclusive"  # against the reference as it was pinned this would be a fail
            assert judged == recompute(given.ledger.path) == told_alone(given)
            reference.set_fault("template", 0.0)
            await until(lambda: not world.monitor.state()["contract"]["pin"]["broken"])
            mended = world.monitor.verdict()
            assert mended.contract["reason"].endswith("the pinned contract holds again")
            assert mended.contract["prompt_tokens"] == "agree"
            await fed(world, 2, 80)
            assert world.monitor.verdict().state == "fail"
        shown = parity("verdict", str(given.ledger.path)).stdout
        assert f"pinned by contract.toml, seal {pin.seal}" in shown


async def test_another_engine_version_breaks_the_pin_and_an_arm_that_is_away_does_not(tmp_path: Path) -> None:
    given = world_settings(tmp_path)
    async with engines() as (candidate, reference):
        pin = await pin_of(reference)
        async with (
            ScriptedServer(Script(version="0.32.1")) as other,
            running(World(given, candidate, other, pinned=PinnedWatch("contract.toml", pin))) as world,
        ):
            assert world.monitor.verdict().reasons[0] == (
                "the pinned contract contract.toml does not hold: reference engine engine_version: 0.32.0 became 0.32.1"
            )
        # Away now: what was known of this pin stands, also after a restart.
        async with running(World(given, candidate, other, pinned=PinnedWatch("contract.toml", pin))) as world:
            assert world.monitor.state()["epoch"] == 1
            assert "0.32.0 became 0.32.1" in world.monitor.verdict().reasons[0]
        async with running(World(given, candidate, reference, pinned=PinnedWatch("contract.toml", pin))) as world:
            assert world.monitor.state()["epoch"] == 2
            assert "the pinned contract holds again" in world.monitor.verdict().contract["reason"]
        async with running(World(given, candidate, reference)) as world:
            assert world.monitor.verdict().contract["reason"] == f"pinned contract: {pin.seal} became none"


async def test_a_pin_that_cannot_be_read_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "contract.toml").write_text("format = 2\n")
    file = settings(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:2")
    file.write_text(file.read_text().replace("[reference]", f'[reference]\ncontract = "{tmp_path}/contract.toml"'))
    checked = parity("check-config", str(file))
    assert checked.returncode == 2
    assert "reference.contract: " in checked.stderr
    assert "its format is 2, this version reads 1" in checked.stderr
    monitored = parity("monitor", "--config", str(file))
    assert monitored.returncode == 1
    assert "its format is 2" in monitored.stderr
