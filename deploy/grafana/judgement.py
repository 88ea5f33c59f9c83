"""What the dashboard shows of the judgement: the first minute, each budget, how the verdict came about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from deploy.grafana.panels import (
    ALLOWED,
    BLUE,
    BOUND,
    CONTROL,
    DASHED,
    FLOOR,
    GREEN,
    GREY,
    LIMIT,
    OBSERVED,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Column,
    Line,
    graph,
    listing,
    timeline,
)
from deploy.grafana.queries import (
    BUDGET,
    HERE,
    each_instance,
    failing_since,
    figure,
    firing_since,
    holds,
    in_limits,
    plain,
    verdict,
    window_mean,
    window_pairs,
)

Panels: TypeAlias = Iterator[Builder[Panel]]

VERDICTS = (("pass", GREEN), ("inconclusive", GREY), ("fail", RED))
AXES = (
    ("undetermined", GREY),
    ("weights", ORANGE),
    ("activations", YELLOW),
    ("kv_cache", RED),
    ("template", BLUE),
    ("kernel", PURPLE),
)
PHASES = (  # 0 where there is no [rollout]
    ("no rollout", "transparent"),
    ("stepping", BLUE),
    ("paused", YELLOW),
    ("promoted", GREEN),
    ("failed", RED),
    ("aborted", ORANGE),
)
_OF_BUDGET = CONTROL + "/?score=${__data.fields.budget}"
PAIRS_OF_ROW = ("Read its failing pairs", _OF_BUDGET + "#pairs")
# Grafana leaves a plus as it is, and in an address that is a space: 64k+.
PAIRS_OF_STRATUM = ("Read its failing pairs", _OF_BUDGET + "&stratum=${__data.fields.stratum:percentencode}#pairs")
PAIRS_OF_LINE = ("Read its failing pairs", CONTROL + "/?score=${__field.labels.budget}#pairs")


def one_minute() -> Panels:
    """Which budget broke, since when, on which stratum, and where its failing pairs are: before any row."""
    yield timeline(
        "Verdict",
        "What the gate answers, by instance. No data is no verdict: the monitor did not answer.",
        Line(verdict("parity_verdict", "instance"), "{{instance}}"),
        VERDICTS,
        width=8,
        height=7,
    )
    yield listing(
        "Alerts that fire, since when",
        "Of deploy/prometheus/rules/alerts.yml. docs/runbook.md has a section for each.",
        ("alertname", "severity", "budget", "stratum", "instance"),
        [Column(firing_since(), "since", unit="dateTimeFromNow")],
        sort_by="since",
        none="No alert fires",
        width=16,
        height=7,
        link=("The page of the monitor", CONTROL + "/"),
    )
    yield listing(
        "Which budget broke, since when (click: its failing pairs)",
        "All figures of the present epoch. A budget fails when its mean is proven above the limit; only a critical one "
        "fails the recipe. Since: the last moment in the time range at which it did not fail.",
        ("budget", "instance"),
        [
            Column(verdict("parity_budget_state", "instance, budget", BUDGET), "verdict", states=VERDICTS),
            Column(failing_since(), "failing since", unit="dateTimeFromNow"),
            Column(figure("parity_budget_value"), "observed"),
            Column(figure("parity_budget_bound"), "bound"),
            Column(figure("parity_budget_limit"), "limit"),
            Column(figure("parity_budget_noise"), "noise floor"),
            Column(
                figure("parity_budget_critical"), "critical", states=(("no", "transparent"), ("yes", "transparent"))
            ),
            Column(figure("parity_budget_samples"), "pairs"),
        ],
        sort_by="verdict",
        none="There is no budget",
        link=PAIRS_OF_ROW,
    )
    yield listing(
        "On which stratum (click: its failing pairs)",
        "Mean of the score over the pairs of the last $window by stratum, and that mean in limits: 1 is the limit.",
        ("budget", "stratum", "instance"),
        [
            Column(in_limits(window_mean("instance, stratum")), "limits", marks=((1, RED),)),
            Column(window_mean("instance, stratum"), "mean"),
            Column(window_pairs("instance, stratum"), "pairs"),
        ],
        sort_by="limits",
        none="No pair was scored in the window",
        link=PAIRS_OF_STRATUM,
    )


def parity() -> Panels:
    """Each budget against its limit and its noise floor, whole and by stratum."""
    yield graph(
        "$budget",
        "Mean of the score in this epoch, its upper confidence bound (valid at every look), the limit that the product "
        "accepts, what the noise floor allows, and the floor: the reference against itself.",
        Line(plain("parity_budget_value", BUDGET), "observed {{instance}}", OBSERVED),
        Line(plain("parity_budget_bound", BUDGET), "bound {{instance}}", BOUND),
        Line(plain("parity_budget_limit", BUDGET), "limit {{instance}}", LIMIT),
        Line(plain("parity_budget_noise_limit", BUDGET), "floor allows {{instance}}", ALLOWED),
        Line(plain("parity_budget_noise", BUDGET), "noise floor {{instance}}", FLOOR),
        repeat="budget",
        link=PAIRS_OF_LINE,
    )
    yield graph(
        "$budget by stratum, in the last $window",
        "Mean of the score of the window's pairs by stratum, with the limit, and the floor of the same window.",
        Line(window_mean("instance, stratum"), "{{stratum}} {{instance}}"),
        Line(plain("parity_budget_limit", BUDGET), "limit {{instance}}", LIMIT),
        Line(window_mean("instance", "noise"), "noise floor {{instance}}", FLOOR),
        repeat="budget",
        link=PAIRS_OF_LINE,
    )
    yield graph(
        "Strata that a budget keeps apart: observed and bound",
        "Of budgets with `strata` in the settings: mean of this epoch, and the upper confidence bound, in limits. "
        "1 is the limit.",
        Line(in_limits(plain("parity_budget_stratum_value", BUDGET)), "{{budget}} {{stratum}} observed"),
        Line(in_limits(plain("parity_budget_stratum_bound", BUDGET)), "{{budget}} {{stratum}} bound", DASHED),
        Line(in_limits(plain("parity_budget_stratum_noise", BUDGET)), "{{budget}} {{stratum}} floor", FLOOR),
        width=12,
        marks=((1, RED),),
    )
    yield graph(
        "Burn rate, 30 minutes",
        "What the pairs of 30 minutes spent, in limits per pair: 1 is the limit itself, 2 and 4 are where the slow and "
        "the fast burn alert begin.",
        Line(plain("budget_stratum:parity_burn:rate30m", BUDGET), "{{budget}} {{stratum}} {{instance}}"),
        width=12,
        marks=((1, YELLOW), (2, ORANGE), (4, RED)),
    )
    for unit, about in (("ratio", "shares, 1 is the worst"), ("nats", "nats")):
        yield graph(
            f"The pairs themselves, {unit}: each dot is one, click it to read it",
            f"95th percentile of the scores in {about}; the dots are exemplars, which carry the pair's id. They need "
            "--enable-feature=exemplar-storage in Prometheus and the link of the provisioned datasource.",
            Line(
                "histogram_quantile(0.95, sum by (le, score) "
                f'(increase(parity_score_{unit}_bucket{{{HERE},arm="candidate",score=~"$budget"}}[$window])))',
                "{{score}}",
                exemplars=True,
            ),
            width=12,
        )


def history() -> Panels:
    """How the verdict came about."""
    yield timeline(
        "Budgets",
        "Each budget's own verdict over time.",
        Line(verdict("parity_budget_state", "instance, budget", BUDGET), "{{budget}} {{instance}}"),
        VERDICTS,
        height=8,
    )
    yield timeline(
        "Stage",
        "Which tests are at stake: a promotion, the watch after it, or none after a rollback.",
        Line(
            f"{holds('parity_verdict_stage', 'promoted', 'instance', label='stage')} "
            f"+ 2 * {holds('parity_verdict_stage', 'rolled_back', 'instance', label='stage')}",
            "{{instance}}",
        ),
        (("proving", GREY), ("promoted", GREEN), ("rolled back", RED)),
        width=12,
    )
    yield timeline(
        "Suspect axis",
        "What the pattern of failures points at, once there is one; the monitor's page says why and what to try.",
        Line(
            " + ".join(
                f"{number} * {holds('parity_diagnosis', axis, 'instance', label='axis')}"
                for number, (axis, _) in enumerate(AXES)
            ),
            "{{instance}}",
        ),
        AXES,
        width=12,
    )
    yield timeline(
        "Staged rollout",
        "Where [rollout] stands. Failed and aborted: the reference serves every client.",
        Line(
            " + ".join(
                f"{number} * {holds('parity_rollout_phase', phase, 'instance', label='phase')}"
                for number, (phase, _) in enumerate(PHASES)
                if number
            )
            + f" or 0 * {each_instance()}",
            "{{instance}}",
        ),
        PHASES,
        width=12,
    )
    yield graph(
        "Share of the clients at the candidate",
        "What the monitor orders, and the largest share that a relay worker really sends there; all of them without "
        "[rollout].",
        Line(
            f"{plain('parity_relay_rollout_share_max')} or on (instance) {each_instance()}",
            "served {{instance}}",
        ),
        Line(
            f"{plain('parity_rollout_share')} or on (instance) {each_instance()}",
            "ordered {{instance}}",
            DASHED,
        ),
        unit="percentunit",
        width=12,
        height=5,
    )
    yield graph(
        "Epoch of the evidence",
        "Rises when the contract changes; the evidence begins anew. The annotations mark each.",
        Line(plain("parity_contract_epoch"), "{{instance}}"),
        width=24,
        height=5,
    )
    for gate, what in (("promote", "for a promotion"), ("rollback", "for a rollback")):
        yield graph(
            f"Evidence {what}",
            "e-value in powers of ten over where it decides: at 1 the test has decided.",
            Line(
                f'max by (instance, budget) (parity_budget_log10_e_value{{gate="{gate}",{BUDGET}}}) / '
                f'max by (instance, budget) (parity_budget_log10_e_threshold{{gate="{gate}",{BUDGET}}})',
                "{{budget}} {{instance}}",
            ),
            width=12,
            marks=((1, GREEN if gate == "promote" else RED),),
        )
