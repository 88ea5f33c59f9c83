"""What each budget needs before it can pass: pairs, clients' requests, and time at the present traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from proxy.monitor.ledger_survey import Traffic, traffic_of
from proxy.settings import Settings
from scorers.judge import Budget, GateRules
from scorers.logprobs import SPECS as LOGPROB_SPECS
from scorers.planning import noise_pairs_to_pass, pairs_to_pass
from scorers.recall import NEEDLE_SPECS
from scorers.records import Arm

_REPLAYED = frozenset(spec.name for spec in LOGPROB_SPECS)
_PLANTED = frozenset(spec.name for spec in NEEDLE_SPECS)


@dataclass(frozen=True, slots=True)
class Need:
    """One budget's need when its mean is half its limit, and the reference's own floor as high as that mean.

    `pairs` go through the limit's gate and `noise_pairs` through the noise contrast's; None: 10^7 do not suffice.
    `requests` are the clients' requests for both; with strata, each needs as many pairs of its own.
    Units:  pairs; requests; seconds, None where no traffic is known.
    """

    budget: Budget
    pairs: int | None
    noise_pairs: int | None
    requests: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All needs, and on which traffic their times rest.

    `measured`: the shares of the traffic to which each score applies are the ledger's; otherwise every sampled request
    is taken to give every score that its coins allow, so that requests and times are the least that can suffice. In a
    staged rollout the reference's clients give pairs by replays alone; measured shares are those of the steps so far.
    Units:  clients' requests per second, None when unknown.
    """

    needs: tuple[Need, ...]
    requests_per_s: float | None
    source: str
    measured: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        needs = [{**asdict(need), "budget": need.budget.as_dict()} for need in self.needs]
        return {
            "requests_per_s": self.requests_per_s,
            "source": self.source,
            "measured": self.measured,
            "needs": needs,
        }


def of(settings: Settings, budgets: Sequence[Budget], rules: GateRules, requests_per_s: float | None) -> Plan:
    """The plan at `requests_per_s`, or at the traffic that the ledger saw of late where that is None.

    Raises:  LedgerError when there is a ledger at the settings' path and it cannot be read.
    """
    path = settings.ledger.path
    seen = traffic_of(path) if path.is_file() and path.stat().st_size else None
    rate = settings.sampling.rate
    if requests_per_s is not None:
        source = "as given"
    elif seen is not None and rate > 0.0:
        requests_per_s = seen.sampled_per_s / rate
        source = (
            f"from {path}: {seen.rows:,} sampled requests in {duration(seen.seconds)}, at the present sampling.rate"
        )
    else:
        source = "unknown: give --traffic N (clients' requests per second), or let the proxy run for a while"
    needs = tuple(_need(settings, budget, rules, seen, requests_per_s) for budget in budgets)
    return Plan(needs, requests_per_s, source, measured=seen is not None)


def duration(seconds: float) -> str:
    """A time for people, in its largest sensible unit."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def _need(
    settings: Settings, budget: Budget, rules: GateRules, seen: Traffic | None, requests_per_s: float | None
) -> Need:
    half = budget.limit / 2
    pairs = pairs_to_pass(budget, half, rules.alpha_promote)
    noise_pairs = noise_pairs_to_pass(budget, half, half, rules.alpha_promote) if budget.bounded else None
    gates = [(pairs, _share(settings, budget.name, "candidate", seen))]
    if budget.bounded:
        gates.append((noise_pairs, _share(settings, budget.name, "noise", seen)))
    requests = _slowest([(count, settings.sampling.rate * share) for count, share in gates])
    seconds = requests / requests_per_s if requests is not None and requests_per_s else None
    return Need(budget, pairs, noise_pairs, requests, seconds)


def _slowest(gates: Sequence[tuple[int | None, float]]) -> float | None:
    """The most requests that a gate needs, each with the share of requests that becomes one of its pairs."""
    needed = [None if count is None or share <= 0.0 else count / share for count, share in gates]
    known = [count for count in needed if count is not None]
    return max(known) if len(known) == len(needed) else None


def _share(settings: Settings, name: str, arm: Arm, seen: Traffic | None) -> float:
    """The share of sampled requests that gives this score a number: as seen, else the most that the coins allow."""
    if seen is not None and (found := seen.shares.get((arm, name), 0.0)) > 0.0:
        return found
    mirror = settings.mirror
    if name in _PLANTED:
        share = mirror.needle_rate
    elif name in _REPLAYED:
        share = mirror.replay_rate
    else:
        ours = _most_at_the_candidate(settings)
        share = ours + (1.0 - ours) * mirror.replay_rate
    return share * (mirror.noise_rate if arm == "noise" else 1.0)


def _most_at_the_candidate(settings: Settings) -> float:
    """The share of clients whose own replies can be evidence for a pass: a rollout's last step comes after it."""
    return 1.0 if settings.rollout is None else settings.rollout.steps[-2].share
