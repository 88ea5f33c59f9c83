"""What a budget needs before it can pass, and the bound that a dashboard may show. Deterministic, no simulation.

upper_bound          the anytime-valid upper confidence bound of a mean in [0, 1]
pairs_to_pass        the median number of pairs to the absolute gate, at a supposed true rate
noise_pairs_to_pass  the same for the noise contrast, to first order
"""

from __future__ import annotations

import math

import numpy as np

from scorers.betting import PROMOTION_STAKE, PROMOTION_TARGETS, contrast_bets, promotion_bets
from scorers.budgets import EXCEEDANCE_LIMIT, Budget

_SEARCH_LIMIT = 10_000_000  # pairs: the range over which evidence is exact; beyond it a plan says "never"
_EXACT_WORK = 40_000_000  # *choice*: cells of the exact recursion (about half a second), past it the growth rate
_POISSON_LIMIT = 0.001  # below it mismatches are rare enough that pairs times limit no longer changes (Poisson)
_BISECTIONS = 50  # so that no middle rounds to 1, where the odds are infinite


def upper_bound(count: int, total: float, alpha: float) -> float | None:
    """The upper confidence bound of a mean, valid at every look; None without data.

    U = inf{B : E(B) >= 1/alpha} of metrology 4.1, where E(B) bets on `count` scores of sum `total` as if they were 0
    or 1. By concavity, ln(1 + lam (B - X)) >= (1 - X) ln(1 + lam B) + X ln(1 + lam (B - 1)): what this bound excludes,
    the gate's own e-value excludes too, and for scores that are 0 or 1 both are equal. So two numbers of state suffice,
    and there is no grid of budgets to keep. Each ln(E(B)) rises with B: a mismatch multiplies the j-th bet by p_j/B,
    a match by 1 + (1 - p_j/B) B/(1 - B). Hence bisection.

    Units:  the score's own, in [0, 1].
    """
    if count <= 0:
        return None
    goal = math.log(len(PROMOTION_TARGETS) / alpha)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if _log_wealth(count, total, middle) >= goal:
            high = middle
        else:
            low = middle
    return high


def _log_wealth(count: int, total: float, limit: float) -> float:
    """ln of the summed wealth of the promotion bets at `limit`, the scores taken as 0 or 1."""
    matches = max(count - total, 0.0)
    logs = []
    for share in PROMOTION_TARGETS:
        # lam (1 - B), capped as promotion_bets does
        stake = min(1.0 - share, PROMOTION_STAKE)
        logs.append(matches * math.log1p(stake * limit / (1.0 - limit)) + total * math.log1p(-stake))
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs))


def pairs_to_pass(budget: Budget, true_rate: float | None = None, alpha: float = 0.05) -> int | None:
    """The median number of pairs until the budget's absolute gates are passed; None where 10^7 do not suffice.

    `true_rate` is the supposed true mean, half the limit by default, of a score that is 0 or 1 (the worst case for a
    given mean; graded scores need fewer). The probability of a first passage is computed exactly, over the number of
    mismatches; close to the limit, where that takes too long, the growth rate of the wealth stands in for it. An
    unbounded score is planned by its capped mean, with nothing above the cap, and by its exceedance gate; the slower
    one counts. A true mean above about 11/12 of the limit is never told from the limit: metrology 4.1's gentlest bet
    is made for 5/6 of it.

    Units:  pairs, of this budget's own: those to which its score applies.
    """
    rate = budget.limit / 2.0 if true_rate is None else true_rate
    if budget.bounded:
        return _median(budget.limit, rate, alpha)
    capped = _median(budget.limit / budget.cap, rate / budget.cap, alpha)
    beyond = _median(EXCEEDANCE_LIMIT, 0.0, alpha)
    return None if capped is None or beyond is None else max(capped, beyond)


