"""Circuit breaker: a reference that does not answer is left alone for a while, and asked again by one call at a time.

    closed --(`failures` in a row)--> open --(cooldown over)--> half-open: one trial
    half-open --(trial answered)--> closed;  --(trial failed)--> open again

Every admission is a `Ticket` that must be closed on every path; an abandoned trial (cancelled, crashed) gives
its turn back, so a leaked one cannot keep the breaker shut for good. No clock of its own.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

State: TypeAlias = Literal["closed", "open", "half_open"]
Verdict: TypeAlias = Literal["answered", "failed", "abandoned"]


class Ticket:
    """One admitted call. Closing it twice is the same as once."""

    __slots__ = ("_breaker", "_trial")

    def __init__(self, breaker: Breaker, *, trial: bool) -> None:
        self._breaker: Breaker | None = breaker
        self._trial = trial

    def close(self, verdict: Verdict, now_s: float) -> None:
        """How the call ended; `abandoned` says nothing about the reference."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._ended(verdict, now_s, trial=self._trial)


class Breaker:
    """Admits calls while the other side answers. Units: cooldown_s seconds on the caller's monotonic clock."""

    def __init__(self, *, failures: int, cooldown_s: float) -> None:
        self._max_failures = failures
        self._cooldown_s = cooldown_s
        self._failures = 0
        self._opened_s: float | None = None
        self._trial_out = False
        self.times_opened = 0

    def admit(self, now_s: float) -> Ticket | None:
        """A ticket for one call, or None while the breaker is open."""
        if self._opened_s is None:
            return Ticket(self, trial=False)
        if self._trial_out or now_s < self._opened_s + self._cooldown_s:
            return None
        self._trial_out = True
        return Ticket(self, trial=True)

    def state(self, now_s: float) -> State:
        """What a call would meet now."""
        if self._opened_s is None:
            return "closed"
        return "half_open" if self._trial_out or now_s >= self._opened_s + self._cooldown_s else "open"

    def _ended(self, verdict: Verdict, now_s: float, *, trial: bool) -> None:
        if trial:
            self._trial_out = False
        if verdict == "answered":
            if trial or self._opened_s is None:  # a straggler from before the opening does not close it
                self._failures = 0
                self._opened_s = None
        elif verdict == "failed":
            self._failures += 1
            if trial or (self._opened_s is None and self._failures >= self._max_failures):
                self._opened_s = now_s
                self.times_opened += 1
