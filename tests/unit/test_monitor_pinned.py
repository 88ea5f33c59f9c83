"""What the epoch's contract holds of a pin, and how it differs from what it held before."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import BackendUnavailable
from backends.pinned.pin import Pin, PinnedArm, PinnedBeat
from proxy.monitor.pinned import PinnedWatch, broken_in, pin_changes
from tests.unit.test_backends_pinned_probes import TOP, Engine

PROBED = {"text": (8, 9)}


def pin(**more: Any) -> Pin:
    beat = PinnedBeat(prompt=(5,), tolerance_nats=0.01, spread_nats=0.0, beats=1, logprobs=TOP)
    engine: dict[str, str | int] = {"engine_version": "0.32.0", "model": "m", "max_model_len": 64}
    engine |= {"root": "8f1a", "system_fingerprint": "f"}
    arm = PinnedArm(url="http://127.0.0.1:1", engine=engine, heartbeat=beat)
    arm = arm.model_copy(update=more)
    return Pin(format=1, seal="", pinned_at="", parity="", reference=arm).sealed()


@pytest.mark.asyncio
async def test_what_broke_is_told_without_the_figures_that_change_from_look_to_look() -> None:
    louder = {"token_id:5": -0.5, "token_id:6": -1.75}
    beat = PinnedBeat(prompt=(5,), tolerance_nats=0.01, spread_nats=0.0, beats=1, logprobs=louder)
    watch = PinnedWatch("c.toml", pin(heartbeat=beat))
    await watch.look("reference", Engine(), "m")
    broken = watch.contract(None)["broken"]["reference"]
    assert "reference heartbeat: beyond the pinned tolerance" in broken
    assert any(line.startswith("reference engine root: 8f1a became ") for line in broken)
    await watch.look("candidate", Engine(), "m")  # not pinned
    assert set(watch.contract(None)["broken"]) == {"reference"}


@pytest.mark.asyncio
async def test_an_arm_that_does_not_answer_is_what_it_was_and_another_pin_forgets() -> None:
    watch = PinnedWatch("c.toml", pin())
    before = {"file": "c.toml", "seal": pin().seal, "broken": {"reference": ["reference engine x: 1 became 2"]}}
    with pytest.raises(BackendUnavailable):
        await watch.look("reference", Engine(tokenize=503), "m")
    assert watch.contract(before) == before
    assert watch.contract({**before, "seal": "another"})["broken"] == {}


def test_changes_name_what_broke_what_was_mended_and_another_pin() -> None:
    holds = {"file": "c.toml", "seal": "a", "broken": {}}
    one = {**holds, "broken": {"reference": ["x"]}}
    two = {**holds, "broken": {"reference": ["x", "y"]}}
    assert pin_changes(None, None) == pin_changes(one, one) == []
    assert pin_changes(None, holds) == ["pinned contract: none became a"]
    assert pin_changes(holds, one) == ["pinned contract broken: x"]
    assert pin_changes(two, one) == ["pinned contract: no longer y"]
    assert pin_changes(one, holds) == ["the pinned contract holds again"]
    assert pin_changes(one, None) == ["pinned contract: a became none", "pinned contract: no longer x"]
    assert broken_in({"pin": two}) == "the pinned contract c.toml does not hold: x; y"
    many = {**holds, "broken": {"candidate": ["x"], "reference": ["1", "2", "3", "4"]}}
    assert broken_in({"pin": many}).endswith("does not hold: x; 1; 2; and 2 more")
    assert broken_in({"pin": holds}) == broken_in({}) == broken_in({"pin": None}) == ""
