"""Clients' patterns: honest ones run, the others are refused, and no pattern that runs is slow."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.patterns import MAX_PATTERN_CHARS, MAX_WAYS, MIN_TEXT_CHARS, tame

HONEST = [
    r"^\d{4}-\d{2}-\d{2}$",
    r"^[\w.+-]+@[\w-]+\.[\w.]+$",
    r"^(low|medium|high)$",
    r"^\d+(\.\d+)?$",
    r"^https?://\S+$",
    r"^\+?[1-9]\d{1,14}$",
    r"^[A-Z]{3}-\d{3,6}$",
    r"^#[0-9a-fA-F]{6}$",
    r"^(?:[01]\d|2[0-3]):[0-5]\d$",
    r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$",
    r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    r"^[a-z][a-z0-9_]{0,62}$",
    r"^\d+\.\d+\.\d+$",
    r"^S_",
    r"^.*$",
    "",
]

WILD = [
    r"^(a+)+$",
    r"(?x)^(a+) +$",
    r"^(a|a)*$",
    r"^(?:a|aa){1,40}$",
    "^" + "(?:a|aa)" * 26 + "$",
    "^" + "a?" * 30 + "a" * 30 + "$",
    "^" + r"\\+" * 8 + "x$",
    r"a*a*a*a*a*a*b",
    r"(a*)*",
    r"(?:^)*x",
    r"(a)\1",
    r"(?=a+)+b",
    r"(?<=a)b",
    r"(?!a+$)b",
    r"(?i)a",
    r"(?i:a)",
    r"(a)(?(1)b|c)",
    r"((a?){1,500}){1,500}",
    r"((a+){0,500}){0,500}",
    r"((((a{1,99}){1,99}){1,99}){1,99}){1,99}",
    r"(?:a+b?)+c",
    "a{99999999999999999999}",
    "(" * 400 + ")" * 400 + "(",
    "[",
    "x" * (MAX_PATTERN_CHARS + 1),
]


@pytest.mark.parametrize("pattern", HONEST)
def test_honest_patterns_run(pattern: str) -> None:
    found = tame(pattern)
    assert found is not None
    assert found.max_chars >= MIN_TEXT_CHARS


@pytest.mark.parametrize("pattern", WILD)
def test_wild_patterns_are_refused_and_quickly(pattern: str) -> None:
    started = time.process_time()
    assert tame(pattern) is None
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"a*a*b", "a"),
        (r"a*a*a*b", "a"),
        (r"^a*a*a*a*b", "a"),
        (r"^(?:aa)*(?:aa)*(?:aaa)*b", "a"),
        (r"^a*?a*?a*?b", "a"),
        (r"a{0,60}a{0,60}b", "a"),
        (r"^.*,.*,.*,x$", ","),
        (r"^.*.*.*" + "a{20}" + "b", "a"),
        (r"^a*a*a*" + "(?:(?:a|a)(?:a|a))?" + "b", "a"),
        (r"^" + "a?" * 14 + "a*b", "a"),
        (r"(?:a|ab|abc)(?:c|bc|d)x", "abc"),
    ],
)
def test_the_worst_text_of_a_pattern_that_runs_is_quick(pattern: str, text: str) -> None:
    found = tame(pattern)
    assert found is not None
    worst = (text * found.max_chars)[: found.max_chars]
    assert found.cost(len(worst)) <= MAX_WAYS
    started = time.process_time()
    found.found_in(worst)
    assert time.process_time() - started < 1.5


PIECES = st.sampled_from(
    [
        "a",
        "b",
        ".",
        r"\d",
        r"\\",
        "[ab]",
        "^",
        "$",
        "(",
        ")",
        "(?:",
        "|",
        "*",
        "+",
        "?",
        "{2}",
        "{1,3}",
        "{0,300}",
        "*?",
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join), st.text("ab1\\", min_size=1, max_size=4))
def test_no_pattern_that_runs_is_slow(pattern: str, text: str) -> None:
    found = tame(pattern)
    if found is None:
        return
    worst = (text * found.max_chars)[: min(found.max_chars, 20_000)]
    started = time.process_time()
    found.found_in(worst)
    assert time.process_time() - started < 1.5, (pattern, text)


def test_found_in_is_re_search() -> None:
    pattern = tame(r"^\d+(\.\d+)?$")
    assert pattern is not None
    assert [pattern.found_in(text) for text in ("1", "1.5", "x", "1.")] == [True, True, False, False]
