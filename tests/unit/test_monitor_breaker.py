"""The breaker opens after a run of failures, tries one call at a time, and never leaks its trial."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as unhurried
from hypothesis import strategies as st

from proxy.monitor.breaker import Breaker, Ticket


def admit(breaker: Breaker, now_s: float) -> Ticket:
    ticket = breaker.admit(now_s)
    assert ticket is not None
    return ticket


def opened(now_s: float = 0.0, failures: int = 3, cooldown_s: float = 10.0) -> Breaker:
    breaker = Breaker(failures=failures, cooldown_s=cooldown_s)
    for _ in range(failures):
        admit(breaker, now_s).close("failed", now_s)
    return breaker


def test_opens_after_the_stated_number_of_failures_in_a_row() -> None:
    breaker = Breaker(failures=3, cooldown_s=10.0)
    for verdict in ("failed", "failed", "answered", "failed", "failed"):
        admit(breaker, 0.0).close(verdict, 0.0)  # type: ignore[arg-type]
    assert breaker.state(0.0) == "closed"
    admit(breaker, 1.0).close("failed", 1.0)
    assert breaker.state(1.0) == "open"
    assert breaker.admit(10.9) is None


def test_one_trial_at_a_time_after_the_cooldown() -> None:
    breaker = opened()
    trial = admit(breaker, 10.0)
    assert breaker.admit(10.0) is None
    assert breaker.state(10.0) == "half_open"
    trial.close("answered", 11.0)
    assert breaker.state(11.0) == "closed"
    assert breaker.admit(11.0) is not None


def test_a_failed_trial_opens_again_for_a_whole_cooldown() -> None:
    breaker = opened()
    admit(breaker, 10.0).close("failed", 12.0)
    assert breaker.admit(21.9) is None
    assert breaker.admit(22.0) is not None


def test_an_abandoned_trial_gives_its_turn_back() -> None:
    breaker = opened()
    admit(breaker, 10.0).close("abandoned", 10.5)
    assert breaker.admit(10.5) is not None


def test_a_straggler_does_not_close_an_open_breaker() -> None:
    breaker = Breaker(failures=1, cooldown_s=10.0)
    straggler = admit(breaker, 0.0)
    admit(breaker, 0.0).close("failed", 0.0)
    straggler.close("answered", 1.0)
    assert breaker.admit(2.0) is None


def test_closing_a_ticket_twice_counts_once() -> None:
    breaker = Breaker(failures=2, cooldown_s=10.0)
    ticket = admit(breaker, 0.0)
    ticket.close("failed", 0.0)
    ticket.close("failed", 0.0)
    assert breaker.state(0.0) == "closed"


@unhurried(deadline=None)
@given(st.lists(st.sampled_from(["answered", "failed", "abandoned"]), max_size=60))
def test_it_always_admits_again_after_a_cooldown(verdicts: list[str]) -> None:
    """Whatever happened, once every ticket is closed a call is admitted after at most one cooldown."""
    breaker, now_s = Breaker(failures=2, cooldown_s=1.0), 0.0
    for verdict in verdicts:
        ticket = breaker.admit(now_s)
        if ticket is not None:
            ticket.close(verdict, now_s)  # type: ignore[arg-type]
        now_s += 0.3
    assert breaker.admit(now_s + 1.0) is not None
