"""Which looks at a gate are news. The waiting itself is tested on real ports, in tests/integration."""

from __future__ import annotations

from proxy.gate_client.ask import Answer, NoAnswer
from proxy.gate_client.wait import shape


def said(verdict: str, reason: str) -> str:
    return shape(Answer(verdict, reason, {}))  # type: ignore[arg-type]


def test_a_line_that_only_counts_on_is_no_news() -> None:
    assert said("inconclusive", "412 pairs, 1.5 % over") == said("inconclusive", "1,413 pairs, 0.75 % over")
    assert said("inconclusive", "412 pairs") != said("inconclusive", "412 samples")
    assert said("inconclusive", "412 pairs") != said("pass", "412 pairs")
    assert shape(NoAnswer("http://h:1/gate answers 503", True)) == shape(NoAnswer("http://h:1/gate answers 502", True))
    assert shape(NoAnswer("refused", True)) != said("inconclusive", "refused")
