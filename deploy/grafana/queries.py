"""The questions in PromQL, one function each. What they ask of exists: docs/metrics.md, and the recording rules.

A monitor judges its own traffic, so nothing is added up over instances. `$window` is the window of means: pairs are
few, and a mean over Grafana's own interval would be of a handful.
"""

from __future__ import annotations

from collections.abc import Mapping

HERE = 'job=~"$job",instance=~"$instance"'
BUDGET = f'{HERE},budget=~"$budget"'
# Our alerts. One about an instance that is gone has no such label, and is shown whatever is chosen.
OURS = 'alertname=~"Parity.+",job=~"$job|",instance=~"$instance|"'


def plain(metric: str, selector: str = HERE) -> str:
    """The series as they are."""
    return f"{metric}{{{selector}}}"


def figure(metric: str) -> str:
    """A budget's figure by the labels that its table is by."""
    return f"max by (instance, budget) ({plain(metric, BUDGET)})"


def each_instance() -> str:
    """1 for each instance: what is so where a monitor says nothing of it."""
    return f"max by (instance) ({plain('parity_build_info')})"


def rate(metric: str, **labels: str) -> str:
    """Per second, over Grafana's own interval."""
    return f"rate({_chosen(metric, labels)}[$__rate_interval])"


def increase(metric: str, **labels: str) -> str:
    """How many, over Grafana's own interval."""
    return f"increase({_chosen(metric, labels)}[$__rate_interval])"


def _chosen(metric: str, labels: Mapping[str, str]) -> str:
    return plain(metric, ",".join([HERE, *(f'{name}="{value}"' for name, value in labels.items())]))


def quantile(share: float, histogram: str, by: str) -> str:
    """A quantile over Grafana's own interval. Units: the histogram's."""
    return f"histogram_quantile({share}, sum by (le, {by}) ({rate(histogram + '_bucket')}))"


def holds(metric: str, value: str, by: str, selector: str = HERE, label: str = "state") -> str:
    """1 where that state holds, 0 where another does."""
    return f'sum by ({by}) ({metric}{{{label}="{value}",{selector}}})'


def verdict(metric: str, by: str, selector: str = HERE) -> str:
    """0 pass, 1 inconclusive, 2 fail."""
    return f"{holds(metric, 'inconclusive', by, selector)} + 2 * {holds(metric, 'fail', by, selector)}"


def firing_since() -> str:
    """When each firing alert became active, in ms."""
    return (
        "1000 * max by (alertname, severity, budget, stratum, instance) ("
        f'ALERTS_FOR_STATE{{{OURS}}} and ignoring (alertstate) ALERTS{{alertstate="firing",{OURS}}})'
    )


def failing_since() -> str:
    """When each budget that fails now last did not, in ms; the range's start when it failed all along."""
    fail = f'parity_budget_state{{state="fail",{BUDGET}}}'
    return (
        "1000 * max by (instance, budget) (("
        f"max_over_time(timestamp({fail} == 0)[$__range:$__interval]) "
        f"or min_over_time(timestamp({fail} == 1)[$__range:$__interval])"
        f") and {fail} == 1)"
    )


def window_mean(by: str, arm: str = "candidate") -> str:
    """Mean of the chosen budgets' scores in the window. A score has one unit, so it is in one of the two histograms."""
    means = (f"{_total(unit, 'sum', by, arm)} / ({_total(unit, 'count', by, arm)} > 0)" for unit in ("ratio", "nats"))
    return _as_budget(" or ".join(means))


def window_pairs(by: str, arm: str = "candidate") -> str:
    """The pairs behind that mean."""
    return _as_budget(f"({' or '.join(_total(unit, 'count', by, arm) for unit in ('ratio', 'nats'))}) > 0")


def _total(unit: str, part: str, by: str, arm: str) -> str:
    return (
        f'sum by ({by}, score) (increase(parity_score_{unit}_{part}{{{HERE},arm="{arm}",score=~"$budget"}}[$window]))'
    )


def _as_budget(expr: str) -> str:
    """The label `score` as `budget`: a budget has its score's name."""
    return f'label_replace({expr}, "budget", "$1", "score", "(.+)")'


def in_limits(expr: str) -> str:
    """What is in a budget's own unit, by instance and budget, in limits: 1 is the limit."""
    return f"{expr} / on (instance, budget) group_left () ({figure('parity_budget_limit')} > 0)"
