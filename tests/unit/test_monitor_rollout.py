"""The staged rollout's steps: what each needs, when it falls, and what a restart finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.errors import LedgerError, RolloutError
from proxy.exchange import Order, Phase
from proxy.monitor.rollout import Place, Rollout, begun, fallen, needs, recalled, stepped
from proxy.settings import RolloutSettings, StepSettings
from scorers.judge import Verdict
from tests.unit.monitor_samples import lane, verdict

STEPS = (
    StepSettings(share=0.05, pairs=100, seconds=60.0),
    StepSettings(share=0.25, pairs=100, seconds=60.0),
    StepSettings(share=1.0),
)
FIRST = Place(3, Phase.STEPPING, 0, 400, 1000.0, "begins")
SECOND = replace(FIRST, step=1, pairs=500)


def judged(state: Any = "inconclusive", samples: int = 500, epoch: int | None = 3) -> Verdict:
    return verdict(state, samples=samples, epoch=epoch)


def over(value: float, state: Any = "inconclusive") -> Verdict:
    budgets = {name: replace(budget, lane=lane(state, value=value)) for name, budget in verdict().budgets.items()}
    return verdict(budgets=budgets, samples=500)


@pytest.mark.parametrize(
    ("place", "told", "now_s", "said"),
    [
        (FIRST, judged(), 1060.0, []),
        (FIRST, judged(samples=499), 1060.0, ["99 of 100 pairs at this step"]),
        (FIRST, judged(), 1059.0, ["59 of 60 s at this step"]),
        (FIRST, over(0.2), 1060.0, ["tool_call_mismatch is over its limit", "logprob_kl is over its limit"]),
        (FIRST, over(0.01, "fail"), 1060.0, ["tool_call_mismatch is over its limit", "logprob_kl is over its limit"]),
        (SECOND, judged("pass", 600), 1060.0, []),
        (replace(SECOND, phase=Phase.PROMOTED, step=2), judged(), 0.0, []),
        (replace(SECOND, phase=Phase.PAUSED), judged("pass", 600), 2000.0, ["it is paused: begins"]),
    ],
)
def test_what_a_step_still_needs(place: Place, told: Verdict, now_s: float, said: list[str]) -> None:
    assert needs(place, told, STEPS, now_s) == said


def test_the_whole_needs_a_pass() -> None:
    (said,) = needs(SECOND, judged("inconclusive", 600), STEPS, 1060.0)
    assert said.startswith("the last step needs the verdict pass, and it is inconclusive: ")


@pytest.mark.parametrize("phase", [Phase.STEPPING, Phase.PAUSED, Phase.PROMOTED])
def test_a_fail_falls_from_everywhere_and_is_kept(phase: Phase) -> None:
    place = fallen(replace(SECOND, phase=phase), judged("fail"), 7.0)
    assert (place.phase, place.order(STEPS).share) == (Phase.FAILED, 0.0)
    assert fallen(place, judged("fail"), 8.0) is place


def test_an_inconclusive_verdict_moves_nothing() -> None:
    for phase in (Phase.STEPPING, Phase.PAUSED, Phase.PROMOTED):
        place = replace(SECOND, phase=phase)
        assert fallen(place, judged(), 7.0) is place


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (SECOND, judged(epoch=4, samples=0)),
        (replace(SECOND, phase=Phase.PROMOTED, step=2), judged(epoch=4, samples=900)),
        (replace(SECOND, phase=Phase.FAILED), judged(samples=0)),
        (SECOND, judged(samples=499)),
    ],
    ids=["epoch", "epoch after promotion", "reset after a fail", "reset"],
)
def test_new_evidence_begins_at_the_first_step(place: Place, told: Verdict) -> None:
    assert fallen(place, told, 9.0) == replace(begun(told, 9.0, ""), reason=fallen(place, told, 9.0).reason)


def test_an_abort_outlives_epochs_and_resets_that_nobody_spoke_of() -> None:
    place = replace(SECOND, phase=Phase.ABORTED)
    for told in (judged("fail"), judged(epoch=4), judged(samples=0)):
        assert fallen(place, told, 9.0) is place


def test_the_last_step_is_promotion() -> None:
    assert stepped(FIRST, judged(), STEPS, 9.0, "x") == Place(3, Phase.STEPPING, 1, 500, 9.0, "x")
    assert stepped(SECOND, judged(), STEPS, 9.0, "x").phase is Phase.PROMOTED


@pytest.mark.parametrize("phase", list(Phase))
def test_an_event_gives_the_place_again(phase: Phase) -> None:
    place = replace(SECOND, phase=phase, step=2 if phase is Phase.PROMOTED else 1)
    assert recalled(place.as_dict(STEPS), STEPS) == place


@pytest.mark.parametrize(
    ("shares", "step"), [((0.01, 0.2, 0.5, 1.0), 1), ((0.5, 1.0), 0), ((0.25, 0.3, 1.0), 0), ((0.1, 0.24, 1.0), 1)]
)
def test_under_other_steps_the_share_does_not_grow_beyond_the_first(shares: tuple[float, ...], step: int) -> None:
    other = [StepSettings(share=share) for share in shares]
    assert recalled(SECOND.as_dict(STEPS), other).step == step


class Rig:
    """A rollout, what it wrote, and what the relays heard, in one order."""

    def __init__(self) -> None:
        self.happened: list[tuple[str, Any]] = []
        self.broken = ""
        self.now_s = 1000.0
        self.meanwhile: Verdict | None = None
        self.rollout = Rollout(
            RolloutSettings(steps=STEPS), self.record, lambda told: self.wrote("soon", told), lambda: self.now_s
        )
        self.rollout.attach(lambda order: self.happened.append(("order", order)))

    async def record(self, told: Mapping[str, Any]) -> None:
        if self.meanwhile is not None:
            self.rollout.look(self.meanwhile)
        if self.broken:
            raise LedgerError(self.broken)
        self.wrote("written", told)

    def wrote(self, how: str, told: Mapping[str, Any]) -> None:
        self.happened.append((how, (told["phase"], told["share"])))

    def heard(self) -> list[tuple[str, Any]]:
        """What happened since the last time that this was asked, an order once however often it was said."""
        told, self.happened = self.happened, []
        return [one for number, one in enumerate(told) if number == 0 or one != told[number - 1]]

    @property
    def phase(self) -> str:
        return str(self.rollout.state()["phase"])

    async def turn(self, told: Verdict) -> None:
        """One beat of the clock."""
        self.rollout.look(told)
        await self.rollout.go_on(told)


def order(share: float, phase: Phase, step: int) -> tuple[str, Order]:
    return "order", Order(share, phase, step)


@pytest.mark.asyncio
async def test_the_course_to_promotion_and_back() -> None:
    rig = Rig()
    assert rig.rollout.state() == {}
    rig.rollout.resume(None, judged(samples=0))
    assert rig.heard() == [order(0.05, Phase.STEPPING, 1), ("soon", ("stepping", 0.05)), order(0.05, Phase.STEPPING, 1)]
    rig.now_s += 60
    await rig.turn(judged(samples=99))
    assert rig.rollout.state()["needs"] == ["99 of 100 pairs at this step"]
    await rig.turn(judged(samples=100))
    assert rig.heard()[1:] == [("written", ("stepping", 0.25)), order(0.25, Phase.STEPPING, 2)]
    rig.now_s += 60
    await rig.turn(judged("pass", samples=200))
    assert rig.heard()[1:] == [("written", ("promoted", 1.0)), order(1.0, Phase.PROMOTED, 3)]
    rig.rollout.look(judged("fail", samples=300))
    assert rig.heard()[:2] == [order(0.0, Phase.FAILED, 3), ("soon", ("failed", 0.0))]


@pytest.mark.asyncio
async def test_a_step_that_cannot_be_written_is_not_taken() -> None:
    rig = Rig()
    rig.rollout.resume(FIRST.as_dict(STEPS), judged(samples=500))
    rig.now_s += 60
    rig.broken = "disk full"
    with pytest.raises(LedgerError):
        await rig.turn(judged(samples=500))
    assert {one for one in rig.heard() if one[0] == "order"} == {order(0.05, Phase.STEPPING, 1)}


@pytest.mark.asyncio
async def test_a_fail_while_the_step_is_being_written_wins() -> None:
    rig = Rig()
    rig.rollout.resume(FIRST.as_dict(STEPS), judged(samples=500))
    rig.now_s += 60
    rig.meanwhile = judged("fail", samples=500)
    with pytest.raises(RolloutError):
        await rig.turn(judged(samples=500))
    happened = rig.heard()
    assert happened[-1] == ("soon", ("failed", 0.0))
    assert [told for how, told in happened if how == "order"][-1] == Order(0.0, Phase.FAILED, 1)


@pytest.mark.asyncio
async def test_an_operator_may_pause_resume_promote_and_abort() -> None:
    rig = Rig()
    rig.rollout.resume(FIRST.as_dict(STEPS), judged())
    rig.now_s += 60
    await rig.rollout.act("pause", "lunch", judged())
    await rig.turn(judged())
    assert (rig.phase, rig.rollout.state()["reason"]) == ("paused", "an operator: pause (lunch)")
    await rig.rollout.act("resume", "", judged())
    await rig.turn(judged())
    assert rig.rollout.state()["step"] == 2
    assert (await rig.rollout.act("promote", "", judged()))["phase"] == "promoted"
    assert (await rig.rollout.act("abort", "", judged()))["share"] == 0.0
    assert (await rig.rollout.act("resume", "", judged()))["step"] == 1
    await rig.rollout.act("abort", "", judged())
    rig.rollout.begin_again(judged(samples=0))
    assert rig.phase == "stepping"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("phase", "state", "acts"),
    [
        (Phase.STEPPING, "inconclusive", ["resume"]),
        (Phase.STEPPING, "fail", ["pause", "resume", "promote"]),
        (Phase.PROMOTED, "pass", ["pause", "resume", "promote"]),
        (Phase.ABORTED, "inconclusive", ["pause", "abort", "promote"]),
    ],
)
async def test_what_makes_no_sense_is_refused(phase: Phase, state: Any, acts: list[str]) -> None:
    rig = Rig()
    rig.rollout.resume(replace(SECOND, phase=phase).as_dict(STEPS), judged(state))
    before = rig.phase
    for act in acts:
        with pytest.raises(RolloutError):
            await rig.rollout.act(act, "", judged(state))
    assert rig.phase == before


@pytest.mark.asyncio
async def test_before_the_ledger_is_read_nothing_is_said_or_taken() -> None:
    rig = Rig()
    await rig.turn(judged("fail"))
    rig.rollout.begin_again(judged())
    with pytest.raises(RolloutError):
        await rig.rollout.act("abort", "", judged())
    assert rig.happened == []


@pytest.mark.parametrize("told", [{}, {"phase": "x"}, {**FIRST.as_dict(STEPS), "pairs": "many"}])
def test_an_event_that_cannot_be_read_begins_anew(told: dict[str, Any]) -> None:
    rig = Rig()
    rig.rollout.resume(told, judged())
    assert (rig.phase, rig.rollout.state()["step"]) == ("stepping", 1)


def test_a_restart_after_a_fail_finds_the_fail_even_without_its_event() -> None:
    rig = Rig()
    rig.rollout.resume(SECOND.as_dict(STEPS), judged("fail"))
    assert rig.heard()[0] == order(0.0, Phase.FAILED, 2)
