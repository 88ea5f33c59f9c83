"""What proves a greedy reply: each way of failing, and that a proof is never wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as unhurried
from hypothesis import strategies as st

from scorers.proof import Hypothesis, Unproven, Verified, end_of, is_plain, off_the_top, proof, says_its_text
from scorers.records import Choice, DecodedReply, TokenLogprobs, ToolCall

PROMPT = 3
Top = Mapping[int, float]
END = 7
SURE: Top = {7: -0.1, 8: -2.5}


def scored(
    tops: Sequence[Top], own: int, own_top: Top | None, finish: str = "stop", prompt: int = PROMPT, **more: Any
) -> bytes:
    """A vLLM's reply to a scoring call: lists of the forced tokens, then its own token and list."""
    steps: list[Any] = [None, *({"1": {"logprob": -1.0}} for _ in range(prompt - 1))]
    steps += [{str(token): {"logprob": value, "rank": 1} for token, value in top.items()} for top in tops]
    listed = own_top if own_top is not None else {own: -0.1, own + 1: -2.5}
    choice = {
        "index": 0,
        "text": "",
        "finish_reason": finish,
        "token_ids": [own],
        "prompt_logprobs": steps,
        "logprobs": {
            "tokens": [f"token_id:{own}"],
            "token_logprobs": [listed.get(own, -9.0)],
            "top_logprobs": [{f"token_id:{token}": value for token, value in listed.items()}],
            "text_offset": [0],
        },
        **more,
    }
    return orjson.dumps({"choices": [choice], "usage": {"prompt_tokens": prompt + len(tops), "completion_tokens": 1}})


def stops(*tokens: int) -> Hypothesis:
    return Hypothesis(tokens, "stop")


def test_every_token_on_top_and_an_end_of_its_own_is_a_proof() -> None:
    found = proof(scored([SURE, SURE], 2, None), PROMPT, stops(7, 7), 0.5)
    assert isinstance(found, Verified)
    assert found.tokens == (7, 7, 2)
    assert found.logprobs.tokens == ("token_id:7", "token_id:7", "token_id:2")
    assert found.logprobs.chosen == (-0.1, -0.1, -0.1)
    assert found.logprobs.top[2] == {"token_id:2": -0.1, "token_id:3": -2.5}


def test_a_reply_that_ends_at_its_length_needs_its_last_token_said() -> None:
    at_length = Hypothesis((7, 2), "length")
    assert at_length.forced == (7,)
    found = proof(scored([SURE], 2, None, "length"), PROMPT, at_length, 0.5)
    assert isinstance(found, Verified)
    assert found.tokens == (7, 2)
    assert proof(scored([SURE], 3, None, "length"), PROMPT, at_length, 0.5) is Unproven.ANOTHER_TOKEN
    assert proof(scored([SURE], 2, None, "stop"), PROMPT, at_length, 0.5) is Unproven.ANOTHER_END


def test_an_empty_reply_is_a_reply() -> None:
    assert isinstance(proof(scored([], 2, None), PROMPT, stops(), 0.5), Verified)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (scored([SURE, {7: -2.0, 9: -0.2}], 2, None), Unproven.ANOTHER_TOKEN),  # of rank 2
        (scored([SURE, {8: -0.1, 9: -2.0}], 2, None), Unproven.TRUNCATED),  # the token is not in the list
        (scored([SURE, {7: -0.1}], 2, None), Unproven.TRUNCATED),  # its rival is not
        (scored([SURE, {}], 2, None), Unproven.TRUNCATED),
        (scored([SURE, {7: -0.6, 9: -0.9}], 2, None), Unproven.NEAR_TIE),
        (scored([SURE, SURE], 2, {2: -0.6, 9: -0.9}), Unproven.NEAR_TIE),  # it ends, by a hair
        (scored([SURE, SURE], 2, {2: -1.5, 9: -0.2}), Unproven.ANOTHER_TOKEN),  # ends, against its own list
        (scored([SURE, SURE], 2, None, "length"), Unproven.ANOTHER_END),  # it would have gone on
        (scored([SURE, SURE], 2, None, "abort"), Unproven.ANOTHER_END),
        (scored([SURE], 2, None), Unproven.ENGINE),  # a position is missing
        (scored([SURE, SURE, SURE], 2, None), Unproven.ENGINE),
        (scored([SURE, SURE], 2, None, prompt_logprobs=None), Unproven.ENGINE),
        (scored([SURE, SURE], 2, None, logprobs=None), Unproven.ENGINE),
        (scored([SURE, SURE], 2, None, token_ids=None), Unproven.ENGINE),
        (scored([SURE, SURE], 2, None, token_ids=[2, 3]), Unproven.ENGINE),
        (scored([SURE, SURE], 2, None, token_ids=[4]), Unproven.ENGINE),
        (b'{"error": {"message": "no prompt_logprobs"}}', Unproven.ENGINE),
        (b"garbage", Unproven.ENGINE),
    ],
)
def test_each_way_of_not_being_proven(body: bytes, why: Unproven) -> None:
    assert proof(body, PROMPT, stops(7, 7), 0.5) is why


