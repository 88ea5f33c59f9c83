"""The ladder on hand-made pairs, on BFCL's questions and possible answers, and as properties."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.records import Choice, DecodedReply, DecodedRequest, Pair, Reason, Score, Scored, ToolCall, Unscored
from scorers.tool_calls import F1_LOSS, FREE_TEXT, LOOSE, MISMATCH, SCHEMA_FAILURE, SPECS, TRIGGER, ToolCallScorer

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "wind": {"type": "number"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "detail": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city"],
}
MAIL = {"type": "object", "properties": {"to": {"type": "string"}, "body": {"type": "string"}}, "required": ["to"]}
TOOLS = {"get_weather": WEATHER, "send_mail": MAIL}


def request(tools: Any = TOOLS, **fields: Any) -> DecodedRequest:
    return DecodedRequest("chat", "m", False, 1, True, 0.0, tools=tools, **fields)


def call(name: str = "get_weather", /, **arguments: Any) -> ToolCall:
    return ToolCall(name, json.dumps(arguments))


def reply(*choices: list[ToolCall]) -> DecodedReply:
    return DecodedReply(tuple(Choice(i, "", tuple(calls)) for i, calls in enumerate(choices)))


def scores(left: DecodedReply, right: DecodedReply, asked: DecodedRequest | None = None) -> dict[str, Scored]:
    scored = ToolCallScorer()(Pair(asked or request(), left, right))
    assert [item.name for item in scored] == [spec.name for spec in SPECS]
    return {item.name: item for item in scored}


def value(scored: dict[str, Scored], name: str) -> float:
    item = scored[name]
    assert isinstance(item, Score), item
    return item.value


def rung(scored: dict[str, Scored]) -> str | None:
    choices = scored[MISMATCH].explanation["choices"]
    return choices[0]["rung"]  # type: ignore[no-any-return]


PARIS = call(city="Paris", days=3)


# ---- the ladder


@pytest.mark.parametrize(
    ("left", "right", "expected_rung", "loose"),
    [
        ([PARIS], [PARIS], None, 0.0),
        ([], [], None, 0.0),
        ([ToolCall("get_weather", '{ "days": 3.0, "city":"Paris"}')], [PARIS], None, 0.0),
        ([], [PARIS], "trigger", 1.0),
        ([PARIS], [], "trigger", 1.0),
        ([ToolCall("get_weather", '{"city": "Par')], [PARIS], "parse", 1.0),
        ([call(days=3)], [PARIS], "schema", 1.0),
        ([call(city="Paris", days="3")], [PARIS], "schema", 1.0),
        ([call("get_wether", city="Paris", days=3)], [PARIS], "schema", 1.0),
        ([call("send_mail", to="Paris")], [PARIS], "names", 1.0),
        ([PARIS, PARIS], [PARIS], "names", 1.0),
        ([call(city="paris", days=3)], [PARIS], "args_strict", 0.0),
        ([call(city="London", days=3)], [PARIS], "args_strict", 1.0),
        ([call(city="Paris")], [PARIS], "args_strict", 1.0),
        ([call(city="Paris", days=3, detail=True)], [PARIS], "args_strict", 1.0),
    ],
)
def test_the_first_failing_rung(
    left: list[ToolCall], right: list[ToolCall], expected_rung: str | None, loose: float
) -> None:
    scored = scores(reply(left), reply(right))
    assert rung(scored) == expected_rung
    assert value(scored, MISMATCH) == float(expected_rung is not None)
    assert value(scored, TRIGGER) == float(expected_rung == "trigger")
    assert value(scored, LOOSE) == loose


@pytest.mark.parametrize(
    ("left", "right", "mismatch"),
    [
        ({"wind": 3}, {"wind": 3.0}, 0.0),  # numbers by value
        ({"wind": 1}, {"wind": True}, 1.0),  # a bool is no number
        ({"detail": True}, {"detail": 1}, 1.0),
        ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}, 1.0),  # array order kept
        ({"wind": 0.1}, {"wind": 0.10000000000000001}, 0.0),
        ({"days": 12345678901234567890123}, {"days": 12345678901234567890124}, 1.0),  # exact beyond 64 bits
        ({"days": 9007199254740993}, {"days": 9007199254740992}, 1.0),
        ({"days": None}, {}, 1.0),  # absent is not null
        ({"days": "3"}, {"days": 3}, 1.0),
    ],
)
def test_equality_of_values(left: dict[str, Any], right: dict[str, Any], mismatch: float) -> None:
    scored = scores(reply([call(city="x", **left)]), reply([call(city="x", **right)]))
    assert value(scored, MISMATCH) == mismatch


def test_an_integer_is_accepted_where_the_schema_says_number() -> None:
    scored = scores(reply([call(city="x", wind=3)]), reply([call(city="x", wind=3)]))
    assert value(scored, SCHEMA_FAILURE) == 0.0


def test_parallel_calls_match_in_any_order_and_count_once() -> None:
    a, b, c = call(city="A"), call(city="B"), call(city="C")
    assert value(scores(reply([b, a]), reply([a, b])), MISMATCH) == 0.0
    partly = scores(reply([a, a, b]), reply([a, b, c]))
    assert value(partly, MISMATCH) == 1.0
    assert value(partly, F1_LOSS) == pytest.approx(1 - 2 * 2 / 6)
    assert value(scores(reply([a]), reply([a, b, c])), F1_LOSS) == pytest.approx(1 - 2 * 1 / 4)


def test_choices_are_paired_by_index_and_averaged() -> None:
    one = reply([PARIS], [PARIS], [PARIS], [PARIS])
    two = reply([PARIS], [], [PARIS], [call(city="Rome")])
    scored = scores(two, one)
    assert value(scored, MISMATCH) == 0.5
    assert value(scored, TRIGGER) == 0.25
    assert value(scores(reply([PARIS]), reply([PARIS], [PARIS])), MISMATCH) == 0.5


# ---- what does not apply


@pytest.mark.parametrize("asked", [request(tools={}), request(tool_choice="none")])
def test_without_offered_tools_nothing_applies(asked: DecodedRequest) -> None:
    scored = scores(reply([PARIS]), reply([]), asked)
    assert {item.reason for item in scored.values() if isinstance(item, Unscored)} == {Reason.NO_TOOLS}
    assert {item.reason for item in ToolCallScorer().missing(asked, Reason.LATE)} == {Reason.NO_TOOLS}


def test_missing_keeps_the_reason_where_tools_are_offered() -> None:
    missing = ToolCallScorer().missing(request(), Reason.REFERENCE_TIMEOUT)
    assert [item.name for item in missing] == [spec.name for spec in SPECS]
    assert {item.reason for item in missing} == {Reason.REFERENCE_TIMEOUT}


def saying(text: str) -> DecodedReply:
    return DecodedReply((Choice(0, text),))


def test_schema_failure_needs_a_call_of_the_reference() -> None:
    """Whether it applies is not the left side's to say."""
    for left in (reply([]), saying("x"), reply([PARIS]), reply([ToolCall("get_weather", "{}")])):
        item = scores(left, saying("x"))[SCHEMA_FAILURE]
        assert isinstance(item, Unscored)
        assert item.reason is Reason.NO_CALLS
    assert value(scores(saying("x"), reply([PARIS])), SCHEMA_FAILURE) == 0.0  # the trigger's to say
    assert value(scores(reply([]), reply([PARIS])), SCHEMA_FAILURE) == 1.0  # no answer at all
    assert value(scores(reply([PARIS]), reply([PARIS], [PARIS])), SCHEMA_FAILURE) == 0.5


