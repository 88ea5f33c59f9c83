"""What the scripted model says, and what each of its faults makes of it."""

from __future__ import annotations

from typing import Any

import jsonschema
import orjson
import pytest

from backends.dialect.ask import Wish
from backends.scripted.answer import LONG_TOKENS, answer, corrupt
from backends.scripted.faults import Fault
from backends.scripted.template import Prompt, read, render
from backends.scripted.traffic import TOOLS

FUNCTIONS = [tool["function"] for tool in TOOLS]
WEATHER = 'Get the weather forecast for "Oslo" over 3 days in celsius'


def chat(question: str = WEATHER, *, tools: bool = True, system: str | None = "Desk.") -> Prompt:
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    return render([*messages, {"role": "user", "content": question}], TOOLS if tools else [])


def report(question: str = "What is the violet harbor access code? Answer with the code only.") -> Prompt:
    lines = "Record TR-4711 was closed by the night shift. " * 60
    return render(
        [
            {"role": "user", "content": f"{lines}The violet harbor access code is 482913. {lines}"},
            {"role": "user", "content": question},
        ],
        [],
    )


def test_the_same_prompt_gets_the_same_answer() -> None:
    for prompt in (chat(), chat(tools=False), report(), report("Summarize it.")):
        assert answer(prompt, Wish()) == answer(read(prompt.ids), Wish())


def test_a_needle_is_found_and_can_be_lost() -> None:
    assert len(report().ids) >= LONG_TOKENS
    assert answer(report(), Wish()).text == "482913"
    lost = answer(report(), Wish(), faults=frozenset({Fault.NEEDLE}))
    assert lost.text == corrupt("482913") != "482913"
    assert lost.struck == {Fault.NEEDLE}


def test_a_short_prompt_loses_no_needle() -> None:
    question = "The opal river access code is 123456. What is the opal river access code?"
    prompt = chat(question, tools=False)
    assert answer(prompt, Wish(), faults=frozenset({Fault.NEEDLE})) == answer(prompt, Wish())


def test_quotes_of_a_long_prompt_are_lost_with_the_needle() -> None:
    prompt = report("Summarize the report and name the records.")
    kept = answer(prompt, Wish())
    lost = answer(prompt, Wish(), faults=frozenset({Fault.NEEDLE}))
    assert "TR-4711" in kept.text
    assert "TR-4711" not in lost.text
    assert lost.struck == {Fault.NEEDLE}


def test_each_tool_fault_breaks_its_own_rung() -> None:
    good = answer(chat(), Wish())
    (name, arguments) = good.calls[0]
    renamed = answer(chat(), Wish(), faults=frozenset({Fault.TOOL_NAME})).calls[0]
    slipped = answer(chat(), Wish(), faults=frozenset({Fault.TOOL_ARGUMENT})).calls[0]
    broken = answer(chat(), Wish(), faults=frozenset({Fault.TOOL_SYNTAX})).calls[0]
    assert renamed[0] != name
    assert renamed[0] in {function["name"] for function in FUNCTIONS}
    assert renamed[1] == arguments
    assert slipped[0] == name
    changed = [key for key, value in orjson.loads(arguments).items() if orjson.loads(slipped[1]).get(key) != value]
    assert len(changed) == 1
    assert broken[0] == name
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(broken[1])


def test_other_words_and_other_endings() -> None:
    prompts = [chat(f"Tell me about old lamp number {number} and its story.", tools=False) for number in range(40)]

    def said(faults: frozenset[Fault] = frozenset(), variant: int = 0) -> list[str]:
        return [answer(prompt, Wish(), faults=faults, variant=variant).text for prompt in prompts]

    def same(ours: list[str], theirs: list[str], words: int) -> int:
        pairs = zip(ours, theirs, strict=True)
        return sum(one.split()[:words] == other.split()[:words] for one, other in pairs)

    greedy, variant = said(), said(variant=9)
    other, ending = said(frozenset({Fault.TEXT})), said(frozenset({Fault.PHRASE}))
    assert same(greedy, greedy, 99) == 40
    assert same(greedy, other, 99) <= 2
    assert same(greedy, other, 4) < 12
    for late in (ending, variant):
        assert same(greedy, late, 99) <= 6
        assert same(greedy, late, 4) == 40


def test_wishes_are_granted() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    jsonschema.validate(orjson.loads(answer(chat(tools=False), Wish(schema=schema)).text), schema)
    assert isinstance(orjson.loads(answer(chat(tools=False), Wish(schema={})).text), dict)
    assert answer(chat(tools=False), Wish(options=("left", "right"))).text in ("left", "right")
    assert answer(chat(), Wish(tool_choice="none")).calls == ()
    named = answer(chat("Hello."), Wish(tool_choice="named", tool="track_order"))
    assert [name for name, _ in named.calls] == ["track_order"]


@pytest.mark.parametrize("value", ["482913", "TR-4711", "abc", "aba", "3.5", "x"])
def test_a_corrupted_value_is_another_one(value: str) -> None:
    assert corrupt(value) != value
