"""Weight files as a digest: what is seen, what is not, and what is no answer at all."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backends import weights
from backends.weights import BLOCK_BYTES, EDGE_BYTES, WHOLE_BYTES, WeightFiles, read

LARGE_BYTES = WHOLE_BYTES + 4_096


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "model-00001.safetensors").write_bytes(b"small shard")
    with (folder / "model-00002.safetensors").open("wb") as large:
        large.truncate(LARGE_BYTES)  # sparse: no disk is filled
    (folder / "README.md").write_text("read me")
    return folder


def digest(of: Path) -> str:
    seen = read(of)
    assert seen is not None
    return seen.digest


def poke(file: Path, at: int, value: bytes = b"x") -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(value)


def test_the_same_files_elsewhere_have_the_same_digest(model: Path, tmp_path: Path) -> None:
    before = digest(model)
    assert digest(model) == before
    moved = model.rename(tmp_path / "other")
    assert digest(moved) == before
    os.utime(moved / "config.json", (1, 1))
    assert digest(moved) == before


CHANGES: dict[str, Callable[[Path], None]] = {
    "one byte of the configuration": lambda of: poke(of / "config.json", 3),
    "one byte of the template": lambda of: poke(of / "chat_template.jinja", 3),
    "one byte of a small shard": lambda of: poke(of / "model-00001.safetensors", 10),
    "the header of a large shard": lambda of: poke(of / "model-00002.safetensors", EDGE_BYTES - 1),
    "the end of a large shard": lambda of: poke(of / "model-00002.safetensors", LARGE_BYTES - EDGE_BYTES),
    "a block in the middle": lambda of: poke(
        of / "model-00002.safetensors", 31 * (LARGE_BYTES - BLOCK_BYTES) // 63 + BLOCK_BYTES - 1
    ),
    "a shard's length": lambda of: os.truncate(of / "model-00002.safetensors", LARGE_BYTES + 1),
    "a shard's name": lambda of: (of / "model-00001.safetensors").rename(of / "model-00001b.safetensors") and None,
    "a shard gone": lambda of: (of / "model-00001.safetensors").unlink(),
    "a tokenizer more": lambda of: (of / "tokenizer.json").write_text("{}") and None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_seen(model: Path, change: str) -> None:
    before = digest(model)
    CHANGES[change](model)
    assert digest(model) != before


def test_what_is_between_the_blocks_of_a_large_file_and_no_part_of_the_model_is_not_seen(model: Path) -> None:
    before = digest(model)
    poke(model / "model-00002.safetensors", EDGE_BYTES + 1)  # the docstring says so: no full pin
    (model / "README.md").write_text("another text")
    assert digest(model) == before


def test_files_that_were_not_touched_are_not_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(model)
    monkeypatch.setattr(weights, "_content", lambda file, size: pytest.fail("it was read again"))
    assert read(model, first) is first
    os.utime(model / "config.json", (1, 1))
    with pytest.raises(pytest.fail.Exception):
        read(model, first)


def test_files_that_change_while_they_are_read_are_no_answer(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = weights._content

    def slowly(file: Path, size: int) -> bytes:
        poke(model / "config.json", 1)
        os.utime(model / "config.json", (2, 2))
        return real(file, size)

    monkeypatch.setattr(weights, "_content", slowly)
    with pytest.raises(OSError, match="changed while"):
        read(model)


def test_a_single_file_and_a_folder_without_weights(model: Path, tmp_path: Path) -> None:
    assert digest(model / "model-00001.safetensors") != digest(model)
    assert read(model / "config.json") is None
    assert read(tmp_path) is None
    assert read(tmp_path / "nowhere") is None


def test_a_folder_of_too_many_files_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_FILES", 3)
    with pytest.raises(OSError, match="more than 3"):
        read(model)


@pytest.mark.asyncio
async def test_the_root_is_taken_where_it_is_a_place_here(model: Path, tmp_path: Path) -> None:
    arm = WeightFiles("candidate")
    for elsewhere in (None, 5, "meta-llama/Llama-3.1-8B", "/no/such/place", "/bad\0path", str(tmp_path)):
        assert await arm.look(elsewhere) is None
        assert not arm.unsure
    assert await arm.look(str(model)) == digest(model)
    assert not arm.unsure
    declared = WeightFiles("candidate", model)
    assert await declared.look("meta-llama/Llama-3.1-8B") == digest(model)


@pytest.mark.asyncio
@pytest.mark.parametrize("declared", [True, False])
async def test_files_that_go_away_say_nothing_and_are_told_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, declared: bool
) -> None:
    arm = WeightFiles("candidate", model if declared else None)
    before = await arm.look(str(model))
    away = tmp_path / "away"
    os.rename(model, away)
    with caplog.at_level(logging.WARNING, logger="backends.weights"):
        for _ in range(3):
            assert await arm.look(str(model)) is None
            assert arm.unsure
    assert len(caplog.records) == 1
    os.rename(away, model)
    assert await arm.look(str(model)) == before
    assert not arm.unsure


@pytest.mark.asyncio
async def test_a_mount_that_hangs_is_waited_for_once_and_not_doubled(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, begun = threading.Event(), []
    real = weights.read

    def hanging(path: Path, last: weights.Seen | None = None) -> weights.Seen | None:
        begun.append(path)
        answer.wait(30.0)
        return real(path, last)

    monkeypatch.setattr(weights, "read", hanging)
    arm = WeightFiles("candidate", model, timeout_s=0.01)
    for _ in range(3):
        assert await arm.look(None) is None
        assert arm.unsure
    assert len(begun) == 1
    assert arm._reading is not None
    answer.set()
    arm._reading[1].result(30.0)
    assert await arm.look(None) == real(model).digest  # type: ignore[union-attr]
    assert not arm.unsure


@pytest.mark.asyncio
async def test_whatever_the_file_system_raises_the_look_does_not(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = WeightFiles("candidate")

    def broken(path: Path, last: object) -> None:
        raise MemoryError

    monkeypatch.setattr(weights, "read", broken)
    assert await arm.look(str(model)) is None
    assert arm.unsure
