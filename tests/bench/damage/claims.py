"""What the field knows of precision, as checks of measured rows.

A claim that is `asserted` fails the bench when it does not hold. The others are told with their numbers, whether this
model shows them or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.damage.items import COLUMNS, FACTS, NEEDLES
from tests.bench.damage.tally import Row, paired, share

Outcomes = Mapping[str, Sequence[Row]]
LONG = FACTS[2:]
NEAR_FLOOR = 0.25  # *choice*: an FP8 that costs a quarter of INT4 is near the floor
KEPT = 0.1  # *choice*: short chat stays when it loses less than this share of its right answers


@dataclass(frozen=True, slots=True)
class Claim:
    """One check: what is claimed, whether it held, and the numbers."""

    text: str
    asserted: bool
    holds: bool
    numbers: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"claim": self.text, "asserted": self.asserted, "holds": self.holds, "numbers": self.numbers}


def claims(found: Outcomes) -> list[Claim]:
    """Every claim, checked on outcomes by recipe."""
    fp8, int4 = _kl(found["fp8-weights"]), _kl(found["int4-weights"])
    channel = _more(found, "int4-weights-per-channel", "int4-weights", "prompt_kl")
    ours, whole = found["int4-kv-per-tensor"], found["bf16"]
    long_recall, their_recall = _right(ours, LONG), _right(whole, LONG)
    short_recall, longest_recall = _right(ours, FACTS[:1]), _right(ours, FACTS[-1:])
    needle, their_needle = _right(ours, NEEDLES[2:]), _right(whole, NEEDLES[2:])
    chat, their_chat = _right(ours, ("chat",)), _right(whole, ("chat",))
    per_head, per_token_head = (_right(found[f"int4-kv-per-{one}"], LONG) for one in ("head", "token-head"))
    recovered = _more(found, "int4-kv-per-head", "int4-kv-per-tensor", "right", LONG)
    recovered_by_token = _more(found, "int4-kv-per-token-head", "int4-kv-per-tensor", "right", LONG)
    head_kl = _more(found, "int4-kv-per-tensor", "int4-kv-per-head", "kl", LONG)
    return [
        Claim(
            f"FP8 weights are near the floor: their KL is below {NEAR_FLOOR:.0%} of INT4's with groups of 128",
            asserted=True,
            holds=fp8 < NEAR_FLOOR * int4,
            numbers={"fp8": fp8, "int4": int4, "reread": _kl(found["reread"])},
        ),
        Claim(
            "INT4 weights per channel cost more than with groups of 128, on the same texts",
            asserted=True,
            holds=channel["mean"] > 0 and channel["apart"],
            numbers=channel,
        ),
        Claim(
            "INT4 KV per tensor costs more than per token and head, on the same texts",
            asserted=True,
            holds=_apart(token_head := _more(found, "int4-kv-per-tensor", "int4-kv-per-token-head", "prompt_kl")),
            numbers=token_head,
        ),
        Claim(
            "INT4 KV per tensor loses facts of lists in prompts of more than 1,000 tokens (the intervals are apart)",
            asserted=True,
            holds=long_recall["high"] < their_recall["low"],
            numbers={"int4-kv-per-tensor": long_recall, "bf16": their_recall},
        ),
        Claim(
            "and more of it the longer the prompt: less is left in the longest bucket than in the shortest",
            asserted=True,
            holds=longest_recall["high"] < short_recall["low"],
            numbers={"4096": longest_recall, "512": short_recall},
        ),
        Claim(
            f"while short chat stays: it loses less than {KEPT:.0%} of its right answers",
            asserted=True,
            holds=chat["share"] > their_chat["share"] - KEPT,
            numbers={"int4-kv-per-tensor": chat, "bf16": their_chat},
        ),
        Claim(
            "INT4 KV with a scale per token and head recovers much of that recall, on the same prompts",
            asserted=True,
            holds=_apart(recovered_by_token),
            numbers={"gained": recovered_by_token, "int4-kv-per-token-head": per_token_head},
        ),
        Claim(
            "one fixed scale per head alone makes those replies less divergent than one per tensor (KL)",
            asserted=False,
            holds=_apart(head_kl),
            numbers={"kl_gap": head_kl},
        ),
        Claim(
            "and recovers recall, on the same prompts",
            asserted=False,
            holds=_apart(recovered),
            numbers={"gained": recovered, "int4-kv-per-head": per_head, "int4-kv-per-tensor": long_recall},
        ),
        Claim(
            "a single needle in filler is lost too (the intervals are apart)",
            asserted=False,
            holds=needle["high"] < their_needle["low"],
            numbers={"int4-kv-per-tensor": needle, "bf16": their_needle},
        ),
    ]


NEEDED = ("bf16", "fp8-weights", "int4-weights", "int4-weights-per-channel", "int4-kv-per-tensor", "int4-kv-per-head",
          "int4-kv-per-token-head")  # fmt: skip
"""Recipes that a claim rests on, which get the larger set of requests."""


def _kl(outcomes: Sequence[Row]) -> float:
    values = [one["prompt_kl"] for one in outcomes if one["prompt_kl"] is not None]
    return float(f"{sum(values) / len(values):.4g}")


def _right(outcomes: Sequence[Row], columns: Sequence[str]) -> dict[str, Any]:
    return share([one["right"] for one in outcomes if one["column"] in columns])


def _more(found: Outcomes, worse: str, better: str, field: str, columns: Sequence[str] = COLUMNS) -> dict[str, Any]:
    """By how much a field of one recipe is above another's on the same requests."""
    sides = [
        [one[field] for one in found[name] if one["column"] in columns and one[field] is not None]
        for name in (worse, better)
    ]
    return paired(*sides)


def _apart(gap: Mapping[str, Any]) -> bool:
    return bool(gap["mean"] > 0 and gap["apart"])