def test_texts_for_tokens_prove_nothing() -> None:
    by_text = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1, "b": -3.0}], "text_offset": [0]}
    assert proof(scored([SURE], 2, None, logprobs=by_text), PROMPT, stops(7), 0.5) is Unproven.ENGINE


def test_a_margin_of_nothing_still_refuses_a_tie() -> None:
    tied = scored([{7: -0.7, 9: -0.7}], 2, None)
    led = scored([{7: -0.69, 9: -0.7}], 2, None)
    assert proof(tied, PROMPT, stops(7), 0.0) is Unproven.NEAR_TIE
    assert isinstance(proof(led, PROMPT, stops(7), 0.0), Verified)


def logits(seed: int, prefix: Sequence[int]) -> list[float]:
    """A model over a few tokens: any function of the prefix will do. The last of them ends the turn."""
    rng = random.Random(f"{seed}:{list(prefix)}")
    return [rng.gauss(0.0, 2.0) for _ in range(END + 1)]


def normal(values: Sequence[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in values))
    return [value - total for value in values]


def walk(model: Callable[[Sequence[int]], Sequence[float]], cap: int) -> tuple[int, ...]:
    """What greedy decoding says, the ending token included."""
    said: list[int] = []
    while len(said) < cap and END not in said:
        values = model(said)
        said.append(values.index(max(values)))
    return tuple(said)


@unhurried(deadline=None, max_examples=600)
@given(
    seed=st.integers(0, 10**6),
    cap=st.integers(1, 6),
    guessed=st.sampled_from(["decode", "prefill", "mutation"]),
    mutation=st.tuples(st.integers(0, 5), st.integers(0, END)),
    margin=st.sampled_from([0.0, 0.2, 0.8, 2.0]),
    k=st.integers(1, END + 1),
)
def test_a_proof_means_that_decoding_says_the_same(
    seed: int, cap: int, guessed: str, mutation: tuple[int, int], margin: float, k: int
) -> None:
    """Whatever is guessed, and although the prefill's logits are off by up to half of the margin each."""

    def decoding(prefix: Sequence[int]) -> list[float]:
        return logits(seed, prefix)

    def prefilling(prefix: Sequence[int]) -> list[float]:
        rng = random.Random(f"prefill:{seed}:{list(prefix)}")
        return normal([value + rng.uniform(-margin / 2.0, margin / 2.0) for value in decoding(prefix)])

    said = walk(decoding, cap)
    guess = walk(prefilling if guessed == "prefill" else decoding, cap)
    if guessed == "mutation":
        changed = [*guess]
        changed[mutation[0] % len(changed)] = mutation[1]
        guess = tuple(changed[: changed.index(END) + 1] if END in changed else changed)
    stopped = guess[-1] == END
    if not stopped and len(guess) != cap:
        return  # its length is not the cap's: not asked (Verifier)
    hypothesis = Hypothesis(guess[:-1], "stop") if stopped else Hypothesis(guess, "length")

    def listed(prefix: Sequence[int], present: Sequence[int]) -> Top:
        values = prefilling(prefix)
        shown = sorted(range(END + 1), key=lambda token: -values[token])[:k]
        return {token: values[token] for token in (*shown, *present)}

    forced = hypothesis.forced
    tops = [listed(forced[:index], [token]) for index, token in enumerate(forced)]
    own = prefilling(forced).index(max(prefilling(forced)))
    body = scored(tops, own, listed(forced, []), "stop" if own == END else "length")
    found = proof(body, PROMPT, hypothesis, margin)
    if isinstance(found, Verified):
        assert (found.tokens, guess) == (said, said)
    elif margin == 0.0 and guess == said and k > 1:
        pytest.fail(f"the true reply was not proven: {found}")


