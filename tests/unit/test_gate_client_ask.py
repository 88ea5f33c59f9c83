"""What `parity gate` takes for an address, and for an answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gate_client.ask import Answer, Gate, NoAnswer, gate_url, read
from tests.unit.monitor_samples import verdict

GATE = Gate("http://127.0.0.1:9090/gate")
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("given_url", "asked"),
    [
        ("http://127.0.0.1:9090", "http://127.0.0.1:9090/gate"),
        ("http://127.0.0.1:9090/", "http://127.0.0.1:9090/gate"),
        ("http://h:9090/gate", "http://h:9090/gate"),
        ("http://h/gate/", "http://h/gate"),
        ("https://h/parity", "https://h/parity/gate"),
        ("http://[::1]:9090", "http://[::1]:9090/gate"),
    ],
)
def test_an_address_with_or_without_the_path(given_url: str, asked: str) -> None:
    assert gate_url(given_url) == asked


@pytest.mark.parametrize(
    ("given_url", "word"),
    [
        ("", "http://"),
        ("127.0.0.1:9090", "http://"),
        ("ftp://h", "http://"),
        ("http://", "http://"),
        ("http://h:port", "http://"),
        ("http://[::1", "http://"),
        ("http://gate:s3cret@h:9090", "--token-env"),
        ("http://s3cret@h:9090", "--token-env"),
        ("gate:s3cret@h:9090", "http://"),
        ("http://h/gate?recipe=x", "--recipe"),
        ("http://h/#x", "--recipe"),
    ],
)
def test_another_address_is_refused_with_the_fix(given_url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as refused:
        gate_url(given_url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("state", ["pass", "fail", "inconclusive"])
@pytest.mark.parametrize("recipe", [None, "awq-int4-g128"])
def test_a_verdict_is_read_as_it_is(state: Any, recipe: str | None) -> None:
    whole = verdict(state).as_dict()
    found = read(orjson.dumps(whole), Gate(GATE.url, recipe))
    assert found == Answer(state, whole["reason"], whole)


@pytest.mark.parametrize("state", ["pass", "fail"])
def test_another_recipe_is_inconclusive_even_if_the_monitor_did_not_say_so(state: Any) -> None:
    found = read(orjson.dumps(verdict(state).as_dict()), Gate(GATE.url, "fp8"))
    assert isinstance(found, Answer)
    assert (found.verdict, found.whole["verdict"], found.whole["reasons"]) == ("inconclusive",) * 2 + ([found.reason],)
    assert "awq-int4-g128" in found.reason
    assert "fp8" in found.reason


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"[]", b"{}", b'{"verdict":"PASS","reason":""}', b'{"verdict":"pass"}', b"\xff"]
)
def test_what_holds_no_verdict_is_no_gate(body: bytes) -> None:
    found = read(body, GATE)
    assert isinstance(found, NoAnswer)
    assert (found.passing, "not a parity gate" in found.why) == (False, True)


@given(st.dictionaries(st.sampled_from(["verdict", "reason", "recipe", "budgets"]), values) | values)
def test_no_json_is_too_odd_to_read(told: Any) -> None:
    found = read(orjson.dumps(told), Gate(GATE.url, "r"))
    assert isinstance(found, NoAnswer) or told["verdict"] == "inconclusive" or told["recipe"] == "r"
