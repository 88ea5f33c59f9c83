"""A staged rollout in the whole: real processes, clients that never stop, a candidate that is damaged on its way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from proxy.monitor.ledger_reader import open_read_only
from tests.integration.rollout_rig import DAMAGED, FINGERPRINTS, SESSIONS, Stage, logged_s, rollout, stage, until

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(180)]

RETURN_S = 2.0  # issue 5: clients return to the reference within 2 s of the verdict
HOLD = "{ share = 0.25, pairs = 1000000 }"
WHOLE = "{ share = 1.0 }"


async def at(on: Stage, phase: str, step: int) -> float:
    """The time at which the rollout was seen there."""

    async def there() -> bool:
        return await on.place() == (phase, step)

    return await until(there)


async def failed(on: Stage) -> float:
    """The time at which the gate was seen to say fail."""

    async def said() -> bool:
        return bool((await on.get("/gate"))["verdict"] == "fail")

    return await until(said)


def counted(on: Stage, since_s: float = 0.0) -> Counter[str]:
    """Replies by the arm that they are of, of requests that began since; every one of them must be whole and right."""
    assert {reply.status for reply in on.replies} == {200}, [r for r in on.replies if r.status != 200][:3]
    return Counter(reply.arm for reply in on.replies if reply.began_s >= since_s)


async def test_a_candidate_damaged_at_the_second_step_loses_its_clients_within_2_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = rollout("{ share = 0.05, pairs = 30, seconds = 0.0 }", HOLD, WHOLE)
    async with stage(tmp_path, tables) as on, on.monitored() as monitor:
        async with on.traffic():
            await at(on, "stepping", 2)
            began_s = time.time()
            while counted(on, began_s).total() < 2 * SESSIONS:  # noqa: ASYNC110  traffic for a while
                await asyncio.sleep(0.05)
        healthy = counted(on, began_s)
        split = {reply.session: reply.arm for reply in on.replies if reply.began_s >= began_s}
        assert len(split) == SESSIONS
        assert 2 <= Counter(split.values())["candidate"] <= 20  # a quarter of 40
        sound = {arm: await on.direct(arm) for arm in FINGERPRINTS}
        assert all(reply.body == sound[reply.arm][reply.number] for reply in on.replies)

        for name, rate in DAMAGED.items():
            on.engines["candidate"].set_fault(name, rate)
        damaged = await on.direct("candidate")
        assert damaged != sound["candidate"]
        planted, planted_s = len(on.replies), time.time()
        async with on.traffic():
            seen_s = await failed(on)
            while time.time() < seen_s + RETURN_S + 1.0:  # noqa: ASYNC110  traffic for a while
                await asyncio.sleep(0.05)
        failed_s, returned_s = logged_s(monitor, "the verdict is fail"), logged_s(on.relay, "rollout: failed")
        hurt = counted(on, planted_s)
        of_candidate = [reply for reply in on.replies[planted:] if reply.arm == "candidate"]
        assert healthy["candidate"]
        assert of_candidate, "no client met the damage: the test shows nothing"
        for reply in on.replies[planted:]:
            assert reply.body == (damaged if reply.arm == "candidate" else sound["reference"])[reply.number]
        last_s = max(reply.began_s for reply in of_candidate) - failed_s
        assert last_s <= RETURN_S
        assert returned_s - failed_s <= RETURN_S
        assert set(counted(on, failed_s + RETURN_S)) == {"reference"}

        assert await on.place() == ("failed", 2)
        assert any("rollout: failed, step 2" in line and "0 % of the clients" in line for line in on.relay.errors)
        assert any("rollout: failed, step 2 of 3" in line and "tool_call_mismatch" in line for line in monitor.errors)

        async def shown() -> bool:
            text = await on.get("/metrics")
            return "parity_relay_rollout_share_max 0.0" in text and 'parity_rollout_phase{phase="failed"} 1.0' in text

        await until(shown)
    with capsys.disabled():
        print(
            f"\n  {len(on.replies)} requests, none failed; at 25 %: {dict(healthy)}; after the damage: {dict(hurt)}; "
            f"verdict {failed_s - planted_s:.2f} s after it, the relay returned {returned_s - failed_s:.3f} s after "
            f"that, the last request to the candidate began {last_s:+.3f} s after it"
        )


async def test_to_the_whole_and_back_from_there(tmp_path: Path) -> None:
    steps = ("{ share = 0.0, pairs = 10, seconds = 0.0 }", "{ share = 0.25, pairs = 10, seconds = 0.0 }", WHOLE)
    async with stage(tmp_path, rollout(*steps)) as on, on.monitored():
        async with on.traffic():
            promoted_s = await at(on, "promoted", 3)
            while len(on.replies) < 50 or time.time() < promoted_s + 1.0:  # noqa: ASYNC110  traffic for a while
                await asyncio.sleep(0.05)
            assert (await on.get("/gate"))["verdict"] == "pass"
            assert set(counted(on, promoted_s + 0.2)) == {"candidate"}
            for name, rate in DAMAGED.items():
                on.engines["candidate"].set_fault(name, rate)
            failed_s = await failed(on)
            while time.time() < failed_s + RETURN_S + 0.5:  # noqa: ASYNC110  traffic for a while
                await asyncio.sleep(0.05)
        assert set(counted(on, failed_s + RETURN_S)) == {"reference"}


async def test_a_killed_monitor_costs_no_client_anything_and_the_next_goes_on_at_the_same_step(tmp_path: Path) -> None:
    tables = rollout("{ share = 0.05, pairs = 30, seconds = 0.0 }", HOLD, WHOLE, max_silence_s=3600.0)
    async with stage(tmp_path, tables) as on:
        async with on.traffic():
            async with on.monitored() as monitor:
                await at(on, "stepping", 2)
                before = await on.arms()
                pairs = (await on.get("/state"))["rollout"]["pairs"]
                monitor.kill()
                await monitor.process.wait()
            assert await on.arms() == before
            async with on.monitored():
                await at(on, "stepping", 2)
                assert (await on.get("/state"))["rollout"]["pairs"] == pairs
                assert await on.arms() == before
        assert set(counted(on)) == {"candidate", "reference"}


async def test_without_a_monitor_for_long_the_reference_serves_until_one_is_back(tmp_path: Path) -> None:
    tables = rollout("{ share = 0.5, pairs = 1000000 }", WHOLE, max_silence_s=1.5)
    async with stage(tmp_path, tables) as on:
        assert set((await on.arms()).values()) == {"reference"}  # nobody said anything yet
        async with on.traffic(2):
            async with on.monitored() as monitor:
                await at(on, "stepping", 1)
                before = await on.arms()
                monitor.kill()
                await monitor.process.wait()
            killed_s = time.time()
            assert set(before.values()) == {"candidate", "reference"}

            async def all_at_the_reference() -> bool:
                return set((await on.arms()).values()) == {"reference"}

            assert await until(all_at_the_reference) > killed_s + 0.4  # what was said last held for a while
            assert any("the monitor was silent" in line for line in on.relay.errors)
            async with on.monitored():

                async def as_before() -> bool:
                    return await on.arms() == before

                await until(as_before)
        counted(on)


async def test_an_operators_abort_holds_through_a_restart_until_resume(tmp_path: Path) -> None:
    tables = rollout("{ share = 0.5, pairs = 1000000 }", WHOLE)
    async with stage(tmp_path, tables) as on:
        async with on.traffic(2), on.monitored():
            await at(on, "stepping", 1)
            before = await on.arms()
            assert "candidate" in before.values()
            told = await on.act("abort")
            acted_s = time.time()
            assert (told["phase"], told["share"]) == ("aborted", 0.0)

            async def recorded() -> bool:
                event = open_read_only(tmp_path / "ledger.sqlite").latest_event("rollout")
                return event is not None and event["phase"] == "aborted"

            await until(recorded)
        assert set(counted(on, acted_s + RETURN_S)) <= {"reference"}
        async with on.monitored():
            await at(on, "aborted", 1)
            assert set((await on.arms()).values()) == {"reference"}
            refused = await on.http.post(f"http://127.0.0.1:{on.monitor.port}/rollout/promote")  # type: ignore[union-attr]
            assert refused.status_code == 409
            await on.act("resume")

            async def as_before() -> bool:
                return await on.arms() == before

            await until(as_before)


async def test_a_reset_after_a_fail_begins_at_the_first_step(tmp_path: Path) -> None:
    tables = rollout("{ share = 0.05, pairs = 1000000 }", WHOLE)
    async with stage(tmp_path, tables) as on, on.monitored() as monitor:
        on.engines["candidate"].set_fault("tool_name", 1.0)
        async with on.traffic():
            await failed(on)
        await at(on, "failed", 1)
        on.engines["candidate"].set_fault("tool_name", 0.0)
        reply = await on.http.post(f"http://127.0.0.1:{monitor.port}/gate/reset", json={"reason": "repaired"})
        assert reply.status_code == 200
        assert await on.place() == ("stepping", 1)
        events: list[Any] = open_read_only(tmp_path / "ledger.sqlite").events()
        assert [event.detail["phase"] for event in events if event.kind == "rollout"][-1] == "stepping"
