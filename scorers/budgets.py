"""What the operator allows: one `Budget` per criterion, and the `GateRules` under which evidence may decide.

Values only. The settings build them; evidence, coverage and the judge read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

from scorers.records import LENGTH_BUCKETS, Stratum

DISCIPLINE_MULTIPLE = 3.0  # Source: DESIGN 2.4, a budget is at most 3 times the noise floor

CAP_MULTIPLE = 10.0
"""*choice*: an unbounded score is capped at 10 limits. The capped mean then stands against 1/10, which is decided
within some hundred pairs, and a spike of 10 limits counts as the worst that one request can do."""

Split: TypeAlias = Literal["length", "tools"]
SPLITS: tuple[Split, ...] = ("length", "tools")
"""By what a budget's evidence may be kept apart: prompt-length bucket, tools offered or not."""

UNKNOWN = "unknown"
"""The lane of rows whose request was never read, in a budget that is kept apart."""

EXCEEDANCE_LIMIT = 0.02
"""*choice*: at most 2 % of requests may lie above the cap: 4 times an expected 0.5 % (metrology 4.2 asks for 3 to 4).
It must lie below 1/CAP_MULTIPLE, or the capped mean would imply it by Markov's inequality."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One criterion: a score, its limit, and how it may decide.

    `limit` is the drop that the product accepts, in the score's own unit; `bounded` says that the score lies in
    [0, 1]. `noise_multiple` and `slack` are k and eps of metrology 4.3. `strata` keeps one lane of evidence per
    combination of what it names, and each must pass for itself.

    Raises:  ValueError when a number makes no test.
    """

    name: str
    limit: float
    bounded: bool
    critical: bool
    noise_multiple: float = DISCIPLINE_MULTIPLE
    slack: float = 0.01
    strata: tuple[Split, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        if not 0.0 < self.limit < float("inf"):
            raise ValueError(f"{self.name}: limit {self.limit!r} must be above 0 and finite")
        if self.bounded and self.limit >= 1.0:
            raise ValueError(f"{self.name}: limit {self.limit!r} allows everything; this score lies in [0, 1]")
        if not 0.0 < self.noise_multiple <= 1000.0:
            raise ValueError(f"{self.name}: noise_multiple {self.noise_multiple!r} must be above 0 and at most 1000")
        if not 0.0 < self.slack < 1.0:
            raise ValueError(f"{self.name}: slack {self.slack!r} must lie between 0 and 1")
        if set(self.strata) - set(SPLITS) or len(set(self.strata)) != len(self.strata):
            raise ValueError(f"{self.name}: strata {list(self.strata)!r} must be distinct ones of {list(SPLITS)}")
        object.__setattr__(self, "strata", tuple(split for split in SPLITS if split in self.strata))  # in one order

    @property
    def cap(self) -> float:
        """c of metrology 4.2: what an unbounded score is capped at. Units: the score's own."""
        return CAP_MULTIPLE * self.limit

    @property
    def required(self) -> bool:
        """True when the recipe cannot pass before this budget does.

        Bounded scores decide promotions (DESIGN 5.5). An unbounded one is alarm and diagnosis (metrology 1): unless
        it is critical, it holds a promotion only once its rollback test has crossed, so that a KL which sits at its
        limit cannot block for ever what the workload's own scores have certified.
        """
        return self.bounded or self.critical

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `Budget(**budget.as_dict())` is the same budget."""
        return {**asdict(self), "strata": list(self.strata)}

    def lane_of(self, stratum: Stratum | None) -> str:
        """The name of the lane to which a row of this stratum belongs, such as "4k-16k" or "4k-16k/tools"."""
        if stratum is None or not self.strata:
            return UNKNOWN if self.strata else WHOLE
        parts = {"length": stratum.length, "tools": _TOOLS[0] if stratum.tools else _TOOLS[1]}
        return "/".join(parts[split] for split in self.strata)

    def lane_names(self) -> tuple[str, ...]:
        """Every lane that the budget may come to have, from short prompts to long: a closed set."""
        if not self.strata:
            return (WHOLE,)
        sets = {"length": tuple(name for name, _ in LENGTH_BUCKETS), "tools": _TOOLS}
        return (*("/".join(parts) for parts in product(*(sets[split] for split in self.strata))), UNKNOWN)


WHOLE = "all"
"""The lane of a budget that is not kept apart."""

_TOOLS = ("tools", "plain")


@dataclass(frozen=True, slots=True)
class GateRules:
    """When the evidence may decide. Source of the alphas: metrology 4.5.

    `max_pairs`: past so many scored pairs no promotion begins any more (a rollback always may).
    `min_coverage`: the least share of the eligible samples that must be scored for a pass.
    """

    alpha_promote: float = 0.05
    alpha_rollback: float = 0.01
    max_pairs: int = 1_000_000
    min_coverage: float = 0.5

    def __post_init__(self) -> None:
        for name in ("alpha_promote", "alpha_rollback"):
            alpha = getattr(self, name)
            if not 0.0 < alpha < 1.0:
                raise ValueError(f"{name} {alpha!r} must lie between 0 and 1")
        if self.max_pairs < 1:
            raise ValueError(f"max_pairs {self.max_pairs!r} must be at least 1")
        if not 0.0 <= self.min_coverage <= 1.0:
            raise ValueError(f"min_coverage {self.min_coverage!r} must lie in [0, 1]")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `GateRules(**rules.as_dict())` is the same rules."""
        return asdict(self)


def by_name(budgets: tuple[Budget, ...]) -> Mapping[str, Budget]:
    """The budgets by score name, in their order.

    Raises:  ValueError when two share a name, or none is given.
    """
    named = {budget.name: budget for budget in budgets}
    if len(named) != len(budgets):
        raise ValueError("two budgets share a name")
    if not named:
        raise ValueError("no budget: nothing could ever pass or fail")
    return named
