"""Planting: at a boundary, at the wanted depth, once, never colliding with what the text says already."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.needle import Fact, Haystack, boundary, draw_fact, plant

FACT = Fact("The opal river access code is 123456.", "What is it?", "123456", 0.5)
LINES = "".join(f"Line {number} says little. It ends here.\n" for number in range(200))


def planted(messages: list[dict[str, Any]], depth: float = 0.5) -> tuple[list[dict[str, Any]], float]:
    haystack = Haystack.of(messages)
    assert haystack is not None
    return haystack.with_fact(Fact(FACT.needle, FACT.question, FACT.answer, depth))


@pytest.mark.parametrize("depth", [0.05, 0.25, 0.5, 0.75, 0.95])
def test_the_needle_lands_near_its_depth_at_a_boundary(depth: float) -> None:
    messages, ratio = planted([{"role": "user", "content": LINES}, {"role": "user", "content": "And?"}], depth)
    text = messages[0]["content"]
    at = text.index(FACT.needle)
    assert text[:at].endswith((". ", "\n"))
    assert text.replace(FACT.needle + "\n", "").replace(FACT.needle + " ", "") == LINES
    assert ratio == pytest.approx(depth, abs=0.02)
    assert ratio == pytest.approx(at / len(LINES), abs=1e-9)
    assert messages[-1] == {"role": "user", "content": FACT.question}


def test_depth_counts_over_all_messages() -> None:
    chat = [{"role": "user" if turn % 2 == 0 else "assistant", "content": f"Turn {turn}. " * 20} for turn in range(10)]
    messages, ratio = planted([*chat, {"role": "user", "content": "So?"}], 0.75)
    hit = [index for index, message in enumerate(messages) if FACT.needle in message["content"]]
    assert hit == [7]
    assert ratio == pytest.approx(0.75, abs=0.02)


def test_what_follows_the_last_user_turn_is_cut() -> None:
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": LINES},
        {"role": "assistant", "content": "Read."},
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
    ]
    messages, _ = planted(chat)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]


def test_a_document_inside_the_last_turn_stays_and_the_question_follows() -> None:
    messages, _ = planted([{"role": "system", "content": "Short."}, {"role": "user", "content": LINES + "Sum it up."}])
    assert len(messages) == 2
    assert FACT.needle in messages[1]["content"]
    assert messages[1]["content"].endswith("Sum it up.\n\n" + FACT.question)


def test_parts_keep_their_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    chat: list[dict[str, Any]] = [{"role": "user", "content": [image, {"type": "text", "text": LINES}]}]
    messages, _ = planted(chat)
    parts = messages[0]["content"]
    assert parts[0] == image
    assert FACT.needle in parts[1]["text"]
    assert parts[2] == {"type": "text", "text": FACT.question}
    assert chat[0]["content"][1] == {"type": "text", "text": LINES}


@pytest.mark.parametrize(
    "messages",
    [[{"role": "user", "content": ""}], [{"role": "user"}], [{"role": "user", "content": [{"type": "image_url"}]}]],
)
def test_nothing_to_hide_in(messages: list[dict[str, Any]]) -> None:
    assert Haystack.of(messages) is None


def test_facts_avoid_what_the_text_says() -> None:
    first = draw_fact(7, [])
    second = draw_fact(7, [f"... {first.answer} ..."])
    third = draw_fact(7, [first.needle.split(" access")[0].removeprefix("The ")])
    assert first == draw_fact(7, [])
    assert second.answer != first.answer
    assert third.needle.split(" access")[0] != first.needle.split(" access")[0]
    assert first.depth == second.depth == third.depth


def test_draws_spread_over_depths() -> None:
    depths = sorted(draw_fact(seed, []).depth for seed in range(200))
    assert depths[0] < 0.1
    assert depths[-1] > 0.9
    assert 0.4 < depths[100] < 0.6


@given(st.text(alphabet="ab .\n!", max_size=80), st.integers(0, 80))
def test_a_boundary_never_splits_a_word(text: str, near: int) -> None:
    at = boundary(text, min(near, len(text)))
    assert 0 <= at <= len(text)
    assert at == 0 or text[at - 1] in " \n"


@given(st.text(max_size=40), st.integers(0, 40))
def test_planting_adds_the_needle_and_one_gap(text: str, at: int) -> None:
    at = min(at, len(text))
    new = plant(text, at, FACT.needle)
    assert new.count(FACT.needle) == 1
    assert len(new) - len(text) - len(FACT.needle) in (0, 1)
    assert new.replace(FACT.needle, "", 1).replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")
