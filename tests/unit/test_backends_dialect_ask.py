"""What a request asks for: every way to say it, and no body that breaks the reading."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.dialect.ask import Refused, Wish
from backends.dialect.reply import whole
from backends.dialect.words import Stamp
from backends.scripted.ask import Ask, read_ask
from backends.scripted.distribution import EXACT
from backends.scripted.generate import Run, generate
from backends.scripted.stream import events

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def read(body: object, *, chat: bool = True, content_type: str = "application/json") -> Ask:
    return read_ask(chat, orjson.dumps(body), content_type, "m", 4_096)


@pytest.mark.parametrize(
    ("fields", "wish"),
    [
        ({}, Wish()),
        ({"tools": [TOOL], "tool_choice": "none"}, Wish(tool_choice="none")),
        ({"tools": [TOOL], "tool_choice": "required"}, Wish(tool_choice="required")),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "f"}}}, Wish(tool_choice="named", tool="f")),
        ({"tools": [TOOL], "parallel_tool_calls": False}, Wish(parallel=False)),
        ({"response_format": {"type": "json_object"}}, Wish(schema={})),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, Wish(schema=SCHEMA)),
        ({"response_format": {"type": "text"}}, Wish()),
        ({"structured_outputs": {"json": SCHEMA}}, Wish(schema=SCHEMA)),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Wish(options=("a", "b"))),
        ({"guided_json": SCHEMA}, Wish(schema=SCHEMA)),
        ({"guided_choice": ["a"]}, Wish(options=("a",))),
    ],
)
def test_wishes(fields: dict[str, Any], wish: Wish) -> None:
    assert read({"messages": HI, **fields}).wish == wish


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
    ],
)
def test_length_limits_of_chats(fields: dict[str, Any], limit: int | None) -> None:
    assert read({"messages": HI, **fields}).max_tokens == limit


def test_completions_default_to_sixteen_tokens() -> None:
    assert read({"prompt": "x"}, chat=False).max_tokens == 16


def test_temperature_defaults_to_one_and_tiny_is_greedy() -> None:
    assert read({"messages": HI}).temperature == 1.0
    assert read({"messages": HI, "temperature": 1e-6}).temperature == 0.0


@pytest.mark.parametrize(
    ("stop", "read_as"), [("x", ("x",)), (["a", "b"], ("a", "b")), ("", ()), (None, ()), ([""], ())]
)
def test_stop(stop: object, read_as: tuple[str, ...]) -> None:
    assert read({"messages": HI, "stop": stop}).stop == read_as


def test_the_media_type_may_have_parameters() -> None:
    read({"messages": HI}, content_type="Application/JSON; charset=utf-8")
    with pytest.raises(Refused):
        read({"messages": HI}, content_type="text/plain")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 40) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=10,
)
_SCHEMAS = st.fixed_dictionaries(
    {"type": st.sampled_from(["object", "array", "string", "integer", "null", ["null", "string"]])},
    optional={
        "properties": st.dictionaries(st.text(max_size=4), st.fixed_dictionaries({"type": st.just("string")})),
        "enum": st.lists(st.integers(-9, 9), max_size=2),
        "items": st.fixed_dictionaries({"type": st.just("integer")}),
        "$ref": st.just("#"),
    },
)
_TOOLS = st.lists(
    st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.text(max_size=5), "parameters": _SCHEMAS})}),
    max_size=3,
)
_FIELDS = {
    "messages": st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), _JSON), max_size=3),
    "prompt": _JSON,
    "tools": _TOOLS | _JSON,
    "tool_choice": st.sampled_from(["auto", "none", "required"]) | _JSON,
    "response_format": st.fixed_dictionaries(
        {"type": st.just("json_schema"), "json_schema": st.fixed_dictionaries({"schema": _SCHEMAS})}
    )
    | _JSON,
    "stop": _JSON,
    "n": st.integers(-1, 3),
    "max_tokens": st.integers(-1, 60) | _JSON,
    "temperature": st.sampled_from([0, 0.5, 1]) | _JSON,
    "seed": _JSON,
    "logprobs": st.booleans() | st.integers(0, 3) | _JSON,
    "top_logprobs": st.integers(0, 3),
    "stream": st.booleans(),
    "stream_options": _JSON,
    "return_token_ids": st.booleans(),
}


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=_FIELDS), st.booleans())
def test_any_body_is_answered_or_refused(body: dict[str, Any], chat: bool) -> None:
    try:
        ask = read(body, chat=chat)
    except Refused:
        return
    run = Run(EXACT, frozenset(), noisy=False, fresh=False)
    choices = [generate(ask, prompt, index, run, 500) for prompt in ask.prompts for index in range(ask.n)]
    stamp = Stamp("chatcmpl-0000000000000000", 0, "f")
    assert orjson.loads(whole(ask, stamp, choices, []))["choices"]
    assert list(events(ask, stamp, choices))
