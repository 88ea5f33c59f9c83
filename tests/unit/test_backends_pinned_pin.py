"""The pin file: read back as it was written, and refused with the reason when it is not what was pinned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.pinned.pin import Pin, PinError, PinnedArm, PinnedBeat, PinnedFile, read_pin, write_pin

SHA = "0123456789abcdef" * 4


def pin(**more: object) -> Pin:
    arm = PinnedArm(
        url="http://127.0.0.1:1",
        weights="/models/m",
        flags='--served-model-name "a\\b"\n\t\x7fü',
        chat_template=SHA,
        engine={"model": "m", "max_model_len": 2048},
        settings={"cache_dtype": "auto"},
        files={"model.safetensors": PinnedFile(bytes=7, sha256=SHA), "a b": PinnedFile(bytes=0, sha256=SHA)},
        probes={"text": (1, 2, 3)},
        heartbeat=PinnedBeat(
            prompt=(48,), tolerance_nats=1e-3, spread_nats=0.0, beats=32, logprobs={'token_id:1 "x".': -1.25e-17}
        ),
    )
    evaluation = {"evals/gsm8k.jsonl": PinnedFile(bytes=3, sha256=SHA)}
    known = {"reference": arm, "candidate": arm, "evaluation": evaluation, "seeds": (1, 2), **more}
    return Pin(format=1, seal="", pinned_at="2026-11-24T00:00:00+00:00", parity="0.1.0", **known).sealed()  # type: ignore[arg-type]


def test_it_is_read_back_as_it_was_written_one_line_per_file(tmp_path: Path) -> None:
    path = tmp_path / "contract.toml"
    write_pin(path, pin())
    assert read_pin(path) == pin()
    assert f'"model.safetensors" = {{ bytes = 7, sha256 = "{SHA}" }}\n' in path.read_text()
    assert os.listdir(tmp_path) == ["contract.toml"]
    alone = pin(candidate=None, evaluation={}, seeds=())
    write_pin(path, alone, over=True)
    assert read_pin(path) == alone


def test_the_seal_covers_what_is_compared_and_not_where_it_was(tmp_path: Path) -> None:
    first = pin()
    moved = first.reference.model_copy(update={"url": "http://other:1", "weights": "/elsewhere"})
    other = first.reference.model_copy(update={"flags": "--dtype float16"})
    assert first.model_copy(update={"reference": moved, "pinned_at": "later"}).sealed().seal == first.seal
    assert first.model_copy(update={"reference": other}).sealed().seal != first.seal


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 2", "its format is 2, this version reads 1"),
        ("format = 1", "", "its format is not said"),
        ("max_model_len = 2048", "max_model_len = 4096", "not what was pinned (its seal says"),
        ("0123456789abcdef0", "0123456789abcdef1", "not what was pinned (its seal says"),
        ("cache_dtype", "cache_dtyp", "not what was pinned (its seal says"),
        ("chat_template = ", "chat_templat = ", "reference.chat_templat: unknown key (did you mean chat_template?)"),
        ("[reference.heartbeat]", "[reference.heartbeats]", "(did you mean heartbeat?)"),
        (SHA, SHA[:-1], "reference.chat_template: string should match"),
        ("bytes = 7", 'bytes = "7"', "reference.files.model.safetensors.bytes: input should be a valid integer"),
        ("seal = ", "# seal = ", "seal: field required"),
        ("[reference]", "[reference", "not TOML"),
        ("tolerance_nats = 0.001", "tolerance_nats = nan", "tolerance_nats"),
    ],
)
def test_an_edited_pin_is_refused_with_the_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "contract.toml"
    write_pin(path, pin())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(PinError) as caught:
        read_pin(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_pin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PinError, match="no such file; `parity contract pin` writes one"):
        read_pin(tmp_path / "none")
    with pytest.raises(PinError, match="cannot be read"):
        read_pin(tmp_path)
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(PinError, match="not TOML"):
        read_pin(tmp_path / "x")


def test_an_existing_pin_is_left_alone_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "contract.toml"
    path.write_text("mine")
    with pytest.raises(PinError, match="exists; a pin is not overwritten"):
        write_pin(path, pin())
    assert path.read_text() == "mine"
    with pytest.raises(PinError, match="cannot be written"):
        write_pin(tmp_path / "away" / "contract.toml", pin())
    assert os.listdir(tmp_path) == ["contract.toml"]
