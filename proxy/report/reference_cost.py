"""What an epoch's pairs cost the reference, from the ledger alone: tokens read and generated, replies it was spared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from proxy.monitor.costs import REGENERATED, VERIFIED, TokenCount
from proxy.monitor.ledger_file import open_reader, said_plainly

FLOOR = "noise"  # what is spent whatever the mode: the reference against itself


@dataclass(frozen=True, slots=True)
class ReferenceCost:
    """`answers` counts rows with a reply of the reference by how it was come by. Units: tokens."""

    answers: Mapping[str, int]
    tokens: tuple[TokenCount, ...]

    @property
    def pairs(self) -> int:
        return sum(self.answers.values())

    @property
    def verified(self) -> int:
        return self.answers.get(VERIFIED, 0)

    @property
    def regenerated(self) -> Mapping[str, int]:
        """By reason, the most frequent first; no reason is "" (the mode is regenerate)."""
        found = Counter(
            {how.removeprefix(REGENERATED).removeprefix("/"): n for how, n in self.answers.items() if how != VERIFIED}
        )
        return dict(found.most_common())

    def per_pair(self, *, floor: bool) -> tuple[float, float]:
        """(tokens read, tokens generated) per pair: of the noise floor, or of all else."""
        counts = [count for count in self.tokens if (count.purpose == FLOOR) is floor]
        pairs = max(self.pairs, 1)
        return sum(count.prefill for count in counts) / pairs, sum(count.decode for count in counts) / pairs


def reference_cost(ledger: Path, epoch: int) -> ReferenceCost:
    """The cost of one epoch's rows that are still there. Raises: LedgerError."""
    with said_plainly(ledger, "read it"), closing(open_reader(ledger)) as connection:
        answers = connection.execute(
            "SELECT n.name, count(*) FROM exchanges e JOIN names n ON n.id = e.reference_answer "
            "WHERE e.epoch = ? GROUP BY n.name ORDER BY n.name",
            (epoch,),
        ).fetchall()
        tokens = connection.execute(
            "SELECT t.key, sum(json_extract(t.value, '$[0]')), sum(json_extract(t.value, '$[1]')) "
            "FROM exchanges e, json_each(e.reference_tokens) t WHERE e.epoch = ? GROUP BY t.key ORDER BY t.key",
            (epoch,),
        ).fetchall()
    return ReferenceCost(dict(answers), tuple(TokenCount(*row) for row in tokens))


def cost_line(cost: ReferenceCost) -> str:
    """The cost in one line for a person; empty where no row tells it."""
    if not cost.pairs:
        return ""
    (read, made), (floor_read, floor_made) = cost.per_pair(floor=False), cost.per_pair(floor=True)
    line = f"reference, tokens per pair: {read:,.0f} read and {made:,.1f} generated"
    if floor_read:
        line += f", and {floor_read:,.0f} and {floor_made:,.1f} for the noise floor"
    if cost.regenerated.keys() == {""}:
        return line
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in cost.regenerated.items())
    return f"{line}; {cost.verified:,} of {cost.pairs:,} replies verified" + (f" ({reasons})" if reasons else "")
