"""The requests of the damage table: held-out, seeded, the same for every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backends.emulator.tasks.requests import BUCKETS, requests
from backends.emulator.vocabulary import Vocabulary

SEED = 20_261_124  # any number but the evaluation's and the tests'
NEEDLES = tuple(f"needle {bucket}" for bucket in BUCKETS)
FACTS = tuple(f"facts {bucket}" for bucket in BUCKETS)
COLUMNS = ("tools", "chat", *NEEDLES, *FACTS)
_KINDS = {"tools": ("tool_one", "tool_parallel", "tool_none"), "chat": ("chat", "arithmetic"),
          "needle": ("needle_text",), "facts": ("needle_list",)}  # fmt: skip
FEW = {"tools": 36, "chat": 24, "needle 512": 24, "needle 1024": 16, "needle 2048": 10, "needle 4096": 6,
       "facts 512": 16, "facts 1024": 16, "facts 2048": 16, "facts 4096": 16}  # fmt: skip
"""*choice*: some 50 s of one core for a recipe."""
MANY = {"tools": 90, "chat": 60, "needle 512": 60, "needle 1024": 48, "needle 2048": 36, "needle 4096": 24,
        "facts 512": 80, "facts 1024": 80, "facts 2048": 80, "facts 4096": 80}  # fmt: skip
"""*choice*: where a claim rests on the recipe. 24 of 24 against 16 of 24 are apart at 95 %."""
TEXTS = 18  # *choice*: tool prompts whose every token is compared, some 6,000


@dataclass(frozen=True, slots=True)
class Item:
    """One request, its prompt as tokens, and what is right. `whole`: its prompt's own tokens are compared too."""

    column: str
    request: dict[str, Any]
    ids: tuple[int, ...]
    whole: bool

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self.request["tools"] or []


def all_items(vocabulary: Vocabulary) -> list[Item]:
    """Every item, by column; the first FEW of each column are a set of their own."""
    found = []
    for column in COLUMNS:
        name, _, top = column.partition(" ")
        kinds, bucket = _KINDS[name], int(top) if top else None
        drawn = requests(SEED + (bucket or 0), "heldout", MANY[column], kinds, bucket)
        for number, one in enumerate(drawn):
            ids = vocabulary.chat(one["messages"], one["tools"] or [], {}).ids
            found.append(Item(column, one, ids, whole=column == "tools" and number < TEXTS))
    return found


def chosen(items: list[Item], counts: dict[str, int]) -> list[int]:
    """The places in `items` of the first `counts` of each column that it names."""
    seen = dict.fromkeys(counts, 0)
    places = []
    for place, item in enumerate(items):
        if item.column in counts and seen[item.column] < counts[item.column]:
            seen[item.column] += 1
            places.append(place)
    return places
