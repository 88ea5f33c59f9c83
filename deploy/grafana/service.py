"""What the dashboard shows of the service: what clients get, what was covered, what the mirror costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from deploy.grafana.panels import GREEN, LIMIT, OBSERVED, RED, YELLOW, Line, graph, timeline
from deploy.grafana.queries import holds, increase, plain, quantile, rate

Panels: TypeAlias = Iterator[Builder[Panel]]


def clients() -> Panels:
    """What the clients get. None of it may depend on the mirror."""
    yield graph(
        "Requests by status",
        "Requests that ended, by the class of the status that the client got; aborted: no whole reply.",
        Line(f"sum by (status_class) ({rate('parity_relay_requests_total')})", "{{status_class}}"),
        unit="reqps",
        stacked=True,
    )
    yield graph(
        "Time to first byte",
        "From a request's first byte to the reply's first byte, as the relay sees it: mostly the candidate's.",
        *_quantiles("parity_relay_first_byte_seconds", (0.5, 0.95, 0.99)),
        unit="s",
    )
    yield graph(
        "Added latency",
        "What the relay itself adds to a request: time that its head and its reply's head spent in the relay.",
        *_quantiles("parity_relay_added_latency_seconds", (0.5, 0.95, 0.99)),
        unit="s",
    )
    yield graph(
        "In flight",
        "Requests in flight and connections open, over all workers of an instance.",
        Line(plain("parity_relay_in_flight_requests"), "requests {{instance}}"),
        Line(plain("parity_relay_connections"), "connections {{instance}}"),
    )
    yield graph(
        "Event loop lag",
        "How late a periodic timer of the relay came: above some milliseconds the relay itself is short of CPU.",
        *_quantiles("parity_relay_loop_lag_seconds", (0.5, 0.99)),
        unit="s",
    )
    yield graph(
        "The relay's own errors",
        "Errors that the relay answered or suffered, by kind; docs/metrics.md explains each.",
        Line(f"sum by (kind) ({rate('parity_relay_errors_total')})", "{{kind}}"),
        unit="reqps",
        stacked=True,
    )


def coverage() -> Panels:
    """What share of the samples was scored, where, and what became of the rest."""
    yield graph(
        "Coverage",
        "Scored over eligible samples, of the last hour, of this epoch and of its latest samples. Below the required "
        "share there is no pass.",
        Line(plain("instance:parity_coverage:ratio_increase1h"), "last hour {{instance}}", OBSERVED),
        Line(plain("parity_coverage_ratio"), "epoch {{instance}}"),
        Line(plain("parity_coverage_recent_ratio"), "latest {{instance}}"),
        Line(plain("parity_coverage_required_ratio"), "required {{instance}}", LIMIT),
        unit="percentunit",
    )
    yield graph(
        "Coverage by stratum, 6 hours",
        "A stratum covered less than half as well as the whole hides what is wrong there.",
        Line(
            plain("stratum:parity_coverage:ratio_increase6h"),
            "{{length}} tools {{tools}} stream {{stream}} greedy {{greedy}}",
        ),
        unit="percentunit",
        width=16,
    )
    yield graph(
        "Samples, by what became of them",
        "Sampled exchanges by disposition. Ineligible ones are no loss: nothing could be compared.",
        Line(f"sum by (disposition) ({rate('parity_exchanges_total', kind='live')})", "{{disposition}}"),
        unit="ops",
        stacked=True,
    )
    yield graph(
        "Losses by reason",
        "Samples that should have been scored and were not. Each counts against a promotion.",
        Line(
            f"sum by (reason) ({increase('parity_exchanges_total', kind='live', disposition='lost')}) > 0",
            "{{reason}}",
        ),
        stacked=True,
        none="Nothing was lost",
    )
    yield graph(
        "Dropped before the monitor",
        "Captures past a bound, and events that the feed dropped: the bounds that keep clients unaffected.",
        Line(f"sum by (reason) ({increase('parity_relay_lost_total')})", "capture: {{reason}}"),
        Line(f"sum by (reason) ({increase('parity_feed_dropped_total')})", "feed: {{reason}}"),
        stacked=True,
    )


def shadow_cost() -> Panels:
    """What watching costs, and whether it keeps up."""
    yield graph(
        "Mirror calls by arm",
        "Shadow calls by arm and outcome. Calls on the candidate are replays; they share its capacity with clients.",
        Line(f"sum by (arm, outcome) ({rate('parity_shadow_calls_total')}) > 0", "{{arm}} {{outcome}}"),
        unit="reqps",
        stacked=True,
    )
    yield graph(
        "Latency of mirror calls",
        "Duration of whole shadow calls by arm.",
        *_quantiles("parity_shadow_call_seconds", (0.5, 0.95), by="arm"),
        unit="s",
    )
    yield graph(
        "Engine time spent on mirroring",
        "Seconds of shadow calls per second: how many requests the mirror keeps running on each arm, on average.",
        Line(f"sum by (arm) ({rate('parity_shadow_call_seconds_sum')})", "{{arm}}"),
        Line(plain("parity_mirror_calls_in_flight"), "in flight now {{instance}}"),
    )
    yield graph(
        "Mirror calls per client's request",
        "Shadow calls of an arm for each request that a client made.",
        Line(
            f"sum by (arm) ({rate('parity_shadow_calls_total')}) / on () group_left () "
            f"(sum ({rate('parity_relay_requests_total')}) > 0)",
            "{{arm}}",
        ),
    )
    yield graph(
        "Queue: age",
        "How long the first exchange in the queue has waited, and how long the oldest without a row holds the others.",
        Line(plain("parity_mirror_queue_oldest_seconds"), "waits for its calls {{instance}}"),
        Line(plain("parity_order_oldest_open_seconds"), "waits for its row {{instance}}"),
        unit="s",
    )
    yield graph(
        "Queue: depth",
        "Exchanges that wait for their shadow calls, are in work, or wait in the feed; rows that are not durable yet.",
        Line(plain("parity_mirror_queue_exchanges"), "waiting {{instance}}"),
        Line(plain("parity_mirror_in_work_exchanges"), "in work {{instance}}"),
        Line(plain("parity_feed_queue_exchanges"), "in the feed {{instance}}"),
        Line(plain("parity_ledger_waiting_rows"), "rows {{instance}}"),
    )
    yield graph(
        "The reference's tokens",
        "What the reference read and generated for the mirror, by its own count: the money that watching costs.",
        Line(f"sum by (kind, purpose) ({rate('parity_reference_tokens_total')}) > 0", "{{kind}}: {{purpose}}"),
        stacked=True,
        width=24,
    )
    yield timeline(
        "The reference's circuit breaker",
        "Open: the reference is not asked, and samples are lost.",
        Line(
            f"{holds('parity_breaker', 'half_open', 'instance')} + 2 * {holds('parity_breaker', 'open', 'instance')}",
            "{{instance}}",
        ),
        (("closed", GREEN), ("half open", YELLOW), ("open", RED)),
    )


def _quantiles(histogram: str, shares: tuple[float, ...], by: str = "instance") -> Iterator[Line]:
    for share in shares:
        yield Line(quantile(share, histogram, by), f"p{share * 100:g} {{{{{by}}}}}")
