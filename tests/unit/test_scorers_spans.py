"""Spans: what counts as copied from far back, whole words, and the cost on a long prompt."""

from __future__ import annotations

import random
import re
import time
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers import spans
from scorers.records import DecodedRequest
from scorers.spans import MAX_SPANS, TAIL_CHARS, copied_spans, far_text, find_whole, says

FILLER = "The quick brown fox jumps over the lazy dog and runs far away from here. "


def texts(answer: str, far: str, near: str = "") -> dict[str, str]:
    return {span.text: span.kind for span in copied_spans(answer, far, near)}


@pytest.mark.parametrize(
    ("said", "span", "expected"),
    [
        ("code 123.", "123", True),
        ("code 1234", "123", False),
        ("code 0123", "123", False),
        ("1,123", "123", False),
        ("123,456", "123", False),
        ("3.123", "123", False),
        ("123.5", "123", False),
        ("it is 123, yes", "123", True),
        ("x123", "123", False),
        ("_123", "123", False),
        ("(INV-2024-001)", "INV-2024-001", True),
        ("cats", "cat", False),
        ("a cat", "cat", True),
        ("1234 and 123", "123", True),
        ("", "123", False),
        ("x", "", False),
    ],
)
def test_whole_words(said: str, span: str, expected: bool) -> None:
    assert says(said, span) is expected


def test_ids_and_numbers() -> None:
    far = "order INV-2024-001 of user_77 costs 1,299.50 at 10:45, see ab12cd/9 and 4711." + FILLER
    found = texts("It is INV-2024-001 for user_77: 1,299.50 at 10:45 (4711,9999) 12 new77.", far)
    assert found == {"INV-2024-001": "id", "user_77": "id", "1,299.50": "id", "10:45": "id", "4711": "id"}


def test_what_the_prompts_end_says_too_is_no_recall() -> None:
    assert texts("code 4711", "the code is 4711", "is it 4711?") == {}
    assert texts("code 4711", "the code is 4711", "is it 47111?") == {"4711": "id"}


def test_quotations() -> None:
    far = 'he said "blue lagoon" and `make demo` and x'
    assert texts('They said “blue lagoon”, `make demo`, `not there` and "x".', far) == {
        "blue lagoon": "quote",
        "make demo": "quote",
    }


def test_runs_of_eight_words() -> None:
    passage = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho"
    words = passage.split()
    assert texts("so: " + " ".join(words[3:10]) + " end", passage) == {}
    assert list(texts("so: " + " ".join(words[3:11]) + " end", passage)) == [" ".join(words[3:11])]
    assert list(texts(passage, passage)) == [" ".join(words[:8]), " ".join(words[8:16])]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 30), st.integers(8, 20), st.integers(0, 11), st.integers(0, 11))
def test_every_run_of_eight_is_found_wherever_it_stands(start: int, length: int, before: int, after: int) -> None:
    passage = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
    run = passage[start : start + length]
    answer = " ".join(["x"] * before + run + ["y"] * after)
    found = copied_spans(answer, "zz " + " ".join(passage) + " zz", "")
    assert len(found) == length // 8
    assert all(span.text in " ".join(run) for span in found)


def test_a_run_takes_the_longest_of_its_first_places() -> None:
    long = "one two three four five six seven eight nine ten"
    far = "one two three four X. Y five six seven eight Z. " + long
    (span,) = copied_spans(long, far, "")
    assert (span.text, span.position) == (
        "one two three four five six seven eight",
        far.index("one two three four five"),
    )


def prompted(*messages: tuple[str, str]) -> DecodedRequest:
    body = {"messages": [{"role": role, "content": content} for role, content in messages]}
    text = "\n".join(content for _, content in messages)
    return DecodedRequest("chat", "m", False, 1, True, 0.0, prompt_text=text, body=body)


