"""Every byte of a checkpoint's files: named, digested, and what changed while it was read is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from backends.pinned.cache import DigestCache
from backends.pinned.files import FileDigest, FilesError, checkpoint_files, digests, kind_of, template_of


def test_each_file_is_named_for_what_it_is() -> None:
    kinds = {
        "weights": ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "m.gguf"],
        "tokenizer": ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model"],
        "chat template": ["chat_template.jinja", "chat_template.json"],
        "generation config": ["generation_config.json"],
        "config": ["config.json", "hf_quant_config.json"],
        "code": ["modeling_new.py"],
        "other file": ["recipe.json"],
    }
    for kind, names in kinds.items():
        assert {kind_of(name) for name in names} == {kind}


def test_digests_are_those_of_every_byte_and_documents_are_left_out(tmp_path: Path) -> None:
    content = {"model.safetensors": os.urandom(9_000_001), "config.json": b"{}", "README.md": b"text", ".x.json": b""}
    for name, body in content.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / "folder.json").mkdir()
    files = checkpoint_files(tmp_path)
    assert [file.name for file in files] == ["config.json", "model.safetensors"]
    told: list[int] = []
    read = digests(files, None, told.append)
    assert {path.name: one for path, one in read.items()} == {
        name: FileDigest(len(content[name]), hashlib.sha256(content[name]).hexdigest())
        for name in ("config.json", "model.safetensors")
    }
    assert sum(told) == 9_000_003
    assert checkpoint_files(tmp_path / "model.safetensors") == [tmp_path / "model.safetensors"]


def test_what_is_not_there_or_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(FilesError, match="No such file"):
        checkpoint_files(tmp_path / "away")
    with pytest.raises(FilesError, match="holds no file of a checkpoint"):
        checkpoint_files(tmp_path)  # as a mount that is away looks
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    (found,) = digests(checkpoint_files(tmp_path)).values()
    assert isinstance(found, FilesError)
    assert "No such file" in str(found)


def test_a_file_that_changes_while_it_is_read_has_no_digest(tmp_path: Path) -> None:
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(bytes(9_000_000))

    def meddle(count: int) -> None:
        with shard.open("ab") as file:
            file.write(b"!")

    (found,) = digests([shard], None, meddle).values()
    assert isinstance(found, FilesError)
    assert "changed while it was read" in str(found)


def test_the_template_is_known_wherever_the_checkpoint_keeps_it(tmp_path: Path) -> None:
    assert template_of(tmp_path) is None
    inside = tmp_path / "tokenizer_config.json"
    inside.write_text(json.dumps({"chat_template": "one", "eos": 1}))
    first = template_of(tmp_path)
    inside.write_text(json.dumps({"chat_template": "one", "eos": 2}))
    assert template_of(tmp_path) == first
    inside.write_text(json.dumps({"chat_template": "two", "eos": 2}))
    assert template_of(tmp_path) not in (first, None)
    (tmp_path / "chat_template.jinja").write_text("one")
    assert template_of(tmp_path) == hashlib.sha256(b"one").hexdigest()
    (tmp_path / "chat_template.jinja").unlink()
    inside.write_text("{")
    assert template_of(tmp_path) is None


def test_the_second_look_reads_nothing_and_an_interrupted_one_keeps_what_it_read(tmp_path: Path) -> None:
    small, large = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    small.write_bytes(b"a" * 1_000)
    large.write_bytes(b"b" * 9_000_000)
    place = tmp_path / "cache" / "digests.json"

    def cache() -> DigestCache:
        return DigestCache(place, now_ns=lambda: large.stat().st_ctime_ns + 10**10)

    def interrupt(count: int) -> None:
        if count > 1_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digests([small], cache(), lambda count: None), digests([large], cache(), interrupt)
    assert cache().get(small, small.stat()) == hashlib.sha256(b"a" * 1_000).hexdigest()
    assert cache().get(large, large.stat()) is None
    first = digests([small, large], cache())
    os.chmod(large, 0o600)  # moves the ctime: read again
    told: list[int] = []
    assert digests([small, large], cache(), told.append) == first
    assert sorted(told)[:1] == [1_000]
    assert len(told) > 2
    told.clear()
    digests([small, large], cache(), told.append)
    assert sorted(told) == [1_000, 9_000_000]  # each in one piece: nothing was read
