"""The traffic: of every kind, seeded, and of the lengths and forms that it promises."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import orjson

from backends.scripted.answer import answer
from backends.scripted.ask import Ask, read_ask
from backends.scripted.traffic import Sent, requests, sent
from backends.shape import classify


def understood(one: Sent) -> Ask:
    body = orjson.dumps(one.body)
    return read_ask(one.path == "/v1/chat/completions", body, "application/json", "m", 32_768)


def test_equal_seeds_give_equal_traffic() -> None:
    assert list(islice(requests(4), 50)) == [one.body for one in islice(sent(4), 50)]
    assert list(islice(requests(4), 50)) != list(islice(requests(5), 50))


def test_every_request_is_eligible_and_understood() -> None:
    for one in islice(sent(1), 300):
        assert isinstance(classify(one.path, one.body), str)
        understood(one)


def test_every_kind_comes_and_does_what_it_says() -> None:
    kinds: Counter[str] = Counter()
    for one in islice(sent(2), 400):
        ask = understood(one)
        said = answer(ask.prompts[0], ask.wish)
        kinds[one.kind] += 1
        if one.kind == "single":
            offered = {tool["function"]["name"] for tool in one.body["tools"]}
            assert {name for name, _ in said.calls} <= offered
        if one.kind in ("none_fits", "talk", "long", "completion"):
            assert said.calls == ()
        if one.kind == "json":
            orjson.loads(said.text)
        if one.kind == "long":
            assert 500 <= len(ask.prompts[0].ids) <= 7_000
    assert set(kinds) == {"single", "parallel", "none_fits", "long", "talk", "json", "completion"}
    assert min(kinds.values()) >= 10


def test_greedy_and_sampled_streamed_and_whole() -> None:
    bodies = list(islice(requests(6), 400))
    assert 220 < sum(body["temperature"] == 0 for body in bodies) < 310
    assert all("seed" in body for body in bodies if body["temperature"] != 0)
    assert 150 < sum("stream" in body for body in bodies) < 250


def test_most_tool_questions_are_answered_by_a_call() -> None:
    asked = [one for one in islice(sent(7), 400) if one.kind in ("single", "parallel")]
    called = [one for one in asked if answer(understood(one).prompts[0], understood(one).wish).calls]
    assert len(called) > 0.9 * len(asked)
