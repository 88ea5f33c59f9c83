"""Verifying on real sockets: the same scores and verdicts as regenerating, for a part of the decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import proxy.monitor.verify
from backends.scripted import Script
from proxy.monitor.rows import LedgerRow
from proxy.settings import LedgerSettings
from scorers.proof import Hypothesis, Verified
from scorers.records import Reason, TokenLogprobs
from tests.integration.monitor_world import World, engines, running, until, world_settings

pytestmark = pytest.mark.together

SEEN = 60
WORN = Script(shift=0.2, faults={"tool_argument": 0.1, "text": 0.05, "phrase": 0.05, "needle": 0.2})
RATES: Mapping[str, Any] = {"noise_rate": 0.2, "replay_rate": 0.6, "teacher_forced_rate": 0.1, "concurrency": 4}


@dataclass(frozen=True)
class Played:
    rows: Sequence[LedgerRow]
    budgets: Mapping[str, tuple[str, int, float | None]]
    counted: Mapping[tuple[str, ...], float]  # parity_reference_tokens_total by (kind, purpose)
    readiness: Mapping[str, bool]

    @property
    def answers(self) -> Counter[str]:
        return Counter(row.reference_answer for row in self.rows if row.reference_answer)

    def tokens(self, *purposes: str) -> tuple[int, int]:
        counts = [count for row in self.rows for count in row.reference_tokens if count.purpose in purposes]
        return sum(count.prefill for count in counts), sum(count.decode for count in counts)


async def played(path: Path, mode: str, candidate: Script, reference: Script | None = None, **mirror: Any) -> Played:
    """Traffic through a monitor in one mode, until every exchange and needle has its row."""
    settings = world_settings(path, mode=mode, **{**RATES, "timeout_s": 60.0, **mirror})
    settings = settings.model_copy(update={"ledger": LedgerSettings(path=path / f"{mode}.sqlite", keep_share=0.0)})
    async with engines(candidate, reference) as (one, other), running(World(settings, one, other)) as world:
        world.send(await world.exchanges(5, SEEN))
        await until(lambda: world.monitor.verdict().coverage.sampled >= SEEN and world.at_rest(), 120.0)
        verdict, readiness = world.monitor.verdict(), world.monitor.readiness()
        rows = list(world.ledger.rows(1))
        counted = {
            (sample.labels["kind"], sample.labels["purpose"]): sample.value
            for family in world.metrics.collect()
            if family.name == "parity_reference_tokens"
            for sample in family.samples
        }
    budgets = {name: (one.state, one.samples, one.value) for name, one in verdict.budgets.items()}
    return Played(rows, budgets, counted, readiness)


def differing(one: Played, other: Played) -> Counter[str]:
    """The scores whose number or reason is not the same in both, by name."""
    assert [(row.id, row.kind) for row in by_place(one)] == [(row.id, row.kind) for row in by_place(other)]
    pairs = zip(by_place(one), by_place(other), strict=True)
    return Counter(name for left, right in pairs for name in unlike(left, right))


def by_place(played: Played) -> list[LedgerRow]:
    return sorted(played.rows, key=lambda row: (row.id, row.kind))


def unlike(left: LedgerRow, right: LedgerRow) -> list[str]:
    assert (left.disposition, left.reason, left.stratum) == (right.disposition, right.reason, right.stratum)
    numbers = [
        {(s.arm, s.name): s.value if s.reason is None else s.reason for s in row.scores} for row in (left, right)
    ]
    assert numbers[0].keys() == numbers[1].keys()
    return [name for (arm, name), value in numbers[0].items() if not alike(value, numbers[1][arm, name])]


def alike(left: float | Reason | None, right: float | Reason | None) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == pytest.approx(right, abs=1e-6)
    return left == right


@pytest.mark.asyncio
async def test_the_same_scores_and_verdicts_for_a_part_of_the_decoding(tmp_path: Path) -> None:
    full = await played(tmp_path, "regenerate", WORN)
    less = await played(tmp_path, "verify", WORN)
    assert differing(full, less) == {}
    for name, (state, samples, value) in full.budgets.items():
        assert less.budgets[name][:2] == (state, samples)
        assert alike(value, less.budgets[name][2]), name
    assert (less.budgets["tool_call_mismatch"][2] or 0.0) > 0.0  # there is something that a proof could have hidden
    assert full.answers.keys() == {"regenerated"}
    assert less.answers["verified"] > 0.25 * less.answers.total()
    assert less.answers["regenerated/another_token"] > 0
    assert full.tokens("verify") == (0, 0)
    whole, part = full.tokens("pair", "needle")[1], less.tokens("pair", "needle", "verify")[1]
    assert part < 0.75 * whole  # a short run: its first pairs begin before anything is trusted
    assert full.tokens("noise") == less.tokens("noise")  # the floor is measured as ever
    assert full.tokens("teacher_forced") == less.tokens("teacher_forced")


@pytest.mark.asyncio
async def test_rows_and_counters_tell_the_same_and_noise_is_never_verified(tmp_path: Path) -> None:
    less = await played(tmp_path, "verify", Script())
    for kind, place in (("prefill", 0), ("decode", 1)):
        for purpose in ("pair", "noise", "verify", "needle", "teacher_forced"):
            assert less.counted[kind, purpose] == less.tokens(purpose)[place], (kind, purpose)
    noisy = [row for row in less.rows if any(score.arm == "noise" for score in row.scores)]
    assert noisy
    assert all(row.reference_answer in ("regenerated/coin", "regenerated/request") for row in noisy)
    assert any(row.reference_answer == "verified" for row in less.rows if row.kind == "probe")
    for row in less.rows:
        if row.reference_answer == "verified":
            assert [(count.purpose, count.decode) for count in row.reference_tokens] == [("verify", 1)]


@pytest.mark.asyncio
async def test_one_that_accepts_all_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the check: with a proof that proves everything the two modes part."""

    def gullible(body: bytes, prompt_tokens: int, hypothesis: Hypothesis, margin_nats: float) -> Verified:
        keys = tuple(f"token_id:{token}" for token in hypothesis.tokens)
        lists = tuple({key: -0.1, "token_id:0": -3.0} for key in keys)
        return Verified(hypothesis.tokens, TokenLogprobs(keys, (-0.1,) * len(keys), lists))

    full = await played(tmp_path, "regenerate", WORN)
    monkeypatch.setattr(proxy.monitor.verify, "proof", gullible)
    less = await played(tmp_path, "verify", WORN)
    assert "text_mismatch" in differing(full, less)


@pytest.mark.asyncio
async def test_an_engine_without_prompt_logprobs_is_asked_for_everything(tmp_path: Path) -> None:
    deaf = Script(faults={"prompt_logprobs": 1.0})
    full = await played(tmp_path, "regenerate", WORN, deaf)
    less = await played(tmp_path, "verify", WORN, deaf)
    assert differing(full, less) == {}
    assert less.answers["verified"] == 0
    assert less.answers["regenerated/engine"] > 0.25 * less.answers.total()
    assert full.tokens("pair", "noise", "needle") == less.tokens("pair", "noise", "needle")
    assert less.readiness["reference_answers"]  # what it refused is ours to do without


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["error_500", "close_at_once"])
async def test_a_reference_that_fails_loses_what_it_loses_anyway(tmp_path: Path, fault: str) -> None:
    ill = Script(faults={fault: 0.3})
    less = await played(tmp_path, "verify", Script(), ill, breaker_failures=1_000)
    assert {row.disposition for row in less.rows} <= {"scored", "ineligible"}
    lost = {s.reason for row in less.rows for s in row.scores if s.reason is not None and s.reason.lost}
    assert lost == {Reason.REFERENCE_ERROR}
    assert less.answers["verified"] > 0
