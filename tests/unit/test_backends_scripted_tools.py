"""Which tool the scripted model calls, and with which arguments."""

from __future__ import annotations

import jsonschema

from backends.scripted.tools import Call, choose, fill
from backends.scripted.traffic import TOOLS

FUNCTIONS = [tool["function"] for tool in TOOLS]
WEATHER = 'Get the weather forecast for "Oslo" over 3 days in celsius'


def test_a_call_takes_its_arguments_by_type() -> None:
    assert choose(WEATHER, FUNCTIONS, must=False, parallel=True) == [
        Call("get_weather", {"city": "Oslo", "days": 3, "unit": "celsius"})
    ]


def test_steps_become_parallel_calls() -> None:
    question = f"{WEATHER}; Track the order OR-1009 and its status"
    both = choose(question, FUNCTIONS, must=False, parallel=True)
    assert [call.name for call in both] == ["get_weather", "track_order"]
    assert both[1].arguments == {"order": "OR-1009"}
    assert choose(question, FUNCTIONS, must=False, parallel=False) == both[:1]


def test_a_question_that_no_tool_fits() -> None:
    assert choose("Explain river deltas, please.", FUNCTIONS, must=False, parallel=True) == []
    assert len(choose("Explain river deltas, please.", FUNCTIONS, must=True, parallel=True)) == 1


def test_required_arguments_always_get_a_value() -> None:
    for function in FUNCTIONS:
        arguments = fill(function["parameters"], "Please do it.")
        jsonschema.validate(arguments, {**function["parameters"], "additionalProperties": False})
