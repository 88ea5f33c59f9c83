"""Which prompts are calibrated on: no repetition, every length, with and without tools, no family fills the set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.checkpoints.worker.choosing import LENGTHS, Rendered, choose, distinct, strata_of
from scorers.records import LENGTH_BUCKETS, length_bucket


def prompt(text: str, tokens: int = 10, tools: bool = False, opening: int = 0) -> Rendered:
    return Rendered(text, tokens, tools, opening)


def test_the_lengths_are_the_products_strata() -> None:
    assert LENGTH_BUCKETS[:-1] == LENGTHS
    for tokens in (0, 511, 512, 4_095, 4_096, 65_535, 65_536, 1 << 40):
        assert prompt("x", tokens).stratum == f"{length_bucket(tokens)}/plain"


def test_what_another_one_contains_as_its_beginning_goes() -> None:
    talk = [prompt("hello"), prompt("hello, what is"), prompt("other"), prompt("hello, what is it"), prompt("hello")]
    assert distinct(talk) == [2, 3]


@given(st.lists(st.text(alphabet="ab", max_size=6), max_size=25))
def test_distinct_by_definition(texts: list[str]) -> None:
    kept = distinct([prompt(text) for text in texts])
    assert len({texts[place] for place in kept}) == len(kept)
    for text in texts:
        assert any(texts[place].startswith(text) for place in kept)
    for one in kept:
        assert not any(other != one and texts[other].startswith(texts[one]) for other in kept)


def test_each_stratum_has_its_share_however_rare_it_is() -> None:
    many = [prompt(f"short {number:04}", 100) for number in range(500)]
    few = [prompt(f"tool {number}", 900, tools=True) for number in range(8)]
    one = [prompt("the only long one", 9_000)]
    chosen = choose([*many, *few, *one], 20, seed=1)
    told = strata_of([*many, *few, *one], chosen)
    assert told == {"0-512/plain": 11, "4k-16k/plain": 1, "512-1k/tools": 8}


def test_no_family_fills_a_stratum_while_others_wait() -> None:
    document = "The same long document. " * 40
    about_it = [prompt(f"sys{document}{number}", opening=3) for number in range(300)]
    others = [prompt(f"sysquestion {number}.", opening=3) for number in range(19)]
    chosen = choose([*about_it, *others], 20, seed=3)
    assert sum(place < 300 for place in chosen) == 1
    # a system prompt that all share makes no family: without the opening, all would be one
    shared = "You are a helpful assistant. " * 40
    asked = [prompt(f"{shared}{number}", opening=len(shared)) for number in range(30)]
    assert len({one.family for one in asked}) == 30


def test_a_family_is_used_when_there_is_nothing_else() -> None:
    document = "x" * 600
    assert len(choose([prompt(f"{document}{number}") for number in range(30)], 20, seed=0)) == 20


def test_the_same_seed_chooses_the_same_and_another_others() -> None:
    prompts = [prompt(f"{number:03}") for number in range(200)]
    assert choose(prompts, 30, seed=5) == choose(prompts, 30, seed=5)
    assert choose(prompts, 30, seed=5) != choose(prompts, 30, seed=6)


def test_fewer_than_asked_are_all() -> None:
    assert sorted(choose([prompt("a"), prompt("b"), prompt("a")], 10, seed=0)) == [0, 1]
    assert choose([], 10, seed=0) == []
