"""OUT.partial: one at a time, resumed only with the same inputs, and OUT whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from proxy.quantize_command.workplace import Workplace, WorkplaceError, refuse_existing

FROM = {"recipe": "a", "model": "b", "calibration source": "c"}


def test_a_fresh_one_becomes_out_and_nothing_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = Workplace(out, FROM, resume=False)
    assert place.path.stat().st_mode & 0o777 == 0o700
    place.checkpoint.mkdir()
    (place.checkpoint / "model.safetensors").write_bytes(b"x")
    (place.checkpoint / "model.safetensors").chmod(0o600)
    (place.work / "candidates.jsonl").write_text("people's words")
    assert not out.exists()
    place.place()
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert [one.name for one in out.iterdir()] == ["model.safetensors"]
    mask = os.umask(0o022)
    os.umask(mask)
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_is_done_stays_done(tmp_path: Path) -> None:
    first = Workplace(tmp_path / "out", FROM, resume=False)
    first.finish("calibrated", {"sha256": "x"})
    (first.work / "tokens.json").write_text("[]")
    first.close()
    second = Workplace(tmp_path / "out", FROM, resume=True)
    assert second.resumed
    assert second.done == {"calibrated": {"sha256": "x"}}
    second.forget("calibrated", second.work / "tokens.json", second.work / "never there")
    assert not (second.work / "tokens.json").exists()
    second.close()
    third = Workplace(tmp_path / "out", FROM, resume=True)
    assert third.done == {}
    third.close()


def test_an_interrupted_one_is_not_begun_anew_nor_a_missing_one_resumed(tmp_path: Path) -> None:
    with pytest.raises(WorkplaceError, match="nothing to resume"):
        Workplace(tmp_path / "out", FROM, resume=True)
    Workplace(tmp_path / "out", FROM, resume=False).close()
    with pytest.raises(WorkplaceError, match=r"Give --resume .* rm -r"):
        Workplace(tmp_path / "out", FROM, resume=False)


def test_other_inputs_are_named_and_refused(tmp_path: Path) -> None:
    Workplace(tmp_path / "out", FROM, resume=False).close()
    with pytest.raises(WorkplaceError, match="begun with another model and another calibration source: nothing"):
        Workplace(tmp_path / "out", {**FROM, "model": "x", "calibration source": "y"}, resume=True)


def test_two_cannot_work_in_one(tmp_path: Path) -> None:
    first = Workplace(tmp_path / "out", FROM, resume=False)
    with pytest.raises(WorkplaceError, match="another `parity quantize` works"):
        Workplace(tmp_path / "out", FROM, resume=True)
    first.close()


@pytest.mark.parametrize("state", ["", "{", "[]", json.dumps({"format": 99, "made_from": {}, "done": {}})])
def test_a_state_that_cannot_be_read_says_what_to_remove(tmp_path: Path, state: str) -> None:
    place = Workplace(tmp_path / "out", FROM, resume=False)
    place.close()
    (place.path / "state.json").write_text(state)
    with pytest.raises(WorkplaceError, match="remove the folder: rm -r"):
        Workplace(tmp_path / "out", FROM, resume=True)
    with pytest.raises(WorkplaceError):  # and the lock is free again: it is the same refusal
        Workplace(tmp_path / "out", FROM, resume=True)


def test_out_is_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = Workplace(out, FROM, resume=False)
    place.checkpoint.mkdir()
    out.mkdir()  # it appeared meanwhile
    with pytest.raises(WorkplaceError, match="not overwritten"):
        place.place()
    assert place.checkpoint.exists()
    place.close()
    with pytest.raises(WorkplaceError, match="not overwritten"):
        refuse_existing(out)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(WorkplaceError, match="not overwritten"):
        refuse_existing(tmp_path / "link")
    with pytest.raises(WorkplaceError, match="mkdir -p"):
        refuse_existing(tmp_path / "no" / "such")
