"""Budgets by workload: what `gate.workload` stands for, in the words of the settings file.

Each preset names the workload-defining budget, critical, and what should be watched beside it. Only scores to which
the workload's own traffic is sure to give numbers are in it, because a budget without data never passes.

Source:  metrology 4.5 for tool calls, schemas and recall. Same-top-1 of a tool model is 96.5 % at Q5_K_M and 89.6 % at
Q3_K_M (metrology 6): chat accepts 5 % of disagreement, code, where one token breaks a program, 3 %. The KL of 0.05 nats
lies between q4_K_M (0.031) and q3_K_M (0.102) there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "chat": {
        "top1_disagreement": {"limit": 0.05, "critical": True},
        "finish_reason_mismatch": {"limit": 0.03},
        "logprob_kl": {"limit": 0.05},
    },
    "agent": {
        "tool_call_mismatch": {"limit": 0.03, "critical": True},
        "tool_schema_failure": {"limit": 0.01},
        "logprob_kl": {"limit": 0.05},
    },
    "code": {
        "top1_disagreement": {"limit": 0.03, "critical": True},
        "finish_reason_mismatch": {"limit": 0.03},
        "logprob_kl": {"limit": 0.05},
    },
    "long_context": {
        "needle_recall_loss": {"limit": 0.05, "critical": True, "strata": ["length"]},
        "copy_recall_loss": {"limit": 0.05, "critical": True, "strata": ["length"]},
        "logprob_kl": {"limit": 0.05, "strata": ["length"]},
    },
}


def with_preset(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The document with its workload's budgets filled in, and what is wrong with the way it changes them.

    The file's own keys win over the preset's, key by key; `NAME = false` under [budgets] takes one of them out. An
    unknown workload is left to the settings' own check.
    """
    gate, own = document.get("gate"), document.get("budgets", {})
    workload = gate.get("workload") if isinstance(gate, Mapping) else None
    if not isinstance(workload, str) or workload not in PRESETS or not isinstance(own, Mapping):
        return document, []
    preset = PRESETS[workload]
    budgets: dict[str, Any] = {name: dict(budget) for name, budget in preset.items()}
    problems = []
    for name, budget in own.items():
        if budget is False and name in budgets:
            del budgets[name]
        elif budget is False:
            known = ", ".join(preset)
            problems.append(f'budgets.{name}: false takes out a budget of workload "{workload}", which has: {known}')
        elif isinstance(budget, Mapping):
            budgets[name] = {**budgets.get(name, {}), **budget}
        else:
            budgets[name] = budget
    return {**document, "budgets": budgets}, problems