def _median(limit: float, rate: float, alpha: float) -> int | None:
    if limit < _POISSON_LIMIT:
        scale = _POISSON_LIMIT / limit
        scaled = _median(_POISSON_LIMIT, rate * scale, alpha)
        return None if scaled is None or scaled * scale > _SEARCH_LIMIT else round(scaled * scale)
    rough = _growth_median(limit, rate, alpha)
    if rough is None:
        return None
    mismatches = rough * 2.0 * rate + 40.0  # columns of the recursion: the crossing paths have far fewer
    if 4.0 * rough * mismatches > _EXACT_WORK:
        return rough
    return _exact_median(limit, rate, alpha, 4 * rough, int(mismatches))


def _growth_median(limit: float, rate: float, alpha: float) -> int | None:
    """The first n at which the wealth of the mean path, of n (1 - rate) matches, reaches the threshold."""
    goal = math.log(len(PROMOTION_TARGETS) / alpha)
    if _log_wealth(_SEARCH_LIMIT, rate * _SEARCH_LIMIT, limit) < goal:
        return None
    low, high = 0, _SEARCH_LIMIT
    while high - low > 1:
        middle = (low + high) // 2
        if _log_wealth(middle, rate * middle, limit) >= goal:
            high = middle
        else:
            low = middle
    return high


def _exact_median(limit: float, rate: float, alpha: float, most: int, columns: int) -> int | None:
    """First-passage median: probability mass over the number of mismatches, absorbed where the e-value suffices."""
    bets = promotion_bets(limit)
    counts = np.arange(columns, dtype=np.float64)
    on_match = np.array([math.log1p(bet * limit) for bet in bets])
    on_mismatch = np.array([math.log1p(bet * (limit - 1.0)) for bet in bets])
    goal = math.log(len(bets) / alpha)
    # With k mismatches the threshold is reached at the first n >= needed[k]: the wealth rises in n.
    needed = [_first_n(k, on_match, on_mismatch, goal) for k in range(columns)]
    thresholds = np.array(needed, dtype=np.float64)
    mass = np.zeros(columns)
    mass[0] = 1.0
    absorbed = 0.0
    for n in range(1, most + 1):
        moved = mass * (1.0 - rate)
        moved[1:] += mass[:-1] * rate
        crossed = (n >= thresholds) & (n >= counts)
        absorbed += float(moved[crossed].sum())
        if absorbed >= 0.5:
            return n
        moved[crossed] = 0.0
        mass = moved
    return None


def _first_n(mismatches: int, on_match: np.ndarray, on_mismatch: np.ndarray, goal: float) -> int:
    """The least n at which the bets reach the goal with so many mismatches among them."""

    def wealth(matches: int) -> float:
        logs = matches * on_match + mismatches * on_mismatch
        top = float(logs.max())
        return top + math.log(float(np.exp(logs - top).sum()))

    low, high = -1, 1
    while wealth(high) < goal:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        if wealth(middle) >= goal:
            high = middle
        else:
            low = middle
    return high + mismatches


def noise_pairs_to_pass(budget: Budget, true_rate: float, noise_rate: float, alpha: float = 0.05) -> int | None:
    """About how many noise pairs the contrast needs, at supposed means of X and N; None where 10^7 do not suffice.

    The growth rate of each bet under independent X and N that are 0 or 1 and one re-run: the wealth of the mean path.

    Units:  noise pairs: divide by the noise share for pairs.
    """
    bets = contrast_bets(budget.slack)
    goal = math.log(len(bets) / alpha)
    growth = []
    for bet in bets:
        mean = 0.0
        for x, chance_x in ((0.0, 1.0 - true_rate), (1.0, true_rate)):
            for n, chance_n in ((0.0, 1.0 - noise_rate), (1.0, noise_rate)):
                payoff = budget.noise_multiple * n + budget.slack - x
                mean += chance_x * chance_n * math.log1p(bet * payoff)
        growth.append(mean)

    def wealth(count: int) -> float:
        top = max(growth) * count
        return top + math.log(math.fsum(math.exp(rate * count - top) for rate in growth))

    if wealth(_SEARCH_LIMIT) < goal:
        return None
    low, high = 0, _SEARCH_LIMIT
    while high - low > 1:
        middle = (low + high) // 2
        if wealth(middle) >= goal:
            high = middle
        else:
            low = middle
    return high
