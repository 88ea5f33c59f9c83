"""What a client asked for, and which pairs may be compared by it; the scores are test_scorers_logprobs'."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from scorers.comparable import asks_tokens, by_id, prompts_differ, says_anything, unready
from scorers.decode import decode_reply
from scorers.records import Choice, DecodedReply, DecodedRequest, Pair, Reason

DATA = Path(__file__).parent / "data"
BY_ID = decode_reply("chat", "application/json", (DATA / "vllm_chat_ids.json").read_bytes())
BY_TEXT = decode_reply("chat", "application/json", (DATA / "vllm_chat_text_keys.json").read_bytes())
SILENT = DecodedReply((Choice(0, "x"),))
IDS = {"return_tokens_as_token_ids": True}


def served(right: DecodedReply, body: dict[str, Any], kind: Literal["chat", "completion"] = "chat") -> Pair:
    return Pair(DecodedRequest(kind, "m", False, 1, True, 0.0, body=body), right, right)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("chat", {}, Reason.NOT_PLANNED),
        ("chat", {"logprobs": True, **IDS}, Reason.NOT_PLANNED),
        ("chat", {"logprobs": True, "top_logprobs": 20}, Reason.NOT_PLANNED),
        ("chat", {"logprobs": True, "top_logprobs": 20, **IDS}, None),
        ("chat", {"logprobs": True, "top_logprobs": -1, **IDS}, None),
        ("chat", {"logprobs": True, "top_logprobs": "20", **IDS}, Reason.NOT_PLANNED),
        ("chat", {"logprobs": 20, "top_logprobs": 20, **IDS}, Reason.NOT_PLANNED),
        ("completion", {"logprobs": 20, **IDS}, None),
        ("completion", {"logprobs": True, **IDS}, Reason.NOT_PLANNED),
        ("completion", {"logprobs": 1, **IDS}, Reason.NOT_PLANNED),
        ("completion", {"logprobs": 0, **IDS}, Reason.NOT_PLANNED),
    ],
)
def test_the_request_says_whether_served_logprobs_are_compared(
    kind: Literal["chat", "completion"], body: dict[str, Any], expected: Reason | None
) -> None:
    pair = served(BY_ID, body, kind)
    assert unready(pair) is expected
    # Whatever the left side did: it cannot make a planned score an unplanned one, nor the other way round.
    silent = Pair(pair.request, SILENT, BY_ID)
    assert unready(silent) is (expected or Reason.NO_LOGPROBS)


def test_keys_of_one_kind() -> None:
    asked = {"logprobs": True, "top_logprobs": 20}
    assert (by_id(BY_ID), by_id(BY_TEXT), by_id(SILENT)) == (True, False, None)
    assert unready(served(BY_TEXT, asked)) is None
    assert unready(served(BY_TEXT, {**asked, **IDS})) is Reason.NOT_PLANNED


@pytest.mark.parametrize(
    ("right", "body", "expected"),
    [
        (BY_ID, {}, False),
        (BY_ID, {"return_token_ids": True}, True),
        (BY_ID, {"logprobs": True}, False),
        (BY_ID, {"logprobs": True, **IDS}, True),
        (BY_TEXT, {"logprobs": True}, True),
        (SILENT, {"return_token_ids": True}, False),
    ],
)
def test_whether_tokens_were_asked_for(right: DecodedReply, body: dict[str, Any], expected: bool) -> None:
    assert asks_tokens(served(right, body)) is expected


def test_a_reply_that_says_something() -> None:
    assert says_anything(BY_ID)
    assert says_anything(BY_TEXT)
    assert not says_anything(SILENT)


def test_prompts() -> None:
    assert not prompts_differ(BY_ID, BY_ID)
    assert prompts_differ(DecodedReply((), prompt_tokens=1), DecodedReply((), prompt_tokens=2))
    assert not prompts_differ(DecodedReply(()), DecodedReply((), prompt_tokens=2))
