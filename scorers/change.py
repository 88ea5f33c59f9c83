"""Change detection after a promotion: Shiryaev-Roberts over the rollback bets (metrology 4.4).

    SR_t = (SR_{t-1} + 1) (1 + lam_j (X_t - B));   alarm when the mean over j reaches A

While E[X | past] <= B the mean number of pairs to a false alarm is at least A. Unlike the rollback test, which must
first win back what it lost while all was well, it answers a change within the same number of pairs whenever it comes.
"""

from __future__ import annotations

from collections.abc import Sequence

RUN_LENGTH = 1e5  # A, in pairs. Source: metrology 4.4


class ShiryaevRoberts:
    """Five detectors and their mean. It stops at its alarm: an operator's reset starts a new one."""

    __slots__ = ("_bets", "_goal", "_values")
    width = 5

    def __init__(self, bets: Sequence[float], run_length: float = RUN_LENGTH) -> None:
        if len(bets) != self.width:
            raise ValueError(f"{len(bets)} bets given, {self.width} expected")
        self._bets = tuple(bets)
        self._goal = len(bets) * run_length
        self._values: tuple[float, ...] = (0.0,) * self.width

    def step(self, payoff: float) -> bool:
        """Settle one payoff X - limit; true at the alarm. Not to be called after it."""
        a, b, c, d, e = self._values
        la, lb, lc, ld, le = self._bets
        a = (a + 1.0) * (1.0 + la * payoff)
        b = (b + 1.0) * (1.0 + lb * payoff)
        c = (c + 1.0) * (1.0 + lc * payoff)
        d = (d + 1.0) * (1.0 + ld * payoff)
        e = (e + 1.0) * (1.0 + le * payoff)
        self._values = (a, b, c, d, e)
        return a + b + c + d + e >= self._goal

    @property
    def level(self) -> float:
        """The mean of the detectors, to be read against the run length. Units: pairs."""
        a, b, c, d, e = self._values
        return (a + b + c + d + e) / self.width

    def to_json(self) -> list[float]:
        """JSON-ready; floats survive exactly by their repr."""
        return list(self._values)

    def restore(self, values: Sequence[float]) -> None:
        """Take the values that `to_json` wrote."""
        if len(values) != self.width:
            raise ValueError(f"{self.width} detectors were expected")
        self._values = tuple(values)
