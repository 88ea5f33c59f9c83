"""How a choice ends, and what of it shows when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.emulator.sampling import Sampling
from backends.emulator.sequence import Job, Sequence, Token
from backends.emulator.server import MODEL
from backends.emulator.vocabulary import Vocabulary

VOCABULARY = Vocabulary.of(MODEL)
(END,) = VOCABULARY.ends
JOB = Job(prompt=(1,), sampling=Sampling(), most=50, ends=VOCABULARY.ends)


def logits(token: int, second: int = 5) -> np.ndarray:
    made = np.zeros(VOCABULARY.size, np.float32)
    made[second], made[token] = 4.0, 9.0
    return made


def spoken(text: str, tail: tuple[int, ...] = (END,), **changes: Any) -> list[Token]:
    """The news of a model that wants to say a text."""
    sequence = Sequence(replace(JOB, **changes), VOCABULARY.reader(special=False), lambda news: None)
    made: list[Token] = []
    for token in (*VOCABULARY.forced(text), *tail):
        made.append(sequence.next(logits(token)))
        if made[-1].finish:
            break
    return made


def shown(news: list[Token]) -> str:
    return "".join(one.text for one in news)


def test_the_end_of_a_turn_ends_it_and_does_not_show() -> None:
    news = spoken("Hello there")
    assert (shown(news), news[-1].token, news[-1].finish, news[-1].stop_reason) == ("Hello there", END, "stop", None)


def test_a_length_limit() -> None:
    news = spoken("Hello there", most=2)
    assert (len(news), news[-1].finish) == (2, "length")
    assert "Hello there".startswith(shown(news))


@pytest.mark.parametrize("stop", [("lo",), ("there",), ("o t",), ("x", "ere"), ("ll", "Hel")])
def test_a_stop_string_never_shows(stop: tuple[str, ...]) -> None:
    text = "Hello there"
    news = spoken(text, stop=stop)
    first = min(text.find(one) for one in stop if one in text)
    assert shown(news) == text[:first]
    assert (news[-1].finish, news[-1].stop_reason) == ("stop", next(one for one in stop if text.startswith(one, first)))


def test_what_may_begin_a_stop_string_is_held_back_and_given_in_the_end() -> None:
    news = spoken("Hello there", stop=("there you are",))
    assert shown(news[:-1]) == ""
    assert shown(news) == "Hello there"


def test_stop_tokens_name_themselves() -> None:
    token = VOCABULARY.forced(".")[0]
    news = spoken("Hi. There", stop_ids=frozenset({token}))
    assert (shown(news), news[-1].finish, news[-1].stop_reason) == ("Hi", "stop", token)


def test_least_tokens_keep_the_end_away() -> None:
    sequence = Sequence(replace(JOB, least=2), VOCABULARY.reader(special=False), lambda news: None)
    made = [sequence.next(logits(END, second=20)) for _ in range(3)]
    assert [one.token for one in made] == [20, 20, END]


def test_forced_tokens_come_first_with_the_model_s_own_logprobs() -> None:
    sequence = Sequence(replace(JOB, forced=(30, 31), logprobs=1), VOCABULARY.reader(special=False), lambda news: None)
    made = [sequence.next(logits(40)) for _ in range(3)]
    assert [one.token for one in made] == [30, 31, 40]
    assert made[0].step is not None
    assert (made[0].step.rank > 1, made[0].step.top[0][0]) == (True, 40)


def test_half_a_character_waits() -> None:
    news = spoken("東é")
    assert len(news) > 3
    assert shown(news) == "東é"
    assert all("\ufffd" not in one.text for one in news)