def test_the_far_part_leaves_out_the_question() -> None:
    document, question = "d" * 3000, "q" * 1000
    far, near = far_text(prompted(("system", document), ("user", question)))
    assert far.strip() == document
    assert near.strip() == question
    far, near = far_text(prompted(("user", document * 4)))
    assert (len(near), len(far) + len(near)) == (TAIL_CHARS, 12_000)
    assert far_text(prompted(("user", "short")))[0] == ""
    far, near = far_text(prompted(("user", document), ("tool", question)))
    assert len(near) == TAIL_CHARS


def test_a_prompt_of_100k_tokens_takes_milliseconds() -> None:
    shuffle = random.Random(3)
    words = [
        f"{shuffle.choice('abcdefgh')}{shuffle.randrange(10**5):05d}"[: shuffle.randrange(2, 7)] for _ in range(5000)
    ]
    far = " ".join(shuffle.choice(words) for _ in range(80_000))
    assert len(far) > 350_000
    answer = " ".join(shuffle.choice(words) for _ in range(400)) + " " + far[200_000:201_000]
    started = time.process_time()
    assert copied_spans(answer, far, "")
    assert time.process_time() - started < 0.5  # about 20 ms; the bound only catches quadratic work


@pytest.mark.parametrize(
    ("answer", "far"),
    [
        ("111 " * 4000, "1" * 400_000),
        ("a a a a " * 2000, "a " * 200_000),
        ("a " * 7 + "b ", ("a " * 7 + "c ") * 20_000),
        ('"aaa" ' * 3000, "aaaa" * 100_000),
        (" ".join(f"{i}/1/2/3/4" for i in range(3000)), "9" * 400_000),
    ],
)
def test_texts_that_mean_harm_are_quick(answer: str, far: str) -> None:
    started = time.process_time()
    spans = copied_spans(answer, far, far[-500:])
    find_whole(far, "11")
    assert time.process_time() - started < 2.0
    assert len(spans) <= MAX_SPANS


@pytest.mark.parametrize(
    "messages", [["x"], [None], [[]], [{}], [{"role": "user", "content": 5}], [{"role": "user", "content": ["x"]}], "x"]
)
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_messages_of_any_shape_are_survived(messages: object, kind: Literal["chat", "completion"]) -> None:
    request = DecodedRequest(kind, "m", False, 1, True, 0.0, prompt_text=FILLER * 20, body={"messages": messages})
    assert len(far_text(request)[1]) == TAIL_CHARS


def test_a_completion_has_no_last_turn() -> None:
    body = {"messages": [{"role": "user", "content": "x" * 2000}]}
    chat = DecodedRequest("chat", "m", False, 1, True, 0.0, prompt_text=FILLER * 50, body=body)
    assert len(far_text(chat)[1]) == 2000
    completion = DecodedRequest("completion", "m", False, 1, True, 0.0, prompt_text=FILLER * 50, body=body)
    assert len(far_text(completion)[1]) == TAIL_CHARS


class _AnyNumber(set[str]):
    """As if every number stood in the prompt, so that each word is searched for."""

    def issuperset(self, other: object) -> bool:
        return True


_SCRAPS = st.lists(
    st.sampled_from(["12", "123", "4711", "٣٤", "x", "-", ".", ",", ":", " ", "ab", "_", "0", "/"]), max_size=40
).map("".join)


@given(_SCRAPS, _SCRAPS, st.integers(1, 9))
def test_a_word_whose_numbers_are_not_in_the_prompt_is_not_in_it(answer: str, far: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "_PIECE_CHARS", piece)
        quick = spans._ids(answer, far)
        patch.setattr(spans, "_numbers", lambda _: _AnyNumber())
        assert spans._ids(answer, far) == quick


@given(st.text(alphabet="12٣ a", max_size=60), st.integers(1, 9))
def test_the_numbers_of_a_text_are_whole_wherever_it_is_cut(text: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "_PIECE_CHARS", piece)
        assert spans._numbers(text) == set(re.findall(r"\d+", text))
