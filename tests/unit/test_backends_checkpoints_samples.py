"""Calibration files: read whole or refused with the lines that are wrong; equal samples have equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.checkpoints.samples import SamplesError, canonical, read_samples, write_lines


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def test_both_forms_and_nothing_else_of_a_line(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Grüße"}
    file = written(
        tmp_path / "s.jsonl", {"messages": [user], "tools": [{"type": "function"}], "model": "m"}, "",
        {"text": "plain"}, {"tools": [], "messages": [user]},
    )  # fmt: skip
    assert [json.loads(line) for line in read_samples(file)] == [
        {"messages": [user], "tools": [{"type": "function"}]}, {"text": "plain"}, {"messages": [user]},
    ]  # fmt: skip


def test_equal_samples_have_equal_bytes_and_the_order_of_keys_is_part_of_a_sample() -> None:
    """Templates write a tool's schema in the order in which it was sent."""
    assert canonical({"a": "é\ud800", "b": 1}) == b'{"a":"\\u00e9\\ud800","b":1}'
    assert canonical(json.loads('{"b": 1, "a": 2}')) != canonical(json.loads('{"a": 2, "b": 1}'))


def test_every_wrong_line_is_told_up_to_a_bound_and_none_of_its_words(tmp_path: Path) -> None:
    bad = [
        "{",
        {"prompt": "secret"},
        {"messages": []},
        {"messages": [{"content": "secret"}]},
        [1],
        {"text": ""},
        "[" * 9,
    ]
    with pytest.raises(SamplesError) as raised:
        read_samples(written(tmp_path / "s.jsonl", {"text": "fine"}, *bad))
    told = str(raised.value)
    assert "line 2: not JSON; line 3: neither messages nor text; line 4: messages is no list" in told
    assert "line 5: a message has no role; line 6: no object; and 2 more" in told
    assert "secret" not in told


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="no sample"):
        read_samples(written(tmp_path / "s.jsonl", "", ""))
    with pytest.raises(SamplesError, match="cannot be read"):
        read_samples(tmp_path / "none")


def test_candidates_are_their_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    write_lines(file, [b"{}"])
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_lines(file, [])
