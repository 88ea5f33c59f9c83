"""Shares and means with their 95 % intervals, out of outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.damage.items import COLUMNS

Row = Mapping[str, Any]
Z = 1.959964  # two-sided 95 %


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The interval of a share. Source: Wilson 1927."""
    if not count:
        return 0.0, 1.0
    share, z2 = hits / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(values: Sequence[bool]) -> dict[str, Any]:
    """A share with its count and interval."""
    low, high = wilson(sum(values), len(values))
    return {
        "share": round(sum(values) / len(values), 4),
        "count": len(values),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def mean(values: Sequence[float]) -> dict[str, Any]:
    """A mean over requests with its count and interval (normal)."""
    count = len(values)
    middle = sum(values) / count
    spread = math.sqrt(sum((one - middle) ** 2 for one in values) / max(1, count - 1) / count)
    low, high = middle - Z * spread, middle + Z * spread
    return {"mean": _short(middle), "count": count, "low": _short(max(0.0, low)), "high": _short(high)}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The mean of ours minus theirs on the same requests; `apart` when zero lies outside of its interval."""
    gaps = [one - other for one, other in zip(ours, theirs, strict=True)]
    middle = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((one - middle) ** 2 for one in gaps) / max(1, len(gaps) - 1) / len(gaps))
    return {
        "mean": _short(middle),
        "count": len(gaps),
        "low": _short(middle - Z * spread),
        "high": _short(middle + Z * spread),
        "apart": abs(middle) > Z * spread,
    }


def row(outcomes: Sequence[Row]) -> dict[str, Any]:
    """The figures of one recipe."""
    texts = [one for one in outcomes if one["prompt_kl"] is not None]
    return {
        "reply_kl_nats": mean([one["kl"] for one in outcomes]),
        "prompt_kl_nats": mean([one["prompt_kl"] for one in texts]),
        "reply_top1": mean([one["top1"] for one in outcomes]),
        "prompt_top1": mean([one["prompt_top1"] for one in texts]),
        "same_reply": share([one["same_text"] for one in outcomes]),
        **{name: share([one["right"] for one in outcomes if one["column"] == name]) for name in COLUMNS},
    }


def _short(number: float) -> float:
    return float(f"{number:.4g}")
