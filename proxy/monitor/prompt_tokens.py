"""Whether the two arms read the same prompts, by the counts that both report: part of the contract of an epoch.

A template or tokenizer that differs makes every score a comparison of two conversations, so no such epoch can pass,
and it is said before any weight is blamed. Where the contract says "agree", a few rows that differ end the epoch;
where it says "differ", a long run of rows that agree does. A changed arm starts again at "agree" (watch.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from proxy.monitor.rows import LedgerRow
from scorers.diagnose import TOKENS_DIFFER_SHARE

Word: TypeAlias = Literal["agree", "differ"]
AGREE: Word = "agree"
DIFFER: Word = "differ"
WORDS: tuple[Word, ...] = (AGREE, DIFFER)

FEWEST_DIFFERING = 3  # *choice*: one or two may be a request that met an arm in the middle of its restart

RECENT_ROWS = 1_000
"""How many compared rows are looked at. *choice*: an arm that goes wrong after a million good rows is seen within ten.
It is also the run of agreeing rows that ends a "differ", and so what keeps the word from flapping: where 1 % of the
requests differ (only those with tools, say), 200 agreeing rows in a row come once in 700, 1,000 once in two million
(the epochs that each makes are counted in the unit test).
"""

_COMPARE = "compare chat template, tokenizer and tool parser of both engines before any weight"


def agreed(row: LedgerRow) -> bool | None:
    """Whether both arms counted the same prompt tokens; None where one of them told no count, or for a probe."""
    if row.kind != "live" or row.prompt_tokens is None or row.reference_prompt_tokens is None:
        return None
    return row.prompt_tokens == row.reference_prompt_tokens


def word_of(contract: Mapping[str, Any]) -> Word:
    """What a contract says; "agree" where it was written before this was part of it."""
    return DIFFER if contract.get("prompt_tokens") == DIFFER else AGREE


def templates_differ(contract: Mapping[str, Any]) -> bool:
    """Whether both arms were seen to turn one fixed conversation into tokens, and into different ones."""
    templates = {(contract.get(side) or {}).get("template") for side in ("candidate", "reference")}
    return len(templates) == 2 and None not in templates


class PromptTally:
    """The latest compared rows of an epoch. Its size is bounded; the ledger's rows give it again."""

    def __init__(self, agreements: Iterable[bool] = ()) -> None:
        self._recent: deque[bool] = deque(maxlen=RECENT_ROWS)
        self._differ = 0
        for one in agreements:
            self.take(one)

    def take(self, agreement: bool) -> None:
        """One compared row more, in the order of positions."""
        if len(self._recent) == RECENT_ROWS:
            self._differ -= not self._recent[0]
        self._recent.append(agreement)
        self._differ += not agreement

    def word(self, contract: Mapping[str, Any]) -> Word:
        """What the rows make of an epoch's contract: its own word while they give no reason for another."""
        if word_of(contract) == AGREE:
            enough = self._differ >= max(FEWEST_DIFFERING, TOKENS_DIFFER_SHARE * len(self._recent))
            return DIFFER if enough else AGREE
        whole = len(self._recent) == RECENT_ROWS and not self._differ
        return AGREE if whole and not templates_differ(contract) else DIFFER

    def figures(self) -> str:
        """What the word rests on, for people."""
        return f"on {self._differ} of the last {len(self._recent)} requests the arms counted different prompt tokens"

    def mismatch(self, contract: Mapping[str, Any]) -> str:
        """Why nothing can pass under this contract and after these rows, in one sentence; "" where nothing stands
        against it. Once the contract says so, it follows from the contract alone."""
        if templates_differ(contract):
            return f"the arms turn one conversation into different tokens: {_COMPARE}"
        if word_of(contract) == DIFFER:
            return f"the arms count different prompt tokens for the same requests: {_COMPARE}"
        return f"{self.figures()}: {_COMPARE}" if self.word(contract) == DIFFER else ""

    def to_text(self) -> str:
        """One character per row, for a checkpoint; `from_text` reads it."""
        return "".join("=" if one else "x" for one in self._recent)

    @classmethod
    def from_text(cls, text: str) -> PromptTally:
        """The tally that `to_text` wrote."""
        return cls(mark == "=" for mark in text)
