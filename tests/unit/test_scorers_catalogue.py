"""The list of scorers, and what happens when one of them fails."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scorers as package
from scorers.catalogue import SPECS, score_missing, score_pair, scorers
from scorers.decode import DecodeError, decode_reply, decode_request
from scorers.records import (
    Choice,
    DecodedReply,
    DecodedRequest,
    Pair,
    Probe,
    Reason,
    Score,
    Scored,
    Scorer,
    ScoreSpec,
    TokenLogprobs,
    Unscored,
)

DATA = Path(__file__).parent / "data"
TOOL = {"name": "switch", "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}}}
BODY = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "Turn it on"}],
        "tools": [{"type": "function", "function": TOOL}]}  # fmt: skip
NO_TOKENS = TokenLogprobs((), (), ())
PROBE = Probe("The code is 4711.", "4711", 0.5, 600)


def pair() -> Pair:
    real = decode_reply("chat", "application/json", (DATA / "vllm_chat_tool.json").read_bytes())
    return Pair(decode_request("/v1/chat/completions", orjson.dumps(BODY)), real, real, left_served=False)


class Broken:
    """A scorer that does what it is told."""

    family = "broken"
    specs: tuple[ScoreSpec, ...] = (ScoreSpec("one", "ratio", True, "first"), ScoreSpec("two", "nats", False, "second"))

    def __init__(self, answer: tuple[Scored, ...] | Exception) -> None:
        self._answer = answer

    def __call__(self, pair: Pair) -> tuple[Scored, ...]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return tuple(Unscored(spec.name, why) for spec in self.specs)


def with_broken(answer: tuple[Scored, ...] | Exception) -> dict[str, Scorer]:
    return {"broken": Broken(answer), **scorers()}


def test_every_score_has_one_spec_and_one_family() -> None:
    names = [spec.name for scorer in scorers().values() for spec in scorer.specs]
    assert names == list(SPECS)
    assert len(set(names)) == len(names) == 20
    for spec in SPECS.values():
        assert spec.unit in ("ratio", "nats")
        assert spec.meaning


def test_a_real_reply_against_itself_scores_zero_everywhere() -> None:
    scored = {item.name: item for item in score_pair(scorers(), pair())}
    assert list(scored) == list(SPECS)
    numbers = {name: item.value for name, item in scored.items() if isinstance(item, Score)}
    assert numbers.pop("length_ratio") == 1.0
    assert 0.0 < numbers.pop("tail_mass") < 1.0
    assert 0.0 < numbers.pop("reference_doubt") < 1.0  # the reference's alone, whatever the other side says
    assert set(numbers.values()) == {0.0}
    assert {"tool_call_mismatch", "tool_schema_failure", "logprob_kl", "early_divergence"} <= set(numbers)
    assert scored["text_mismatch"] == Unscored("text_mismatch", Reason.CALLED_TOOLS)


def test_a_subset_scores_a_subset() -> None:
    one = {"text": scorers()["text"]}
    assert [item.name for item in score_pair(one, pair())] == [spec.name for spec in one["text"].specs]


def test_explanations_are_json() -> None:
    for item in score_pair(scorers(), pair()):
        orjson.dumps(item.explanation)


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("bang"),
        RecursionError(),
        (Score("one", 0.0),),
        (Score("two", 0.0), Score("one", 0.0)),
        (Score("one", math.nan), Score("two", math.inf)),
        (Score("one", 1.5), Score("two", -0.1)),
    ],
)
def test_a_failing_scorer_is_lost_and_visible_and_harms_no_other(answer: Any) -> None:
    scored = score_pair(with_broken(answer), pair())
    assert [(item.name, item.reason) for item in scored[:2] if isinstance(item, Unscored)] == [
        ("one", Reason.SCORER_ERROR),
        ("two", Reason.SCORER_ERROR),
    ]
    assert scored[2:] == score_pair(scorers(), pair())
    assert "bang" not in str(scored[0].explanation)


def test_bounds_are_the_specs() -> None:
    fine = (Score("one", 1.0), Score("two", 7.5))
    assert score_pair(with_broken(fine), pair())[:2] == fine


def test_a_probe_is_scored_by_the_needle_alone() -> None:
    scored = score_pair(scorers(), replace(pair(), probe=PROBE))
    assert [item.name for item in scored] == ["needle_recall_loss"]
    missing = score_missing(scorers(), pair().request, Reason.REFERENCE_TIMEOUT, PROBE)
    assert missing == (Unscored("needle_recall_loss", Reason.REFERENCE_TIMEOUT),)


def test_missing_covers_every_score_and_applies_what_the_request_shows() -> None:
    missing = {item.name: item.reason for item in score_missing(scorers(), pair().request, Reason.BREAKER_OPEN)}
    assert list(missing) == list(SPECS)
    assert missing["tool_call_mismatch"] is Reason.BREAKER_OPEN
    assert missing["json_invalid"] is Reason.NO_JSON_FORMAT
    assert missing["copy_recall_loss"] is Reason.NO_SPANS
    assert missing["needle_recall_loss"] is Reason.NOT_A_PROBE


def test_the_same_pair_scores_the_same_whatever_came_before() -> None:
    fresh, used = scorers(), scorers()
    other = replace(pair(), request=replace(pair().request, tools={"switch": {"$ref": "#/nowhere"}}))
    for _ in range(3):
        score_pair(used, other)
    assert score_pair(used, pair()) == score_pair(fresh, pair())


@pytest.mark.parametrize("error", [RuntimeError("bang"), RecursionError()])
def test_a_scorer_that_cannot_even_say_what_is_missing_is_lost_and_harms_no_other(error: Exception) -> None:
    missing = score_missing(with_broken(error), pair().request, Reason.LATE)
    assert [(item.name, item.reason) for item in missing[:2]] == [
        ("one", Reason.SCORER_ERROR),
        ("two", Reason.SCORER_ERROR),
    ]
    assert missing[2:] == score_missing(scorers(), pair().request, Reason.LATE)


# ---- any body that a client may send


SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["user", "auto", "none", "object", "$ref"])
KEYS = st.sampled_from(
    ["role", "content", "type", "text", "function", "name", "parameters", "json_schema", "schema", "json", "pattern",
     "properties", "items", "allOf", "$ref", "required", "enum", "additionalProperties", "patternProperties"]
)  # fmt: skip
SHAPES = st.recursive(
    SCALARS | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
FIELDS = (
    "messages", "prompt", "tools", "functions", "tool_choice", "response_format", "structured_outputs", "guided_json",
    "logprobs", "top_logprobs", "return_token_ids", "return_tokens_as_token_ids", "stream_options", "suffix",
)  # fmt: skip
BODIES = st.dictionaries(st.sampled_from(FIELDS), SHAPES, max_size=5)
REPLIES = (
    *(
        decode_reply("chat", "application/json", (DATA / f"vllm_chat_{name}.json").read_bytes())
        for name in ("tool", "plain", "two")
    ),
    DecodedReply((Choice(0, ""),)),
    DecodedReply((Choice(0, '{"a": [1]}'), Choice(1, "", logprobs=NO_TOKENS))),
)


def survives(request: DecodedRequest, left: DecodedReply, right: DecodedReply, served: bool) -> None:
    """Every score has a number or an honest reason, with the two replies and without them."""
    everything = scorers()
    missing = score_missing(everything, request, Reason.LATE)
    scored = score_pair(everything, Pair(request, left, right, left_served=served))
    assert [item.name for item in missing] == [item.name for item in scored] == list(SPECS)
    reasons = [(item.name, item.reason) for item in (*missing, *scored) if isinstance(item, Unscored)]
    assert Reason.SCORER_ERROR not in dict(reasons).values(), reasons


@settings(max_examples=300, deadline=None)
@given(BODIES, st.sampled_from(["chat/completions", "completions"]), st.data(), st.booleans())
def test_any_request_that_decodes_is_scored(body: dict[str, Any], path: str, data: st.DataObject, served: bool) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 700}], "prompt": "y" * 700, **body, "model": "m"}
    try:
        request = decode_request(f"/v1/{path}", orjson.dumps(body))
    except DecodeError:
        return
    survives(request, data.draw(st.sampled_from(REPLIES)), data.draw(st.sampled_from(REPLIES)), served)


@settings(max_examples=300, deadline=None)
@given(BODIES, st.sampled_from(["chat", "completion"]), st.data(), st.booleans())
def test_any_body_beside_any_request_is_scored(
    body: dict[str, Any], kind: Literal["chat", "completion"], data: st.DataObject, served: bool
) -> None:
    request = DecodedRequest(
        kind, "m", False, 1, True, 0.0, prompt_text="z" * 700, body=body,
        tools=data.draw(st.dictionaries(st.just("switch"), SHAPES, max_size=1)),
        tool_choice=body.get("tool_choice"), response_format=body.get("response_format"),
    )  # fmt: skip
    survives(request, data.draw(st.sampled_from(REPLIES)), data.draw(st.sampled_from(REPLIES)), served)


def test_a_completion_that_brings_messages_too_is_scored() -> None:
    body = b'{"model": "m", "prompt": "What is 2+2?", "temperature": 0, "messages": ["x"]}'
    survives(decode_request("/v1/completions", body), REPLIES[1], REPLIES[1], True)


FORBIDDEN = {"httpx", "aiohttp", "fastapi", "asyncio", "socket", "logging", "time", "random", "prometheus_client", "os"}


def test_nothing_here_reaches_for_the_world() -> None:
    (folder,) = package.__path__
    for path in Path(folder).glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & FORBIDDEN, path.name
