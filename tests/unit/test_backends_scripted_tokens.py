"""The tokenizer: reversible, stable, and hashed by prefix."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.scripted.tokens import IM_END, IM_START, VOCABULARY, decode, encode, fold, piece_text


@given(st.text())
def test_text_survives_tokens(text: str) -> None:
    written = text.encode("utf-8", "replace").decode()
    ids = encode(text)
    assert decode(ids) == written
    assert all(0 <= token < VOCABULARY - 2 for token in ids)


def test_ids_are_the_same_for_ever() -> None:
    assert encode("hi there, 482913.") == [13673, 555880, 1686117, 44, 547640, 843185, 51, 46]
    assert (IM_START, IM_END) == (2113792, 2113793)
    assert piece_text(IM_END) == "<|im_end|>"


@given(st.lists(st.integers(0, VOCABULARY - 1)), st.integers(0, 20))
def test_a_prefix_hash_does_not_care_how_it_was_reached(ids: list[int], cut: int) -> None:
    assert fold(fold(1, ids[:cut]), ids[cut:]) == fold(1, ids)


def test_a_prefix_hash_sees_every_token() -> None:
    ids = encode("a long enough text to be hashed")
    hashes = {fold(1, [*ids[:place], ids[place] + 1, *ids[place + 1 :]]) for place in range(len(ids))}
    assert len(hashes | {fold(1, ids)}) == len(ids) + 1
