"""Whether the arms read the same prompts: when the word changes, what it says, and that it does not flap."""

from __future__ import annotations

import random
from typing import Any

import pytest

from proxy.monitor.prompt_tokens import AGREE, DIFFER, RECENT_ROWS, PromptTally, agreed, templates_differ, word_of
from tests.unit.monitor_rig import row

ARMS = {"candidate": {"template": "t"}, "reference": {"template": "t"}}
OTHER = {"candidate": {"template": "t"}, "reference": {"template": "u"}}
SAID_AGREE = {**ARMS, "prompt_tokens": "agree"}
SAID_DIFFER = {**ARMS, "prompt_tokens": "differ"}


def tally(*runs: tuple[int, bool]) -> PromptTally:
    return PromptTally(one for count, one in runs for _ in range(count))


@pytest.mark.parametrize(
    ("counts", "more", "known"),
    [
        ((7, 7), {}, True),
        ((7, 8), {}, False),
        ((None, 7), {}, None),
        ((7, None), {}, None),
        ((None, None), {}, None),
        ((7, 8), {"kind": "probe"}, None),
    ],
)
def test_rows_are_compared_where_both_counts_are_known(
    counts: tuple[Any, Any], more: dict[str, Any], known: bool | None
) -> None:
    assert agreed(row(0, prompt_tokens=counts[0], reference_prompt_tokens=counts[1], **more)) is known


@pytest.mark.parametrize(
    ("runs", "word"),
    [
        ((), AGREE),
        (((2, False),), AGREE),
        (((3, False),), DIFFER),
        (((297, True), (3, False)), DIFFER),
        (((298, True), (3, False)), AGREE),
        (((10**5, True), (9, False)), AGREE),
        (((10**5, True), (10, False)), DIFFER),
        (((3, False), (298, True)), AGREE),
    ],
)
def test_three_rows_and_one_in_a_hundred_end_an_agreement(runs: tuple[tuple[int, bool], ...], word: str) -> None:
    assert tally(*runs).word(SAID_AGREE) == word
    assert tally(*runs).word(ARMS) == word  # a contract from before the word was part of it
    assert bool(tally(*runs).mismatch(SAID_AGREE)) == (word == DIFFER)


@pytest.mark.parametrize(
    ("runs", "word"),
    [
        ((), DIFFER),
        (((RECENT_ROWS - 1, True),), DIFFER),
        (((RECENT_ROWS, True),), AGREE),
        (((5, False), (RECENT_ROWS - 1, True)), DIFFER),
        (((5, False), (RECENT_ROWS, True)), AGREE),
    ],
)
def test_a_long_run_of_agreeing_rows_ends_a_difference(runs: tuple[tuple[int, bool], ...], word: str) -> None:
    assert tally(*runs).word(SAID_DIFFER) == word
    assert tally(*runs).mismatch(SAID_DIFFER) == tally().mismatch(SAID_DIFFER) != ""  # it follows from the contract


def test_rows_do_not_undo_templates_that_differ() -> None:
    assert templates_differ(OTHER)
    assert not templates_differ(ARMS)
    assert not templates_differ({"candidate": {"template": "t"}, "reference": {}})
    assert not templates_differ({})
    whole = tally((RECENT_ROWS, True))
    assert whole.word({**OTHER, "prompt_tokens": "differ"}) == DIFFER
    assert "one conversation" in whole.mismatch({**OTHER, "prompt_tokens": "differ"})


def test_every_sentence_names_the_template_and_the_numbers_where_rows_said_it() -> None:
    for said in (tally((3, False)).mismatch(SAID_AGREE), tally().mismatch(SAID_DIFFER), tally().mismatch(OTHER)):
        assert "template" in said
        assert "tokenizer" in said
        assert "parser" in said
    assert tally((50, True), (3, False)).mismatch(SAID_AGREE).startswith("on 3 of the last 53 requests")


def test_the_tally_survives_as_text_and_stays_small() -> None:
    rng = random.Random(5)
    whole = PromptTally(rng.random() < 0.9 for _ in range(5 * RECENT_ROWS))
    again = PromptTally.from_text(whole.to_text())
    assert (again.figures(), again.to_text()) == (whole.figures(), whole.to_text())
    assert len(whole.to_text()) == RECENT_ROWS
    for one in (True, False) * 700:
        whole.take(one)
        again.take(one)
    assert (
        again.figures()
        == whole.figures()
        == "on 500 of the last 1000 requests the arms counted different prompt tokens"
    )


@pytest.mark.parametrize("share", [0.001, 0.003, 0.005, 0.01, 0.02, 0.05, 0.5])
def test_the_word_does_not_flap_whatever_the_share_of_requests_that_differ(share: float) -> None:
    """Over 12 seeds, epochs in 50,000 rows: at most 4.3 on the mean and 8 in all, both at 0.5 %. Were 200 agreeing rows
    enough to end a difference, it would be 82 on the mean at 1 %."""
    rng = random.Random(11)
    contract, epochs, current = SAID_AGREE, 1, PromptTally()
    for _ in range(50_000):
        current.take(rng.random() >= share)
        word = current.word(contract)
        if word != word_of(contract):
            contract, epochs, current = {**ARMS, "prompt_tokens": word}, epochs + 1, PromptTally()
    assert epochs <= 8
    if share >= 0.01:
        assert word_of(contract) == DIFFER
