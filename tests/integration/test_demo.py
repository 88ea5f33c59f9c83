"""The demo unattended: a healthy candidate never fails, each planted fault fails by its own budget, no client notices.

The numbers of requests are what each fault needs to be found with room to spare; the command's default is larger.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.monitor.ledger_reader import open_read_only

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NEEDED = {"none": 300, "tool_calls": 250, "logprobs": 80, "recall": 350}
NAMED = {"tool_calls": "tool_call_mismatch", "logprobs": "logprob_tv", "recall": "copy_recall_loss"}

AXES = {"tool_calls": "weights", "logprobs": "weights", "recall": "kv_cache"}


def demo(ledger: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "proxy.cli", "demo", "--once", "--json", "--ledger", str(ledger), *words]
    done = subprocess.run(command, capture_output=True, timeout=880, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = orjson.loads(done.stdout)
    return answer


@pytest.mark.parametrize("fault", list(NEEDED))
def test_the_verdict_follows_the_fault(fault: str, tmp_path: Path) -> None:
    answer = demo(tmp_path / "ledger.sqlite", "--fault", fault, "--requests", str(NEEDED[fault]))
    assert answer["requests"] == NEEDED[fault]
    assert (answer["client_errors"], answer["byte_mismatches"]) == (0, 0), answer["error_texts"]
    assert answer["pairs"] > 0
    assert answer["noise_pairs"] > 0
    if fault == "none":
        assert answer["verdict"] != "fail", answer["reasons"]
    else:
        assert answer["verdict"] == "fail", answer["reasons"]
        assert any(reason.startswith(NAMED[fault]) for reason in answer["reasons"]), answer["reasons"]
        assert answer["diagnosis"]["axis"] == AXES[fault], answer["diagnosis"]
    for budget in answer["budgets"].values():
        assert {"samples", "value", "limit", "noise", "critical"} <= budget.keys()
    with closing(open_read_only(tmp_path / "ledger.sqlite")) as reader:
        assert sum(epoch.row_count for epoch in reader.epochs()) >= NEEDED[fault]


def test_int4_weights_are_promoted_on_the_shipped_model(tmp_path: Path) -> None:
    answer = demo(tmp_path / "ledger.sqlite", "--recipe", "int4-weights")
    assert answer["verdict"] == "pass", answer["reasons"]
    assert (answer["client_errors"], answer["dropped"]) == (0, 0), answer["error_texts"]


def test_an_int4_kv_cache_per_tensor_loses_recall_on_long_prompts_and_is_named(tmp_path: Path) -> None:
    answer = demo(tmp_path / "ledger.sqlite", "--recipe", "int4-kv-per-tensor")
    assert answer["verdict"] == "fail", answer["reasons"]
    assert answer["reasons"][0].startswith("copy_recall_loss: 1k-4k: over its limit"), answer["reasons"]
    assert answer["diagnosis"]["axis"] == "kv_cache", answer["diagnosis"]
    assert answer["client_errors"] == 0, answer["error_texts"]
