"""Mixtures of bets: the e-values behind promotion, rollback and the noise contrast.

A mixture starts with 1 on each of its bets; each payoff z multiplies the j-th wealth by 1 + lam_j z; its e-value is
the mean wealth. Where the null says E[z | past] <= 0 the e-value is a nonnegative supermartingale, so by Ville's
inequality it ever reaches 1/alpha with probability at most alpha, however often one looks (metrology 4.1 to 4.3).

Wealth is kept as float times a power of two of its own: products, not sums of logarithms. Multiplication, addition
and frexp are exact to IEEE 754 on every machine, while log1p is not, so the same rows give the same decision to the
last bit anywhere. The relative error stays below 1e-8 over 1e7 payoffs; a sum of logarithms that has grown to 1e5 may
lose 1e-11 at every one of them. The sums are written out: `sum()` compensates from Python 3.12 on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import mul
from typing import Any

from scorers.budgets import Budget

_RESCALE_EVERY = 32  # a power of two
_GAIN = 640  # powers of two that 32 payoffs can gain: PAYOFF_CAP_MULTIPLE and every other factor stay below 2**20
_HIGH = 2.0**256
_LOW = 2.0**-640  # 32 mismatches at the full PROMOTION_STAKE take another 2**-320
_REACH = 1000  # powers of two: no wealth, 2**256 at most, gains so much within 32 payoffs

PAYOFF_CAP_MULTIPLE = 2.0**20
"""*choice*: an unbounded score enters a bet at 2**20 limits at most, so that no product overflows. Capping lowers the
mean, so the rollback test stays valid."""

PROMOTION_TARGETS = tuple(j / 6 for j in range(6))  # p_j / B. Source: metrology 4.1
PROMOTION_STAKE = 0.999  # the most that one mismatch may take. Source: metrology 4.1
ROLLBACK_TARGETS = (1.5, 2.0, 3.0, 5.0, 10.0)  # p_j / B. Source: metrology 4.1
UNBOUNDED_STAKES = (0.05, 0.15, 0.35, 0.6, 0.9)  # lam_j B in [0, 1] (metrology 4.2); the spread is a *choice*
CONTRAST_LOW = 0.002  # Source: metrology 4.3
CONTRAST_COUNT = 12  # *choice*: from 10 to 20 bets the simulated medians differ by less than 3 %
CONTRAST_RATIO = 1.7426137545226306  # (0.9 / 0.002) ** (1 / 11), written out: pow is not exact on every machine


def promotion_bets(limit: float) -> tuple[float, ...]:
    """lam_j of the promotion test at a budget, for payoffs limit - X."""
    most = PROMOTION_STAKE / (1.0 - limit)
    bets = ((limit - share * limit) / (limit * (1.0 - limit)) for share in PROMOTION_TARGETS)
    return tuple(min(bet, most) for bet in bets)


def rollback_bets(limit: float) -> tuple[float, ...]:
    """lam'_j of the rollback test at a budget, for payoffs X - limit.

    A target capped at 1 stakes everything on each match: its factor there is 0, and never below.
    """
    bets = []
    for multiple in ROLLBACK_TARGETS:
        target = min(multiple * limit, 1.0)
        bet = (target - limit) / (limit * (1.0 - limit))
        while 1.0 + bet * (0.0 - limit) < 0.0:  # rounding may put 1/B a hair too high
            bet = math.nextafter(bet, 0.0)
        bets.append(bet)
    return tuple(bets)


def unbounded_bets(limit: float) -> tuple[float, ...]:
    """lam_j of the rollback test of an unbounded nonnegative score, for payoffs X - limit."""
    return tuple(stake / limit for stake in UNBOUNDED_STAKES)


def contrast_bets(slack: float) -> tuple[float, ...]:
    """lam_j of the noise contrast, geometric, for payoffs k N + eps - X."""
    most = PROMOTION_STAKE / (1.0 - slack)
    bets = [CONTRAST_LOW]
    while len(bets) < CONTRAST_COUNT:
        bets.append(bets[-1] * CONTRAST_RATIO)
    return tuple(min(bet, most) for bet in bets)


def risk_bets(budget: Budget) -> tuple[float, ...]:
    """The five bets against a budget: of its rollback test and of its change detector."""
    return rollback_bets(budget.limit) if budget.bounded else unbounded_bets(budget.limit)


class Mixture:
    """Up to six bets against one threshold.

    A test that has reached its threshold is decided: it takes no more payoffs, and its e-value stays as it stood.
    `step` is written out for speed (three times a comprehension's); narrower mixtures carry idle bets of wealth 0.
    """

    __slots__ = (
        *("_bets", "_count", "_goal"),
        *("_crossed", "_exponents", "_goal_scaled", "_quiet", "_scales", "_steps", "_wealth"),
    )
    width = 6

    def __init__(self, bets: Sequence[float], threshold: float) -> None:
        if not 0 < len(bets) <= self.width:
            raise ValueError(f"{len(bets)} bets do not fit into {self.width}")
        idle = self.width - len(bets)
        self._count = len(bets)
        self._bets = (*bets, *(0.0,) * idle)
        self._wealth = (*(1.0,) * len(bets), *(0.0,) * idle)
        self._exponents = (0,) * self.width
        self._goal = len(bets) * threshold
        self._steps = 0
        self._crossed = False
        self._scale()

    def step(self, payoff: float) -> bool:
        """Settle one payoff; true when it brings the e-value to the threshold, after which the mixture rests."""
        if self._crossed:
            return False
        a, b, c, d, e, f = self._wealth
        la, lb, lc, ld, le, lf = self._bets
        a *= 1.0 + la * payoff
        b *= 1.0 + lb * payoff
        c *= 1.0 + lc * payoff
        d *= 1.0 + ld * payoff
        e *= 1.0 + le * payoff
        f *= 1.0 + lf * payoff
        self._wealth = (a, b, c, d, e, f)
        self._steps += 1
        if not self._quiet:
            sa, sb, sc, sd, se, sf = self._scales
            if a * sa + b * sb + c * sc + d * sd + e * se + f * sf >= self._goal_scaled:
                self._crossed = True
                return True
        if not self._steps & (_RESCALE_EVERY - 1):
            self._rescale()
        return False

    def log10(self) -> float | None:
        """The e-value's decimal logarithm; None where the e-value is exactly 0."""
        top = self._top()
        total = _total(math.ldexp(w, e - top) for w, e in zip(self._wealth, self._exponents, strict=True))
        if total <= 0.0:
            return None
        return math.log10(total / self._count) + top * math.log10(2.0)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; floats survive exactly by their repr."""
        return {
            "wealth": list(self._wealth),
            "exponents": list(self._exponents),
            "steps": self._steps,
            "crossed": self._crossed,
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take the wealth that `to_json` wrote. The bets and the threshold are the constructor's."""
        if len(data["wealth"]) != self.width or len(data["exponents"]) != self.width:
            raise ValueError(f"a mixture of {self.width} bets was expected")
        self._wealth = tuple(data["wealth"])
        self._exponents = tuple(data["exponents"])
        self._steps = data["steps"]
        self._crossed = data["crossed"]
        self._scale()

    def _top(self) -> int:
        """The largest exponent among the bets that are not ruined."""
        return max((e for w, e in zip(self._wealth, self._exponents, strict=True) if w > 0.0), default=0)

    def _rescale(self) -> None:
        """Move magnitude from wealth to exponent before it can overflow or vanish; exact."""
        if not all(_LOW < w < _HIGH or w == 0.0 for w in self._wealth):
            parts = [math.frexp(w) for w in self._wealth]
            self._wealth = tuple(mantissa for mantissa, _ in parts)
            self._exponents = tuple(old + new for old, (_, new) in zip(self._exponents, parts, strict=True))
        self._scale()

    def _scale(self) -> None:
        """What makes the comparison one weighted sum, and whether it can be left out until the next rescaling."""
        top = self._top()
        self._scales = tuple(math.ldexp(1.0, min(e - top, 0)) for e in self._exponents)
        # Beyond a float64's range the goal is beyond reach, too; beneath it any wealth suffices.
        reachable = math.frexp(self._goal)[1] - top < _REACH
        self._goal_scaled = math.ldexp(self._goal, -top) if reachable else math.inf
        total = _total(w * s for w, s in zip(self._wealth, self._scales, strict=True))
        self._quiet = total < math.ldexp(self._goal_scaled, -_GAIN)


class WideMixture(Mixture):
    """Up to twelve bets; the noise contrast's, which sees the noise share of the pairs only."""

    __slots__ = ()
    width = 12

    def step(self, payoff: float) -> bool:
        """Settle one payoff; true when it brings the e-value to the threshold, after which the mixture rests."""
        if self._crossed:
            return False
        a, b, c, d, e, f, g, h, i, j, k, m = self._wealth
        la, lb, lc, ld, le, lf, lg, lh, li, lj, lk, lm = self._bets
        a *= 1.0 + la * payoff
        b *= 1.0 + lb * payoff
        c *= 1.0 + lc * payoff
        d *= 1.0 + ld * payoff
        e *= 1.0 + le * payoff
        f *= 1.0 + lf * payoff
        g *= 1.0 + lg * payoff
        h *= 1.0 + lh * payoff
        i *= 1.0 + li * payoff
        j *= 1.0 + lj * payoff
        k *= 1.0 + lk * payoff
        m *= 1.0 + lm * payoff
        self._wealth = wealth = (a, b, c, d, e, f, g, h, i, j, k, m)
        self._steps += 1
        if not self._quiet and _total(map(mul, wealth, self._scales)) >= self._goal_scaled:
            self._crossed = True
            return True
        if not self._steps & (_RESCALE_EVERY - 1):
            self._rescale()
        return False


def _total(values: Iterable[float]) -> float:
    """The plain left-to-right sum."""
    total = 0.0
    for value in values:
        total += value
    return total
