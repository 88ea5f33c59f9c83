"""What the relay answers in its own name."""

from __future__ import annotations

import json

import pytest

from proxy.relay.refusal import Refusal


@pytest.mark.parametrize("refusal", Refusal)
@pytest.mark.parametrize("close", [False, True])
def test_reply_is_http_and_openai_json(refusal: Refusal, close: bool) -> None:
    raw = refusal.reply(retry_after_s=7, close=close, head_only=False)
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 %d " % refusal.status)
    assert b"Content-Length: %d" % len(body) in lines
    assert b"Content-Type: application/json" in lines
    assert (b"Connection: close" in lines) is close
    assert (b"Retry-After: 7" in lines) is (refusal.status == 503)
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] is None
    assert error["type"] == ("invalid_request_error" if refusal.status < 500 else "server_error")
    assert refusal.reply(retry_after_s=7, close=close, head_only=True) == head + b"\r\n\r\n"


def test_codes_name_one_refusal_each() -> None:
    replies = [refusal.reply(retry_after_s=1, close=True, head_only=False) for refusal in Refusal]
    codes = {json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["code"] for reply in replies}
    assert len(codes) == len(list(Refusal))
