"""From answers to tokens: stops, lengths, sampling; prefill and decode give one distribution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from backends.scripted.ask import Ask, read_ask
from backends.scripted.distribution import EXACT, Drift
from backends.scripted.faults import Fault
from backends.scripted.generate import Generated, Run, generate, key_of, prefill
from backends.scripted.template import plain
from backends.scripted.tokens import IM_END, decode, encode

QUIET = Run(EXACT, frozenset(), noisy=False, fresh=True)


def ask(**fields: Any) -> Ask:
    body = {"model": "m", "messages": [{"role": "user", "content": "Tell me about été and 1234."}], "temperature": 0}
    return read_ask(True, orjson.dumps(body | fields), "application/json", "m", 4_096)


def one(asked: Ask, run: Run = QUIET, index: int = 0) -> Generated:
    return generate(asked, asked.prompts[0], index, run, 1_000)


def test_a_whole_answer_ends_with_the_end_of_turn() -> None:
    made = one(ask())
    assert made.finish == "stop"
    assert made.whole
    assert made.tokens[-1] == IM_END
    assert decode(made.tokens) == made.text == made.said.text
    assert made.steps == ()


def test_the_shortest_limit_wins() -> None:
    for limit in (1, 5, 9):
        made = one(ask(max_tokens=limit))
        assert (len(made.tokens), made.finish, made.whole) == (limit, "length", False)
    exact = len(one(ask()).tokens)
    assert one(ask(max_tokens=exact)).finish == "stop"
    assert one(ask(max_tokens=exact - 1)).finish == "length"


def test_a_stop_string_cuts_the_text_and_is_named() -> None:
    full = one(ask()).text
    stop = full[10:14]
    made = one(ask(stop=["never said", stop]))
    assert made.text == full[: full.index(stop)]
    assert (made.finish, made.stop_reason, made.whole) == ("stop", stop, False)
    assert decode(made.tokens).startswith(made.text + stop)
    assert one(ask(stop=stop, max_tokens=1)).finish == "length"


def test_sampling_follows_its_seed() -> None:
    def texts(fresh: bool, **fields: Any) -> set[str]:
        return {one(ask(temperature=1, **fields), replace(QUIET, fresh=fresh)).text for _ in range(40)}

    assert len(texts(True, seed=5)) == 1
    assert len(texts(False)) == 1
    assert len(texts(True)) > 1
    seeds = {one(ask(temperature=1, seed=seed)).text for seed in range(40)}
    assert 5 < len(seeds) < 40
    assert one(ask()).text in seeds


def test_choices_are_sampled_apart() -> None:
    asked = ask(temperature=1.5, seed=3, n=8)
    assert len({one(asked, index=index).text for index in range(8)}) > 1


def test_noise_is_rare_and_jitters() -> None:
    noisy = replace(QUIET, noisy=True)
    texts = [one(ask(), noisy).text for _ in range(300)]
    assert 5 < sum(said != one(ask()).text for said in texts) < 70


@pytest.mark.parametrize("drift", [EXACT, Drift(shift=0.2)])
def test_prefill_gives_what_decoding_gave(drift: Drift) -> None:
    asked = ask(logprobs=True, top_logprobs=20)
    made = one(asked, replace(QUIET, drift=drift))
    again = prefill(plain([*made.prompt.ids, *made.tokens]), drift)
    assert len(again) == len(made.prompt.ids) + len(made.tokens) - 1
    assert tuple(again[-len(made.tokens) :]) == made.steps


def test_prefill_measures_foreign_tokens_against_its_own_answer() -> None:
    asked = ask(logprobs=True)
    ours = one(asked)
    theirs = one(asked, replace(QUIET, faults=frozenset({Fault.TEXT})))
    parted = next(at for at, (a, b) in enumerate(zip(ours.tokens, theirs.tokens, strict=False)) if a != b)
    forced = prefill(plain([*theirs.prompt.ids, *theirs.tokens]), EXACT)[-len(theirs.tokens) :]
    assert tuple(forced[:parted]) == theirs.steps[:parted]
    assert forced[parted].top[0][0] == ours.tokens[parted]
    assert forced[parted].token == theirs.tokens[parted]
    assert forced[parted].rank > 1
    assert tuple(forced[parted + 1 :]) == theirs.steps[parted + 1 :]


def test_faults_know_a_prompt_by_what_precedes_the_answer() -> None:
    prompt = ask().prompts[0]
    assert key_of(prompt) == key_of(plain([*prompt.ids, *encode("some answer")]))
    assert key_of(prompt) != key_of(ask(messages=[{"role": "user", "content": "Other."}]).prompts[0])
