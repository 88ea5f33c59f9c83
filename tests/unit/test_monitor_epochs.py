"""Epochs in a whole monitor, arms and ledger in memory: what ends one, what holds meanwhile, what a restart finds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.errors import LedgerError
from proxy.monitor.prompt_tokens import RECENT_ROWS
from proxy.monitor.standing import Standing
from tests.unit.monitor_rig import MemoryLedger, chat_reply, exchange, mark, row, settings, until
from tests.unit.test_monitor_pipeline import Rig, evidence, running, same


def alone(ledger: MemoryLedger) -> dict[str, Any]:
    """What the ledger gives without the monitor."""
    latest = ledger.latest_epoch()
    assert latest is not None
    standing = Standing(str(latest[1]["recipe"]), evidence)
    standing.resume(ledger, *latest)
    return standing.verdict(()).as_dict()


@pytest.mark.asyncio
async def test_arms_that_count_other_prompts_end_the_epoch_until_a_long_run_agrees() -> None:
    told = {"prompt_tokens": 9}

    async with running(settings(concurrency=4)) as rig:  # the rows wake the watch, not its interval

        async def sent(numbers: range) -> None:
            for n in numbers:
                rig.send(mark(n), exchange(n, reply=chat_reply("fine", **told)))
                if n % 200 == 199:
                    await rig.rows(n + 1)
            await rig.rows(numbers.stop)

        told["prompt_tokens"] = 7
        await sent(range(10))
        assert [number for number, _, _ in rig.ledger.epochs] == [1]
        told["prompt_tokens"] = 9
        await sent(range(10, 13))
        await until(lambda: rig.monitor.state()["epoch"] == 2)
        assert rig.ledger.epochs[1][2] == (
            "prompt tokens: agree became differ: on 3 of the last 13 requests the arms counted different prompt tokens"
        )
        verdict = rig.monitor.verdict().as_dict()
        assert verdict == alone(rig.ledger)
        assert (verdict["verdict"], verdict["diagnosis"]["axis"]) == ("inconclusive", "template")
        assert verdict["contract"]["prompt_tokens"] == "differ"
        await sent(range(13, 20))
        told["prompt_tokens"] = 7
        await sent(range(20, 19 + RECENT_ROWS))
        assert rig.monitor.state()["epoch"] == 2
        await sent(range(19 + RECENT_ROWS, 20 + RECENT_ROWS))
        await until(lambda: rig.monitor.state()["epoch"] == 3)
        verdict = rig.monitor.verdict().as_dict()
        assert verdict["contract"]["prompt_tokens"] == "agree"
        assert "0 of the last 1000" in verdict["contract"]["reason"]
        assert "template" not in " ".join(verdict["reasons"])
        await sent(range(20 + RECENT_ROWS, 30 + RECENT_ROWS))
        await until(lambda: rig.monitor.verdict().coverage.sampled == 10)
        assert rig.monitor.verdict().as_dict() == alone(rig.ledger)
    assert len(rig.ledger.epochs) == 3


@pytest.mark.asyncio
async def test_a_difference_that_a_kill_left_without_its_epoch_is_told_and_ended_by_the_next_monitor() -> None:
    ledger = MemoryLedger()
    async with running(ledger=ledger):
        pass
    ledger.append([row(n, disposition="ineligible", prompt_tokens=9, reference_prompt_tokens=7) for n in range(3)])
    assert alone(ledger)["reason"].startswith("on 3 of the last 3 requests")
    async with running(ledger=ledger) as rig:
        await until(lambda: rig.monitor.state()["epoch"] == 2)
        assert rig.monitor.verdict().contract["prompt_tokens"] == "differ"
    async with running(ledger=ledger) as rig:
        assert rig.monitor.verdict().epoch == 2
        assert rig.monitor.verdict().contract["prompt_tokens"] == "differ"


@pytest.mark.asyncio
async def test_an_epoch_from_before_prompt_tokens_were_part_of_it_goes_on() -> None:
    ledger = MemoryLedger()
    async with running(ledger=ledger):
        pass
    number, contract, why = ledger.epochs[0]
    ledger.epochs[0] = (number, {part: value for part, value in contract.items() if part != "prompt_tokens"}, why)
    async with running(ledger=ledger) as rig:
        assert rig.monitor.verdict().epoch == 1
        assert rig.monitor.verdict().contract["prompt_tokens"] == "agree"
    assert len(ledger.epochs) == 1


@pytest.mark.asyncio
async def test_an_epoch_that_the_ledger_does_not_take_is_tried_again_and_holds_meanwhile() -> None:
    async with running(look_interval_s=0.05) as rig:
        refused = rig.ledger.open_epoch

        def full(contract: Any, reason: str, at_unix_s: float) -> int:
            raise LedgerError("the disk is full")

        rig.ledger.open_epoch = full  # type: ignore[method-assign]
        rig.send(*(exchange(n, reply=chat_reply("fine", prompt_tokens=9)) for n in range(3)))
        await until(lambda: any("could not open" in reason for reason in rig.monitor.verdict().reasons))
        assert "template" in rig.monitor.verdict().reasons[0]
        rig.send(exchange(3))
        assert (await rig.rows(4))[3].reason == "epoch_closed"
        rig.ledger.open_epoch = refused  # type: ignore[method-assign]
        await until(lambda: rig.monitor.state()["epoch"] == 2)
        assert rig.monitor.verdict().reasons[0].startswith("the arms count different prompt tokens")


@pytest.mark.asyncio
async def test_templates_that_differ_at_the_start_hold_before_any_row() -> None:
    rig = Rig(settings(), MemoryLedger(), same, same)
    for backend, tokens in ((rig.candidate, b"[1,2]"), (rig.reference, b"[3]")):
        backend.tokens = b'{"tokens":' + tokens + b"}"
    task = asyncio.create_task(rig.monitor.run(rig.shutdown))
    await until(lambda: rig.monitor.readiness()["resumed"] or task.done())
    verdict = rig.monitor.verdict().as_dict()
    rig.shutdown.set()
    await asyncio.wait_for(task, 20.0)
    assert verdict["reason"].startswith("the arms turn one conversation into different tokens")
    assert verdict["diagnosis"]["axis"] == "template"
    assert verdict["contract"]["prompt_tokens"] == "differ"
    assert verdict == alone(rig.ledger)
