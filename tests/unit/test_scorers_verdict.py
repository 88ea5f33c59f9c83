"""The answer's shape where there is nothing to say."""

from __future__ import annotations

import json

from scorers.coverage import Coverage
from scorers.verdict import AXES, Diagnosis, Verdict


def test_an_empty_verdict_is_inconclusive_json_with_nulls() -> None:
    shown = json.loads(json.dumps(Verdict("inconclusive", ("starting",)).as_dict(), allow_nan=False))
    assert shown == {
        "verdict": "inconclusive",
        "reason": "starting",
        "reasons": ["starting"],
        "stage": "proving",
        "promoted_position": None,
        "recipe": "",
        "epoch": None,
        "samples": 0,
        "noise_samples": 0,
        "budgets": {},
        "coverage": Coverage().as_dict(),
        "diagnosis": {"axis": "undetermined", "evidence": [], "fix": ""},
        "contract": {},
    }
    assert shown["coverage"]["ratio"] is None


def test_the_axes_are_a_closed_set_with_undetermined_in_it() -> None:
    assert Diagnosis().axis in AXES
    assert len(set(AXES)) == len(AXES) == 6
