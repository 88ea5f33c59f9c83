"""Which of the prompts at hand are calibrated on: no repetition, every length, with and without tools.

Traffic repeats itself: retries, conversations that are sent again one turn longer, one document asked about a hundred
times. A set drawn blindly from it is mostly such copies.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

LENGTHS = (("0-512", 512), ("512-1k", 1_024), ("1k-4k", 4_096), ("4k-16k", 16_384), ("16k-64k", 65_536))
"""Name and exclusive upper bound in tokens; longer is "64k+". The product's strata (scorers.records)."""

FAMILY_CHARS = 512  # *choice*: a paragraph; two prompts that share it are about one document, or one conversation


@dataclass(frozen=True, slots=True)
class Rendered:
    """One prompt as the model reads it. `text` ends with the served reply where that was kept; `opening` is where the
    first user's words begin, so that a system prompt that all share makes no family. Units: tokens, characters."""

    text: str
    tokens: int
    tools: bool
    opening: int = 0

    @property
    def stratum(self) -> str:
        """Length and tools, as in "512-1k/tools"."""
        length = next((name for name, upper in LENGTHS if self.tokens < upper), "64k+")
        return f"{length}/{'tools' if self.tools else 'plain'}"

    @property
    def family(self) -> str:
        """What the prompts of one conversation, or about one document, have in common."""
        return self.text[self.opening : self.opening + FAMILY_CHARS]


def distinct(prompts: Sequence[Rendered]) -> list[int]:
    """The places of the prompts that no other one contains as its beginning; of equal ones the first."""
    kept: list[int] = []
    longer: str | None = None
    # In falling order what continues a text stands before it, and what stands between continues it too.
    for place in sorted(range(len(prompts)), key=lambda one: (prompts[one].text, -one), reverse=True):
        text = prompts[place].text
        if longer is None or not longer.startswith(text):
            kept.append(place)
            longer = text
    return sorted(kept)


def choose(prompts: Sequence[Rendered], count: int, seed: int) -> list[int]:
    """The places of at most `count` distinct prompts: each stratum in turn, in it each family in turn, drawn by `seed`.

    So every stratum has its equal share until it has no more, and no family fills one while others wait.
    """
    strata: dict[str, dict[str, list[int]]] = {}
    for place in distinct(prompts):
        one = prompts[place]
        strata.setdefault(one.stratum, {}).setdefault(one.family, []).append(place)
    draw = random.Random(seed)
    queues = [deque(_in_turn(list(strata[name].values()), draw)) for name in sorted(strata)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.popleft())
    return chosen


def strata_of(prompts: Sequence[Rendered], places: Sequence[int]) -> dict[str, int]:
    """How many of the chosen each stratum has, by name."""
    found: dict[str, int] = {}
    for place in places:
        found[prompts[place].stratum] = found.get(prompts[place].stratum, 0) + 1
    return dict(sorted(found.items()))


def _in_turn(families: list[list[int]], draw: random.Random) -> list[int]:
    draw.shuffle(families)
    for family in families:
        draw.shuffle(family)
    rounds = max(map(len, families))
    return [family[turn] for turn in range(rounds) for family in families if turn < len(family)]