LONG_KEY = {"type": "object", "patternProperties": {"^[a-z]+[0-9]+$": {"type": "integer"}}}


def test_a_value_that_runs_into_a_bound_is_a_failure_unless_the_references_does_too() -> None:
    asked = request(tools={"f": LONG_KEY, "g": LONG_KEY})
    honest, long = call("f", a1=1), call("f", **{"a" * 5_000: 1})
    assert value(scores(reply([honest]), reply([honest]), asked), SCHEMA_FAILURE) == 0.0
    assert value(scores(reply([long]), reply([honest]), asked), SCHEMA_FAILURE) == 1.0
    both = scores(reply([long, call("g")]), reply([long, call("g")]), asked)
    assert value(both, SCHEMA_FAILURE) == 0.0
    item = scores(reply([honest]), reply([long]), asked)[SCHEMA_FAILURE]
    assert isinstance(item, Unscored)
    assert item.reason is Reason.UNSUPPORTED


def test_the_left_side_cannot_leave_by_a_tool_whose_schema_decides_nothing() -> None:
    asked = request(tools={"f": {"type": "dict"}, "get_weather": WEATHER})
    assert value(scores(reply([call("f")]), reply([PARIS]), asked), SCHEMA_FAILURE) == 0.0
    assert value(scores(reply([call("f")]), reply([PARIS]), asked), MISMATCH) == 1.0


