"""Redaction: what a path reaches is gone from bodies and explanations, and nothing unreadable is kept."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as unhurried
from hypothesis import strategies as st

from proxy.errors import SettingsError
from proxy.monitor.redact import REDACTED, redactor

BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "my card is 4111"}, {"role": "user", "content": [{"text": "deep 4111"}]}],
    "meta": {"user": {"id": 12345, "name": "Ann"}},
}


def redacted(*paths: str) -> dict[str, object]:
    body, _ = redactor(paths).body(orjson.dumps(BODY))
    parsed: dict[str, object] = orjson.loads(body)
    return parsed


def test_without_paths_bodies_are_untouched() -> None:
    raw = b'{"a" : 1}'
    assert redactor(()).body(raw) == (raw, ())


def test_keys_wildcards_indices_and_depth() -> None:
    assert redacted("$.messages[*].content")["messages"] == [{"role": "user", "content": REDACTED}] * 2
    first = redacted("$.messages[0].content")["messages"]
    assert first == [{"role": "user", "content": REDACTED}, BODY["messages"][1]]  # type: ignore[index]
    assert redacted("..text")["messages"][1]["content"] == [{"text": REDACTED}]  # type: ignore[index]
    assert redacted("$.messages..text")["messages"][1]["content"] == [{"text": REDACTED}]  # type: ignore[index]
    assert redacted("$.meta.user")["meta"] == {"user": REDACTED}
    assert redacted("$.nothing.there[3]") == BODY


def test_event_streams_are_redacted_line_by_line() -> None:
    stream = b'data: {"choices":[{"delta":{"content":"secret"}}]}\r\n\r\n: ping\n\ndata: [DONE]\n\n'
    body, removed = redactor(("..content",)).body(stream)
    assert b"secret" not in body
    assert b"[DONE]" in body
    assert removed == ("secret",)


@pytest.mark.parametrize("body", [b"{broken", b"plain secret text", b"data: {broken\n", b"\xff\xfe", b"<html>secret"])
def test_what_cannot_be_read_is_not_kept(body: bytes) -> None:
    kept, _ = redactor(("..content",)).body(body)
    assert b"secret" not in kept
    assert b"broken" not in kept


def test_a_body_nested_beyond_reason_is_not_kept() -> None:
    assert redactor(("..x",)).body(b"[" * 5000 + b"]" * 5000)[0] == b""
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    assert redactor(("..x",)).body(deep)[0] in (b"", deep)


def test_explanations_lose_what_the_bodies_lost() -> None:
    of = redactor(("..content", "$.meta"))
    _, removed = of.body(orjson.dumps(BODY))
    told = of.explanation(
        {"rung": "names", "said": "4111", "deep": [{"Ann": "x"}], "number": 12345, "count": 2, "ok": True}, removed
    )
    assert told == {
        "rung": "names",
        "said": REDACTED,
        "deep": [{REDACTED: "x"}],
        "number": REDACTED,
        "count": 2,
        "ok": True,
    }


@pytest.mark.parametrize(
    "path", ["", "$", "messages", "$.a[?(@.b)]", "$.a[-1]", "$['a']", "$.a[1:2]", "$.a.", "..", "$.*", "$" + ".a" * 33]
)
def test_other_paths_are_refused_by_name(path: str) -> None:
    with pytest.raises(SettingsError, match=r"ledger\.redact"):
        redactor((path,))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=20,
)


@unhurried(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3))
def test_a_redacted_key_is_gone_at_every_depth(body: dict[str, object]) -> None:
    kept, _ = redactor(("..a",)).body(orjson.dumps(body))

    def check(value: object) -> None:
        if isinstance(value, dict):
            assert value.get("a", REDACTED) == REDACTED
            for below in value.values():
                check(below)
        elif isinstance(value, list):
            for below in value:
                check(below)

    check(orjson.loads(kept))
