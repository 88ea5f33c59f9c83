"""The digest cache: what it believes, what it does not, and that a broken one costs time alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import orjson
import pytest

from backends.pinned.cache import SETTLED_NS, DigestCache, default_place
from backends.pinned.files import FileDigest, digests


def test_its_place() -> None:
    assert default_place({"XDG_CACHE_HOME": "/c"}) == Path("/c/parity/digests.json")
    assert default_place({}) == default_place({"XDG_CACHE_HOME": "relative"})
    assert default_place({}) == Path.home() / ".cache" / "parity" / "digests.json"


def one_digest(file: Path, cache: DigestCache | None) -> str:
    found = digests([file], cache)[file]
    assert isinstance(found, FileDigest)
    return found.sha256


def test_the_same_size_and_mtime_with_other_bytes_is_seen_and_an_edited_cache_is_not(tmp_path: Path) -> None:
    shard, place = tmp_path / "m.safetensors", tmp_path / "digests.json"
    shard.write_bytes(b"one")
    before = shard.stat()

    def cache() -> DigestCache:
        return DigestCache(place, now_ns=lambda: shard.stat().st_ctime_ns + SETTLED_NS)

    assert one_digest(shard, cache()) == hashlib.sha256(b"one").hexdigest()
    shard.write_bytes(b"two")
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (shard.stat().st_size, shard.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert one_digest(shard, cache()) == hashlib.sha256(b"two").hexdigest()  # its ctime gave it away
    poisoned = orjson.loads(place.read_bytes())
    poisoned["files"][str(shard)]["sha256"] = "0" * 64
    place.write_bytes(orjson.dumps(poisoned))
    assert one_digest(shard, cache()) == "0" * 64  # it is believed: this is what --no-cache is for
    assert one_digest(shard, None) == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path) -> None:
    shard, place = tmp_path / "m.safetensors", tmp_path / "digests.json"
    shard.write_bytes(b"one")
    young = DigestCache(place, now_ns=lambda: shard.stat().st_ctime_ns + SETTLED_NS - 1)
    young.put(shard, shard.stat(), "0" * 64)
    assert young.get(shard, shard.stat()) is None
    young.save()
    assert orjson.loads(place.read_bytes()) == {"version": 1, "files": {}}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": 2, "files": {}}', b'{"version": 1, "files": 3}'])
def test_a_broken_cache_is_empty_and_says_so(tmp_path: Path, content: bytes) -> None:
    place, shard = tmp_path / "digests.json", tmp_path / "m.safetensors"
    place.write_bytes(content)
    shard.write_bytes(b"one")
    cache = DigestCache(place, now_ns=lambda: shard.stat().st_ctime_ns + SETTLED_NS)
    assert "written anew" in cache.problem
    assert one_digest(shard, cache) == hashlib.sha256(b"one").hexdigest()
    assert DigestCache(place).problem == ""


def test_entries_that_are_no_digests_are_not_believed_and_an_unwritable_place_is_told(
    tmp_path: Path,
) -> None:
    shard, place = tmp_path / "m.safetensors", tmp_path / "digests.json"
    shard.write_bytes(b"one")
    found = shard.stat()
    stamp = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    place.write_bytes(orjson.dumps({"version": 1, "files": {str(shard): {"stamp": stamp, "sha256": 7}}}))
    assert DigestCache(place).get(shard, found) is None
    (tmp_path / "file").write_bytes(b"")
    blocked = DigestCache(tmp_path / "file" / "digests.json")
    blocked.save()
    assert "cannot be written" in blocked.problem or "cannot be read" in blocked.problem