def test_a_left_side_that_breaks_what_it_calls() -> None:
    broken = reply([call(days="many")])
    assert value(scores(broken, reply([PARIS])), SCHEMA_FAILURE) == 1.0
    assert value(scores(broken, broken), MISMATCH) == 0.0  # equal, and both break the schema
    assert value(scores(broken, broken), SCHEMA_FAILURE) == 1.0


@pytest.mark.parametrize(
    "schema", [{"type": "dict"}, {"$ref": "http://127.0.0.1:9/schema.json"}, {"$ref": "#"}, 7, "x", []]
)
def test_an_unusable_schema_is_skipped_with_a_note(schema: Any) -> None:
    scored = scores(reply([PARIS]), reply([PARIS]), request(tools={"get_weather": schema}))
    assert value(scored, MISMATCH) == 0.0
    item = scored[SCHEMA_FAILURE]
    assert isinstance(item, Unscored)
    assert item.reason is Reason.UNSUPPORTED
    assert item.explanation["notes"]


# ---- free text


LONG = "Dear Ada, the meeting of Thursday moves to Friday at ten in the small room, please bring the report. Yours, Bob"


def test_long_free_text_has_its_own_lane() -> None:
    other = LONG.replace("please bring", "kindly bring")
    scored = scores(reply([call("send_mail", to="ada", body=other)]), reply([call("send_mail", to="ada", body=LONG)]))
    assert value(scored, MISMATCH) == 0.0
    assert 0.0 < value(scored, FREE_TEXT) < 0.1


def test_free_text_says_nothing_about_short_values_or_closed_sets() -> None:
    scored = scores(reply([PARIS]), reply([PARIS]))
    assert scored[FREE_TEXT] == Unscored(FREE_TEXT, Reason.NO_FREE_TEXT)
    patterned = {"send_mail": {**MAIL, "properties": {"body": {"type": "string", "pattern": "D"}}}}
    left, right = reply([call("send_mail", to="a", body=LONG)]), reply([call("send_mail", to="a", body=LONG + "!")])
    assert value(scores(left, right, request(tools=patterned)), MISMATCH) == 1.0


def test_a_runaway_string_does_not_hide_in_the_free_text_lane() -> None:
    scored = scores(reply([call(city="Paris " * 40)]), reply([call(city="Paris")]))
    assert value(scored, MISMATCH) == 1.0


def test_parallel_free_texts_are_paired_by_likeness() -> None:
    a, b = call("send_mail", to="x", body=LONG), call("send_mail", to="x", body=LONG[::-1])
    assert value(scores(reply([a, b]), reply([b, a])), FREE_TEXT) == 0.0


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ([], 1.0),
        ([PARIS], 1.0),
        ([call("send_mail", to="someone else", body=LONG)], 0.0),  # the address is MISMATCH's
        ([call("send_mail", to="x")], 1.0),
        ([call("send_mail", to="x", body="short")], 1.0),
        ([call("send_mail", to="x", body=LONG), call("send_mail", to="y", body=LONG[::-1])], 0.0),
    ],
)
def test_a_free_text_of_the_reference_is_looked_for(left: list[ToolCall], expected: float) -> None:
    assert value(scores(reply(left), reply([call("send_mail", to="x", body=LONG)])), FREE_TEXT) == expected


def test_a_free_text_of_the_left_alone_does_not_apply() -> None:
    for right in ([], [PARIS]):
        item = scores(reply([call("send_mail", to="x", body=LONG)]), reply(right))[FREE_TEXT]
        assert item == Unscored(FREE_TEXT, Reason.NO_FREE_TEXT)


