"""Tokens of the reference: read from usage without parsing the rest, summed by purpose, kept and read back."""

from __future__ import annotations

import orjson
import pytest

from proxy.monitor.costs import TokenCount, spent, tokens_from, tokens_text, usage_of
from tests.unit.monitor_rig import ok


def reply(prompt: object = 7, completion: object = 2, text: str = "fine", **usage: object) -> bytes:
    counts = {"prompt_tokens": prompt, "total_tokens": 9, "completion_tokens": completion, **usage}
    return orjson.dumps({"choices": [{"text": text}], "usage": counts, "prompt_token_ids": [1, 2]})


def test_usage_is_found_wherever_it_stands() -> None:
    assert usage_of(reply()) == (7, 2)
    assert usage_of(reply(prompt_tokens_details={"cached_tokens": 4})) == (7, 2)
    assert usage_of(b'{"usage" : {"prompt_tokens": 3}, "choices": []}') == (3, 0)
    assert usage_of(b'{"usage": {"prompt_tokens": 3}, "model": "usage"}') == (3, 0)


def test_a_text_that_looks_like_usage_is_only_text() -> None:
    said = '"usage":{"prompt_tokens":999,"completion_tokens":999}'
    assert usage_of(reply(text=said)) == (7, 2)
    assert usage_of(orjson.dumps({"choices": [{"text": said}]})) is None


@pytest.mark.parametrize("prompt", [None, -1, 1.5, "7", True, 1 << 60])
def test_a_count_that_is_none_counts_nothing(prompt: object) -> None:
    assert usage_of(reply(prompt=prompt)) is None


def test_replies_are_summed_by_purpose() -> None:
    counts = spent(
        [
            ("verify", ok(reply(9, 1))),
            ("pair", ok(reply())),
            ("pair", ok(reply(1, 1))),
            ("noise", None),
            ("needle", ok(b"")),
        ]
    )
    assert counts == (TokenCount("pair", 8, 3), TokenCount("verify", 9, 1))
    assert tokens_from(tokens_text(counts)) == counts


def test_nothing_spent_is_nothing_kept() -> None:
    assert tokens_text(()) is None
    assert tokens_from(None) == ()


@pytest.mark.parametrize("text", ["", "[", "7", '{"pair": 7}', '{"pair": [1]}', '{"pair": ["a", "b"]}'])
def test_what_is_no_count_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="no count of tokens"):
        tokens_from(text)