# ---- the message and its raw text


def said(text: str = "", *calls: ToolCall, finish: str = "stop", **more: Any) -> Choice:
    return Choice(index=0, text=text, tool_calls=calls, finish_reason=finish, **more)


CALL = ToolCall("weather", '{"city": "Rome", "days": 2}')
RAW = '<tool_call>\n{"name": "weather", "arguments": {"days": 2, "city": "Rome"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("choice", "raw", "tools", "expected"),
    [
        (said("It rains."), "It rains.", True, True),
        (said("It rains."), "It rains. ", False, False),
        (said("[1, 2]"), "[1, 2]", False, True),
        (said("[1, 2]"), "[1, 2]", True, False),  # a parser might have read a call
        (said("a < b"), "a < b", False, True),
        (said("a</think>b"), "a</think>b", False, False),  # nor is it known what is reasoning
        (said("", CALL), RAW, True, True),
        (said("", CALL, CALL), RAW + "\n" + RAW, True, True),
        (said("", CALL), RAW + "\n" + RAW, True, False),
        (said("", CALL), RAW + " and so on", True, False),
        (said("Let me see.", CALL), "Let me see.\n" + RAW, True, True),
        (said("", CALL), "Let me see.\n" + RAW, True, False),
        (said("", ToolCall("weather", '{"city": "Rome", "days": 2.0}')), RAW, True, False),
        (said("", ToolCall("wether", CALL.arguments)), RAW, True, False),
        (said("", ToolCall("weather", "{broken")), "<tool_call>{broken</tool_call>", True, False),
        (said(RAW), RAW, True, False),  # a candidate whose parser is missing shows the raw text: no proof of anything
        (said("x", reasoning="because"), "x", False, False),
        (said("x", refusal="no"), "x", False, False),
    ],
)
def test_a_message_counts_only_as_far_as_its_raw_text_says_it(
    choice: Choice, raw: str, tools: bool, expected: bool
) -> None:
    assert says_its_text(choice, raw, tools=tools) is expected


@pytest.mark.parametrize("text", ["<|im_end|>", "see </s> there", "[INST] x", "<think>"])
def test_what_is_spelled_as_a_special_token_is_not_plain(text: str) -> None:
    assert not is_plain(text)


@pytest.mark.parametrize("text", ["2 < 3 and 5 > 4", "see [1] and [a]", "x -> y"])
def test_what_only_has_brackets_is_plain(text: str) -> None:
    assert is_plain(text)


def test_ends_that_can_be_shown_again() -> None:
    assert [end_of(said(finish=word)) for word in ("stop", "tool_calls", "length", "content_filter")] == [
        "stop",
        "stop",
        "length",
        None,
    ]


def test_an_engine_that_takes_other_tokens_than_its_best_is_noticed() -> None:
    lists = ({"token_id:5": -0.1, "token_id:6": -3.0}, {"token_id:5": -0.7, "token_id:6": -0.7})
    straight = TokenLogprobs(("token_id:5", "token_id:6"), (-0.1, -0.7), lists)  # the second is a tie
    bent = TokenLogprobs(("token_id:6", "token_id:6"), (-3.0, -0.7), lists)
    assert off_the_top(DecodedReply((Choice(0, "", logprobs=straight),))) == (2, 0)
    assert off_the_top(DecodedReply((Choice(0, "", logprobs=bent),))) == (2, 1)
    assert off_the_top(DecodedReply((Choice(0, ""),))) == (0, 0)


def test_lists_by_text_are_not_looked_at() -> None:
    by_text = TokenLogprobs(("a",), (-3.0,), ({"a": -3.0, "b": -0.1},))
    assert off_the_top(DecodedReply((Choice(0, "", logprobs=by_text),))) == (0, 0)