# ---- explanations


def test_the_difference_names_paths_and_no_values() -> None:
    left = reply([call(city="Geheimstadt", days=4, unit="celsius", detail=True)])
    right = reply([call(city="Verborgen", days=3, unit="fahrenheit", tags=["q"])])
    explanation = scores(left, right)[MISMATCH].explanation
    text = json.dumps(explanation)
    assert "Geheimstadt" not in text
    assert "Verborgen" not in text
    entries = {entry["path"]: entry for entry in explanation["choices"][0]["difference"]}
    assert entries["get_weather.city"]["left"] == {"type": "str", "length": 11}
    assert entries["get_weather.unit"]["right"]["value"] == "fahrenheit"  # a closed set of the request's own
    assert entries["get_weather.detail"]["kind"] == "extra"
    assert entries["get_weather.tags"]["kind"] == "missing"


def test_an_explanation_is_bounded() -> None:
    many = [call("x" * 1000, **{f"k{i}" * 50: "v" * 1000 for i in range(50)}) for _ in range(100)]
    explanation = scores(reply(many), reply([PARIS]))[MISMATCH].explanation
    assert len(json.dumps(explanation)) < 8_000


# ---- BFCL


BFCL = Path(__file__).parents[3] / "shared" / "evals" / "bfcl"
CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple")
needs_bfcl = pytest.mark.skipif(not BFCL.is_dir(), reason="../shared/evals/bfcl lies beside a full checkout only")
_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


def as_schema(value: Any) -> Any:
    """BFCL's dialect as JSON Schema."""
    if isinstance(value, list):
        return [as_schema(part) for part in value]
    if not isinstance(value, dict):
        return value
    mapped = {key: as_schema(part) for key, part in value.items() if not (key == "type" and part == "any")}
    if isinstance(mapped.get("type"), str):
        mapped["type"] = _TYPES.get(mapped["type"], mapped["type"])
    return mapped


def bfcl(category: str) -> Iterator[tuple[DecodedRequest, list[dict[str, dict[str, list[Any]]]]]]:
    questions = (BFCL / f"BFCL_v4_{category}.json").read_text().splitlines()
    answers = (BFCL / "possible_answer" / f"BFCL_v4_{category}.json").read_text().splitlines()
    for question, answer in zip(questions, answers, strict=True):
        asked, key = json.loads(question), json.loads(answer)
        assert asked["id"] == key["id"]
        tools = {function["name"]: as_schema(function["parameters"]) for function in asked["function"]}
        yield request(tools=tools), key["ground_truth"]


def first_answer(truth: list[dict[str, dict[str, list[Any]]]]) -> list[ToolCall]:
    """Each argument's first accepted value; "" stands for an argument that may be left out."""
    return [
        ToolCall(name, json.dumps({key: _chosen(values) for key, values in arguments.items() if values[0] != ""}))
        for entry in truth
        for name, arguments in entry.items()
    ]


def _chosen(values: list[Any]) -> Any:
    value = values[0]
    return {key: _chosen(inner) for key, inner in value.items() if inner[0] != ""} if isinstance(value, dict) else value


@needs_bfcl
@pytest.mark.parametrize("category", CATEGORIES)
def test_bfcl_answers_match_themselves_in_any_order(category: str) -> None:
    scorer, shuffle = ToolCallScorer(), random.Random(7)
    n = failures = 0
    for asked, truth in bfcl(category):
        calls = first_answer(truth)
        mixed = [replace(c, arguments=json.dumps(json.loads(c.arguments), indent=1)) for c in calls]
        shuffle.shuffle(mixed)
        scored = {item.name: item for item in scorer(Pair(asked, reply(mixed), reply(calls)))}
        assert value(scored, MISMATCH) == 0.0
        assert value(scored, F1_LOSS) == pytest.approx(0.0)
        failures += int(value(scored, SCHEMA_FAILURE) > 0)
        n += 1
    # A few of BFCL's own keys break BFCL's own schemas (an answer outside its enum, a float for an integer).
    assert n >= 200
    assert failures <= 0.05 * n


