"""Rows and verdicts that tests of the ledger, the metrics and the control port share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.monitor.costs import TokenCount
from proxy.monitor.rows import LedgerRow, PairBodies, ScoreRow
from proxy.monitor.trail import Course
from scorers.judge import Verdict
from scorers.records import Reason, ScoreSpec, Stratum
from scorers.verdict import BudgetVerdict, Diagnosis, LaneVerdict, State

SPECS = (
    ScoreSpec("tool_call_mismatch", "ratio", True, "share of calls that differ"),
    ScoreSpec("logprob_kl", "nats", False, "KL per token"),
)
STRATUM = Stratum("1k-4k", True, False, True)
REQUEST = orjson.dumps(
    {
        "model": "m",
        "temperature": 0,
        "messages": [{"role": "user", "content": "Weather in <b>Turin</b>?"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}],
    }
)


def reply(text: str | None, *calls: tuple[str, str]) -> bytes:
    """A chat completion as vLLM writes it."""
    tool_calls = [{"id": "c", "type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    message = {"role": "assistant", "content": text, "tool_calls": tool_calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": 1200, "completion_tokens": 20, "total_tokens": 1220}
    return orjson.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


def bodies(text: str | None = None) -> PairBodies:
    return PairBodies(
        request=REQUEST,
        candidate=reply(text, ("get_weather", '{"city": "Turin"}')),
        reference=reply(None, ("get_weather", '{"city": "Torino"}')),
    )


def row(position: int, **changes: Any) -> LedgerRow:
    """A scored row with one number per arm, one unscored and one KL."""
    fields: dict[str, Any] = {
        "position": position,
        "epoch": 1,
        "id": f"id-{position}",
        "worker": "0-123",
        "sequence": position,
        "kind": "live",
        "sampled_unix_s": 1_000_000.0 + position,
        "disposition": "scored",
        "reason": None,
        "stratum": STRATUM,
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "complete",
        "duration_s": 1.5,
        "first_byte_s": 0.25,
        "prompt_tokens": 1200,
        "reference_prompt_tokens": 1200,
        "completion_tokens": 20,
        "reference_answer": "regenerated/near_tie",
        "reference_tokens": (TokenCount("pair", 1200, 31), TokenCount("verify", 1230, 1)),
        "scores": (
            ScoreRow("candidate", "tool_call_mismatch", float(position % 2), None, {"rung": "args"}),
            ScoreRow("candidate", "json_invalid", None, Reason.NO_JSON_FORMAT),
            ScoreRow("candidate", "logprob_kl", 0.1 * position, None),
            ScoreRow("noise", "tool_call_mismatch", 0.0, None),
            ScoreRow("noise", "logprob_kl", None, Reason.REFERENCE_TIMEOUT),
        ),
    }
    return LedgerRow(**{**fields, **changes})


def is_mismatch(score: ScoreRow) -> bool:
    return score.name == "tool_call_mismatch" and score.value is not None and score.value > 0.03


def lane(state: State = "inconclusive", **changes: Any) -> LaneVerdict:
    fields: dict[str, Any] = {
        "state": state,
        "samples": 412,
        "lost": 3,
        "share": 1.0,
        "required": True,
        "value": 0.004,
        "noise": 0.003,
        "noise_samples": 101,
        "bound": 0.021,
        "log10_e_promote": 0.8,
        "log10_e_rollback": None,
        "log10_e_noise": 0.2,
        "first_crossed_position": None,
        "changed_position": None,
        "change_level": None,
        "crossed": {},
        "reasons": ("not decided yet",),
    }
    return LaneVerdict(**{**fields, **changes})


def verdict(state: State = "inconclusive", budgets: Mapping[str, BudgetVerdict] | None = None, **more: Any) -> Verdict:
    if budgets is None:
        strata = {"1k-4k": lane(state), "16k-64k": lane("inconclusive", value=None, samples=0)}
        budgets = {
            "tool_call_mismatch": BudgetVerdict(
                "tool_call_mismatch", 0.03, True, "ratio", 0.019, 1.3, 2.0, lane(state), strata
            ),
            "logprob_kl": BudgetVerdict(
                "logprob_kl", 0.05, False, "nats", None, 1.3, 2.0, lane(value=None, noise=None, bound=None, samples=0)
            ),
        }
    fields: dict[str, Any] = {
        "reasons": ("tool_call_mismatch: 412 pairs, not decided yet",),
        "samples": 412,
        "noise_samples": 101,
        "epoch": 3,
        "recipe": "awq-int4-g128",
        "diagnosis": Diagnosis(),
    }
    return Verdict(state=state, budgets=budgets, **{**fields, **more})


class FixedView:
    """A MonitorView that says what it was told."""

    def __init__(self, judged: Verdict | None = None) -> None:
        self.judged = judged if judged is not None else verdict()
        self.ready = {"ledger": True, "reference": True}
        self.drawn = Course()
        self.paused = False
        self.broken: Exception | None = None
        self.resets: list[str] = []
        self.acts: list[tuple[str, str]] = []

    def verdict(self) -> Verdict:
        if self.broken is not None:
            raise self.broken
        return self.judged

    def course(self) -> Course:
        return self.drawn

    def readiness(self) -> Mapping[str, bool]:
        return self.ready

    def state(self) -> Mapping[str, Any]:
        return {
            "paused": self.paused,
            "breaker": "closed",
            "queue": {"exchanges": 2, "bytes": 2048},
            "contract": {"reference": {"model": "m"}},
        }

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    async def reset(self, reason: str) -> int:
        if self.broken is not None:
            raise self.broken
        self.resets.append(reason)
        return 41

    async def rollout_act(self, act: str, reason: str) -> Mapping[str, Any]:
        if self.broken is not None:
            raise self.broken
        self.acts.append((act, reason))
        return {"phase": "paused"}
