"""What the reference's replies cost, in its own count of tokens: prefill and decode, by what they were asked for. Pure.

Counted from each reply's `usage`, so a call that brought no reply costs nothing here, and what an engine found in its
prefix cache is counted as read. `/tokenize` and `/detokenize` cost no step of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias, get_args

import orjson

from backends.base import Reply

Purpose: TypeAlias = Literal["pair", "noise", "teacher_forced", "verify", "needle"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
"""pair: its reply to a client's request, needle: to a planted one, noise: the second run of either; teacher_forced and
verify: a prefill over tokens that were there already."""

VERIFIED, REGENERATED = "verified", "regenerated"

_MAX_COUNT = 1 << 48  # *choice*: an upstream's own number; sums of these stay exact as floats for 32 of them
# Inside of a JSON string the quotes would be escaped, so this is the object itself.
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class TokenCount(NamedTuple):
    """Units: tokens."""

    purpose: Purpose
    prefill: int
    decode: int


def spent(calls: Iterable[tuple[Purpose, Reply | None]]) -> tuple[TokenCount, ...]:
    """The tokens of these replies by purpose, in the order of PURPOSES; a purpose without a count is left out."""
    sums: dict[Purpose, list[int]] = {}
    for purpose, reply in calls:
        used = None if reply is None else usage_of(reply.body)
        if used is not None:
            total = sums.setdefault(purpose, [0, 0])
            total[0] += used[0]
            total[1] += used[1]
    return tuple(TokenCount(purpose, *sums[purpose]) for purpose in PURPOSES if purpose in sums)


def tokens_text(counts: Iterable[TokenCount]) -> str | None:
    """The counts as the ledger keeps them, {"pair":[900,31]}; None for none."""
    kept = {count.purpose: [count.prefill, count.decode] for count in counts}
    return orjson.dumps(kept).decode() if kept else None


def tokens_from(text: str | None) -> tuple[TokenCount, ...]:
    """What `tokens_text` wrote. Raises: ValueError on anything else."""
    if text is None:
        return ()
    try:
        found = orjson.loads(text)
        return tuple(TokenCount(purpose, *map(int, found[purpose])) for purpose in PURPOSES if purpose in found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text[:80]!r} is no count of tokens") from error


def usage_of(body: bytes) -> tuple[int, int] | None:
    """(prompt tokens, completion tokens) as a whole reply tells them, without parsing the rest of it."""
    last = body.rfind(b'"usage"')  # as every engine writes it behind the choices, whose logprobs are most of a body
    found = None if last < 0 else _USAGE.search(body, last) or _USAGE.search(body)
    if found is None:
        return None
    try:
        usage = orjson.loads(found[1])
    except orjson.JSONDecodeError:
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if any(type(count) is not int or not 0 <= count <= _MAX_COUNT for count in counts):
        return None
    return counts