@needs_bfcl
@pytest.mark.parametrize("category", CATEGORIES)
def test_bfcl_faults_end_on_their_rung(category: str) -> None:
    scorer = ToolCallScorer()
    for asked, truth in bfcl(category):
        calls = first_answer(truth)
        arguments = json.loads(calls[0].arguments)
        key = next(iter(arguments), None)
        faults = {
            "trigger": [],
            "parse": [ToolCall(calls[0].name, calls[0].arguments[:-1]), *calls[1:]],
            "schema": [ToolCall(calls[0].name + "_", calls[0].arguments), *calls[1:]],
        }
        if key is not None:
            changed = {**arguments, key: _other(arguments[key])}
            faults["args_strict"] = [ToolCall(calls[0].name, json.dumps(changed)), *calls[1:]]
        for expected, left in faults.items():
            scored = {item.name: item for item in scorer(Pair(asked, reply(left), reply(calls)))}
            assert value(scored, MISMATCH) == 1.0
            # An altered value may also leave its enum: then the schema rung comes first.
            assert rung(scored) == expected or (expected == "args_strict" and rung(scored) == "schema")
            assert 0.0 < value(scored, F1_LOSS) <= 1.0


def _other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return value[1:] if value else ["x"]
    return {**value, "another": 1}


# ---- properties


arguments = st.dictionaries(
    st.sampled_from(["city", "days", "wind", "tags", "detail"]),
    st.one_of(
        st.integers(-3, 3), st.booleans(), st.none(), st.sampled_from(["Paris", "paris", "p-a.ris", "1.0", "10", ""]),
        st.lists(st.integers(0, 2), max_size=3), st.floats(-2, 2),
        st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 1)),
    ),
    max_size=3,
)  # fmt: skip
calls = st.builds(
    lambda name, args, junk: ToolCall(name, json.dumps(args) + junk),
    st.sampled_from(["get_weather", "send_mail", "unknown"]),
    arguments,
    st.sampled_from(["", "", "", "}"]),
)
sides = st.lists(st.lists(calls, max_size=4), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None)
@given(sides)
def test_reflexive(side: list[list[ToolCall]]) -> None:
    scored = scores(reply(*side), reply(*side))
    assert [value(scored, name) for name in (MISMATCH, TRIGGER, F1_LOSS, LOOSE)] == [0.0] * 4


@settings(max_examples=200, deadline=None)
@given(sides, sides)
def test_symmetric_and_bounded(left: list[list[ToolCall]], right: list[list[ToolCall]]) -> None:
    one, two = scores(reply(*left), reply(*right)), scores(reply(*right), reply(*left))
    for name in (MISMATCH, TRIGGER, F1_LOSS, LOOSE):
        assert value(one, name) == value(two, name)
        assert 0.0 <= value(one, name) <= 1.0
    assert value(one, LOOSE) <= value(one, MISMATCH)
    assert value(one, TRIGGER) <= value(one, MISMATCH)
    assert value(one, F1_LOSS) <= value(one, MISMATCH) + 1e-12


@settings(max_examples=200, deadline=None)
@given(st.lists(calls, max_size=5), st.lists(calls, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_parallel_calls_means_nothing(
    left: list[ToolCall], right: list[ToolCall], shuffle: random.Random
) -> None:
    mixed = list(left)
    shuffle.shuffle(mixed)
    one, two = scores(reply(left), reply(right)), scores(reply(mixed), reply(right))
    for name in (MISMATCH, TRIGGER, F1_LOSS, LOOSE):
        assert value(one, name) == value(two, name)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_arguments_text_is_survived(left: str, right: str) -> None:
    scored = scores(reply([ToolCall("get_weather", left)]), reply([ToolCall("get_weather", right)]))
    assert value(scored, MISMATCH) in (0.0, 1.0)


def test_arguments_nested_beyond_reason_are_no_json() -> None:
    deep = ToolCall("get_weather", '{"city":' + "[" * 900 + "]" * 900 + "}")
    deeper = ToolCall("get_weather", '{"city":' + "[" * 5000 + "]" * 5000 + "}")
    assert value(scores(reply([deep]), reply([deeper])), MISMATCH) == 1.0
    assert value(scores(reply([deep]), reply([deep])), MISMATCH) == 0.0
