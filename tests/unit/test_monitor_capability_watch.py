"""When an engine is asked what it can do, and what stands of it when it does not answer."""

from __future__ import annotations

import asyncio

import pytest

from backends.base import BackendUnavailable, Reply
from backends.contract import Contract
from proxy.monitor.capability_watch import CapabilityWatch
from tests.unit.monitor_rig import ScriptedBackend, chat_reply, ok

pytestmark = pytest.mark.asyncio

ONE, OTHER = Contract(engine_version="1"), Contract(engine_version="2")

BEFORE = {"reference": {"token_ids": "refused"}}


async def look(watch: CapabilityWatch, arm: ScriptedBackend, seen: Contract = ONE) -> int:
    """How many posts one look cost."""
    before = len(arm.bodies)
    await watch.look("reference", arm, "m", seen)
    return len(arm.bodies) - before


async def test_an_engine_is_asked_twice_and_again_when_it_is_another_or_came_back() -> None:
    watch, arm = CapabilityWatch(20), ScriptedBackend("reference", lambda path, body: ok(chat_reply()))
    assert await look(watch, arm) > 0
    assert await look(watch, arm) > 0  # once more, before it is believed
    assert await look(watch, arm) == 0
    assert await look(watch, arm, OTHER) > 0
    assert await look(watch, arm, OTHER) == 0
    watch.away("reference")
    assert await look(watch, arm, OTHER) > 0
    assert await look(watch, arm, OTHER) == 0


async def test_what_was_found_stands_while_it_does_not_answer_and_it_is_asked_on() -> None:
    watch, arm = CapabilityWatch(20), ScriptedBackend("reference", lambda path, body: ok(chat_reply()))
    await look(watch, arm)
    known = watch.as_dict()["reference"]["findings"]
    assert known["logprobs"] == "ignored"
    for status in (401, 429, 503):
        arm.behaviour = lambda path, body, status=status: Reply(status, "application/json", b"{}", 0.0)  # type: ignore[misc]
        assert await look(watch, arm, OTHER) == 1
        assert watch.as_dict()["reference"]["findings"] == known
    assert await look(watch, arm, OTHER) == 1
    arm.behaviour = lambda path, body: ok(chat_reply())
    assert await look(watch, arm, OTHER) > 1
    assert await look(watch, arm, OTHER) == 0


async def test_nothing_is_lacking_of_an_arm_that_never_answered() -> None:
    def dead(path: str, body: bytes) -> Reply:
        raise BackendUnavailable("reference: cannot connect")

    watch = CapabilityWatch(20)
    await look(watch, ScriptedBackend("reference", dead))
    assert watch.contract(None) == {}
    for asked in (watch, CapabilityWatch(20)):  # silent, and never asked: what was known of it stands
        assert asked.contract(BEFORE) == BEFORE
    assert {one.top_logprobs for one in watch.asking()} == {20}
    assert not any(one.leave_out for one in watch.asking())


async def test_a_look_that_is_cancelled_leaves_what_was_known() -> None:
    async def never(path: str, body: bytes) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    watch, arm = CapabilityWatch(20), ScriptedBackend("reference", lambda path, body: ok(chat_reply()))
    await look(watch, arm)
    known = watch.as_dict()
    arm.behaviour = never
    task = asyncio.create_task(watch.look("reference", arm, "m", OTHER))
    while arm.active == 0:  # noqa: ASYNC110  the double has no event for it
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert watch.as_dict() == known
