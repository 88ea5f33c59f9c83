"""Epochs on real sockets: arms that come to read other prompts, the verdict of the monitor and of its ledger alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.scripted import Script, ScriptedServer
from proxy.monitor.ledger_reader import LedgerEvent, open_read_only
from proxy.report.recompute import recompute
from proxy.settings import Settings
from tests.integration.monitor_world import World, engines, running, until, world_settings
from tests.integration.test_cli import parity

FED = 60


async def fed(world: World, seed: int, number: int = FED) -> None:
    """Sends traffic and waits until all of it has its rows."""
    written = world.monitor.state()["ledger"]["rows_written"]
    world.send(await world.exchanges(seed, number))
    await until(lambda: world.monitor.state()["ledger"]["rows_written"] >= written + number and world.at_rest())


def told_alone(settings: Settings) -> dict[str, Any]:
    """The verdict of the ledger, by the command that people use."""
    done = parity("verdict", str(settings.ledger.path), "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = orjson.loads(done.stdout)
    return answer


@pytest.mark.asyncio
async def test_a_template_that_the_probe_does_not_see_ends_the_epoch_and_a_changed_arm_begins_another(
    tmp_path: Path,
) -> None:
    """The planted template adds a system turn where a chat brings none, as Qwen2.5's does; the probe brings one."""
    settings = world_settings(tmp_path, noise_rate=0.0, needle_rate=0.0)
    async with engines() as (candidate, reference):
        async with running(World(settings, candidate, reference)) as world:
            await fed(world, 1)
            before = world.monitor.verdict()
            assert "template" not in " ".join(before.reasons)
            assert before.contract["prompt_tokens"] == "agree"
            assert before.contract["candidate"]["template"] == before.contract["reference"]["template"]
            candidate.set_fault("template", 1.0)
            world.send(await world.exchanges(2, FED))
            await until(lambda: world.monitor.state()["epoch"] == 2)
            await until(world.at_rest)
            held = world.monitor.verdict().as_dict()
            assert held == recompute(settings.ledger.path) == told_alone(settings)
        shown = parity("verdict", str(settings.ledger.path)).stdout
        assert "about: candidate m on 0.32.0, reference m on 0.32.0; prompt tokens differ; epoch 2 since" in shown
        assert candidate.faults.struck["template"] >= 3
        assert held["verdict"] == "inconclusive"
        assert held["reason"].startswith("the arms count different prompt tokens")
        assert held["diagnosis"]["axis"] == "template"
        assert held["contract"]["prompt_tokens"] == "differ"
        assert held["contract"]["candidate"]["template"] == held["contract"]["reference"]["template"]
        assert held["contract"]["reason"].startswith("prompt tokens: agree became differ: on ")
        assert "of the last" in held["contract"]["reason"]

        async with running(World(settings, candidate, reference)) as again:
            await until(again.at_rest)
            assert again.monitor.verdict().as_dict() == held
        async with (
            ScriptedServer(Script(version="0.32.1")) as mended,
            running(World(settings, mended, reference)) as after,
        ):
            after.numbers = world.numbers
            await fed(after, 3, 20)
            good = after.monitor.verdict()
            assert good.epoch == 3
            assert good.contract["prompt_tokens"] == "agree"
            assert good.contract["reason"] == (
                "candidate engine_version: 0.32.0 became 0.32.1; prompt tokens: differ became agree"
            )
            assert "template" not in " ".join(good.reasons)
            assert good.as_dict() == told_alone(settings)


@pytest.mark.asyncio
async def test_a_checkpoint_replaced_under_a_running_engine_begins_a_new_epoch(tmp_path: Path) -> None:
    """The engine names a local directory as its root; nothing else about it changes."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"AWQ, first calibration")
    settings = world_settings(tmp_path)
    async with (
        engines(Script(root=str(model))) as (candidate, reference),
        running(World(settings, candidate, reference, look_interval_s=0.1)) as world,
    ):
        first = world.monitor.verdict().contract
        assert first["candidate"]["weights"]
        assert first["reference"]["weights"] is None
        (model / "model.safetensors").write_bytes(b"AWQ, other calibration")
        await until(lambda: world.monitor.state()["epoch"] == 2)
        second = world.monitor.verdict().contract
        assert second["candidate"]["weights"] not in (None, first["candidate"]["weights"])
        assert second["reason"] == (
            f"candidate weights: {first['candidate']['weights']} became {second['candidate']['weights']}"
        )
        assert str(tmp_path) not in str(world.monitor.verdict().as_dict())


@pytest.mark.asyncio
async def test_a_fail_is_noted_once_outlives_a_restart_and_counts_for_no_evidence(tmp_path: Path) -> None:
    settings = world_settings(tmp_path, needle_rate=0.0)
    async with engines() as (candidate, reference):
        candidate.set_fault("tool_name", 0.9)
        async with running(World(settings, candidate, reference)) as world:
            await fed(world, 1, 80)
            assert world.monitor.verdict().state == "fail"
            drawn = world.monitor.course().points
        (noted,) = noted_in(settings)
        assert (noted.detail["state"], noted.detail["stage"], noted.detail["epoch"]) == ("fail", "rolled_back", 1)
        assert noted.detail["reason"].startswith("tool_call_mismatch: over its limit")
        assert "found" not in noted.detail
        async with running(World(settings, candidate, reference)) as world:
            world.send(await world.exchanges(2, 10, worker="v"))
            await until(lambda: world.monitor.state()["ledger"]["rows_written"] >= 10 and world.at_rest())
            held = world.monitor.verdict().as_dict()
            assert held == recompute(settings.ledger.path) == told_alone(settings)
            assert [point.sums for point in world.monitor.course().points][:20] == [p.sums for p in drawn][:20]
            await world.monitor.reset("understood")
        assert [(n.detail["state"], n.at_unix_s >= noted.at_unix_s) for n in noted_in(settings)] == [
            ("inconclusive", True),
            ("fail", True),
        ]


@pytest.mark.asyncio
async def test_a_ledger_without_notes_opens_and_its_verdict_is_noted_as_found(tmp_path: Path) -> None:
    settings = world_settings(tmp_path, needle_rate=0.0)
    async with engines() as (candidate, reference):
        candidate.set_fault("tool_name", 0.9)
        async with running(World(settings, candidate, reference)) as world:
            await fed(world, 1, 80)
        with closing(sqlite3.connect(settings.ledger.path)) as connection:  # as the version before would have left it
            connection.execute("DELETE FROM events WHERE kind = 'verdict'")
            connection.commit()
        async with running(World(settings, candidate, reference)) as world:
            await until(lambda: bool(noted_in(settings)))
            assert world.monitor.verdict().state == "fail"
        (noted,) = noted_in(settings)
        assert noted.detail["found"] is True


def noted_in(settings: Settings) -> list[LedgerEvent]:
    """The events of changed verdicts, latest first."""
    return open_read_only(settings.ledger.path).events(kinds=("verdict",))
