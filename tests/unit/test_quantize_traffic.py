"""Calibration samples from a ledger: requests with the replies that were served, and what is left out, counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.errors import LedgerError
from proxy.monitor.ledger import SqliteLedger
from proxy.monitor.redact import redactor
from proxy.monitor.rows import LedgerRow, PairBodies
from proxy.quantize_command.traffic import samples_of
from proxy.settings import LedgerSettings
from tests.unit.monitor_samples import bodies, is_mismatch, reply, row


def kept(tmp_path: Path, *rows: LedgerRow) -> Path:
    path = tmp_path / "ledger.sqlite"
    ledger = SqliteLedger(LedgerSettings(path=path), is_mismatch=is_mismatch)
    ledger.open_epoch({}, "first", 1.0)
    ledger.append(rows)
    ledger.close()
    return path


def asked(text: str, **more: Any) -> bytes:
    return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more})


def pair(request: bytes, candidate: bytes) -> PairBodies:
    return PairBodies(request=request, candidate=candidate, reference=reply("r"))


def test_a_request_with_its_tools_and_the_reply_that_was_served(tmp_path: Path) -> None:
    (line,) = samples_of(kept(tmp_path, row(0, bodies=bodies("Let me see")))).lines
    sample = json.loads(line)
    assert sample["tools"][0]["function"]["name"] == "get_weather"
    question, answer = sample["messages"]
    assert question == {"role": "user", "content": "Weather in <b>Turin</b>?"}
    assert answer["content"] == "Let me see"
    assert answer["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Turin"}'}


def test_a_stream_is_a_reply_too_and_a_broken_one_leaves_the_prompt(tmp_path: Path) -> None:
    parts = [({"content": "Hel"}, None), ({"content": "lo"}, None), ({}, "stop")]
    chunks = [{"choices": [{"index": 0, "delta": one, "finish_reason": end}], "model": "m"} for one, end in parts]
    stream = b"".join(b"data: " + orjson.dumps(one) + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"
    ledger = kept(
        tmp_path, row(0, bodies=pair(asked("one"), stream)), row(1, bodies=pair(asked("two"), b'{"choices": [')),
        row(2, bodies=pair(asked("three"), b"")),
    )  # fmt: skip
    told = [json.loads(line)["messages"] for line in samples_of(ledger).lines]
    assert [[one["content"] for one in messages] for messages in told] == [["three"], ["two"], ["one", "Hello"]]


def test_completions_are_text_with_the_reply_after_it(tmp_path: Path) -> None:
    answer = orjson.dumps({"model": "m", "choices": [{"index": 0, "text": " a time"}]})
    request = orjson.dumps({"model": "m", "prompt": "Once upon"})
    tokens = orjson.dumps({"model": "m", "prompt": [1, 2, 3]})
    found = samples_of(
        kept(
            tmp_path,
            row(0, path="/v1/completions", bodies=pair(request, answer)),
            row(1, path="/v1/completions", bodies=pair(tokens, answer)),
        )
    )
    assert [json.loads(line) for line in found.lines] == [{"text": "Once upon a time"}]
    assert found.left_out == {"prompts as token ids or lists": 1}


def test_redacted_and_cut_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    body, _ = redactor(["$.messages[*].content"]).body(asked("my secret"))
    assert b"redacted" in body
    reply_alone, _ = redactor(["..content"]).body(reply("my secret"))
    found = samples_of(
        kept(
            tmp_path,
            row(0, bodies=pair(body, reply("x"))),
            row(1, bodies=pair(asked("cut")[:20], reply("x"))),
            row(2, bodies=pair(b"", reply("x"))),
            row(3, bodies=pair(asked("fine"), reply_alone)),
            row(4),  # its bodies are not kept
            row(5, kind="probe", bodies=pair(asked("planted"), reply("x"))),
        )
    )
    assert [json.loads(line)["messages"] for line in found.lines] == [[{"role": "user", "content": "fine"}]]
    assert found.left_out == {"not kept whole": 2, "redacted": 1}
    assert found.told() in ("2 not kept whole, 1 redacted", "1 redacted, 2 not kept whole")


def test_the_ledger_is_only_read(tmp_path: Path) -> None:
    path = kept(tmp_path, row(0, bodies=bodies()))
    before = path.read_bytes()
    path.chmod(0o400)
    assert len(samples_of(path).lines) == 1
    assert path.read_bytes() == before
    with pytest.raises(LedgerError, match="no such ledger"):
        samples_of(tmp_path / "none.sqlite")
