"""`parity contract` as a person runs it: a copy of the shipped model, the emulator that serves it, planted changes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from backends.emulator.recipes import parsed
from backends.emulator.server import MODEL, EmulatorServer

pytestmark = [pytest.mark.asyncio, pytest.mark.together]


@dataclass(frozen=True, slots=True)
class Done:
    code: int | None
    out: str
    err: str

    @property
    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.out)
        return found

    @property
    def named(self) -> list[str]:
        """What `--json` says differs, without the values."""
        return [" ".join(one[key] for key in ("side", "part", "name")).strip() for one in self.answer["differences"]]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a copy of the model, and an engine that serves it."""

    folder: Path
    url: str

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "parity" / "digests.json"

    def start(self, *words: str) -> Any:
        more = {"NO_COLOR": "1", "COLUMNS": "200", "XDG_CACHE_HOME": str(self.folder / "cache")}
        env = {**os.environ, **more, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipe = asyncio.subprocess.PIPE
        program = (sys.executable, "-m", "proxy.cli", "contract", *words)
        return asyncio.create_subprocess_exec(*program, stdout=pipe, stderr=pipe, env=env, cwd=self.folder)

    async def run(self, *words: str) -> Done:
        process = await self.start(*words)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Done(process.returncode, out.decode(), err.decode())

    async def pin(self, *words: str) -> Done:
        return await self.run("pin", "contract.toml", "--reference", self.url, "--weights", str(self.model), *words)

    async def verify(self, *words: str) -> Done:
        return await self.run("verify", "contract.toml", "--json", *words)


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    if not (folder / "model").exists():
        shutil.copytree(MODEL, folder / "model")
    async with EmulatorServer(parsed("bf16"), folder / "model") as server:
        yield Place(folder, server.url)


@asynccontextmanager
async def served_again(at: Place) -> AsyncIterator[str]:
    """Another engine on the same files as they are now; its address."""
    async with EmulatorServer(parsed("bf16"), at.model) as server:
        yield server.url


def flip(file: Path, at: int) -> None:
    """Changes the lowest bit of one byte."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


async def test_what_was_pinned_is_the_same_and_one_changed_byte_is_named(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        pinned = await at.pin("--eval", "model/README.md", "--seed", "7", "--flags", "--dtype bfloat16")
        assert pinned.code == 0, pinned.err
        assert "6 files" not in pinned.out
        assert "7 files" in pinned.out
        same = await at.verify()
        assert (same.code, same.answer["contract"], same.answer["differences"]) == (0, "same", [])
        assert len(same.answer["not_observable"]) == 2  # flags and seeds, as nobody gave them again
        assert (await at.verify("--flags", "--dtype bfloat16", "--seed", "7")).answer["not_observable"] == []
        other = await at.verify("--flags", "--dtype float16", "--seed", "8")
        assert (other.code, other.named) == (1, ["reference engine flags", "seeds"])
        flip(at.model / "model.safetensors", 4_000_000)
        changed = await at.verify()
        assert (changed.code, changed.named) == (1, ["reference weights model.safetensors"])
        (one,) = changed.answer["differences"]
        assert one["old"] != one["new"]
        assert one["old"].startswith("sha256 ")
        told = await at.run("verify", "contract.toml")
        assert told.code == 1
        assert "differs  reference weights model.safetensors: sha256 " in told.out
        flip(at.model / "model.safetensors", 4_000_000)
        assert (await at.verify()).code == 0
        (at.model / "README.md").write_text("another eval set")
        assert (await at.verify()).named == ["eval set model/README.md"]


async def test_a_changed_chat_template_is_named_by_its_file_and_by_the_tokens_that_it_makes(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        assert (await at.pin()).code == 0
        template = at.model / "chat_template.jinja"
        text = template.read_text()
        template.write_text(text.replace("user", "User", 1) if "user" in text else text + " ")
        on_disk = await at.verify()
        assert (on_disk.code, on_disk.named) == (1, ["reference chat template chat_template.jinja"])
        template.write_text(text + "!")
        async with served_again(at) as url:
            served = await at.verify("--reference", url)
        assert served.code == 1
        assert served.named[0] == "reference chat template chat_template.jinja"
        assert "reference prompt tokens of probe conversation" in served.named
        assert "reference prompt tokens of probe text" not in served.named  # no template in it


async def test_another_engine_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place(tmp_path) as at:
        assert (await at.pin()).code == 0
        monkeypatch.setattr("backends.emulator.server.ENGINE", "parity-emulator-2")
        async with served_again(at) as url:
            done = await at.verify("--reference", url)
        assert (done.code, done.named) == (1, ["reference engine engine_version"])
        assert done.answer["differences"][0] == {
            "side": "reference",
            "part": "engine",
            "name": "engine_version",
            "old": "parity-emulator-1",
            "new": "parity-emulator-2",
        }


async def test_an_engine_that_serves_other_weights_than_its_files_is_heard(tmp_path: Path) -> None:
    """The files were put back under an engine that had loaded others."""
    async with place(tmp_path) as at:
        assert (await at.pin()).code == 0
        whole = (at.model / "model.safetensors").read_bytes()
        damaged = bytearray(whole)
        damaged[4_000_001:4_200_001:2] = b"\x3f" * 100_000
        (at.model / "model.safetensors").write_bytes(damaged)
        async with served_again(at) as url:
            (at.model / "model.safetensors").write_bytes(whole)
            done = await at.verify("--reference", url)
        assert done.code == 1
        assert "reference heartbeat" in done.named
        assert not any("weights" in name for name in done.named)


async def test_a_truncated_a_missing_and_an_extra_file_are_named(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        assert (await at.pin()).code == 0
        shard = at.model / "model.safetensors"
        os.truncate(shard, shard.stat().st_size - 1)
        (at.model / "generation_config.json").unlink()
        (at.model / "model-00002.safetensors").write_bytes(b"x")
        done = await at.verify()
        assert done.code == 1
        assert {one["name"]: (one["part"], one["old"] == "absent", one["new"] == "absent") for one in
                done.answer["differences"]} == {
            "model.safetensors": ("weights", False, False),
            "generation_config.json": ("generation config", False, True),
            "model-00002.safetensors": ("weights", True, False),
        }  # fmt: skip
        sizes = [one for one in done.answer["differences"] if one["name"] == "model.safetensors"]
        assert " of 7617640 bytes" in sizes[0]["old"]
        assert sizes[0]["new"].endswith(" of 7617639")
        shard.unlink()
        assert "reference weights model.safetensors" in (await at.verify()).named


async def test_a_poisoned_cache_is_believed_unless_no_cache_says_otherwise(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        assert (await at.pin()).code == 0
        shard = at.model / "model.safetensors"
        pinned = next(line for line in (at.folder / "contract.toml").read_text().splitlines() if "model.safe" in line)
        flip(shard, 4_000_000)
        found = shard.stat()
        entry = {
            "stamp": [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino],
            "sha256": pinned.split('"')[-2],
        }
        at.cache.write_bytes(orjson.dumps({"version": 1, "files": {str(shard.resolve()): entry}}))
        assert (await at.verify()).code == 0
        assert (await at.verify("--no-cache")).named == ["reference weights model.safetensors"]
        os.utime(shard, ns=(found.st_atime_ns, found.st_mtime_ns))  # the same size and mtime; its ctime moved
        assert (await at.verify()).named == ["reference weights model.safetensors"]


async def test_what_cannot_be_checked_is_said_and_is_no_difference(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        assert (await at.pin()).code == 0
        assert (await at.verify()).code == 0
    down = await at.verify()
    assert (down.code, down.answer["contract"], down.answer["differences"]) == (2, "unchecked", [])
    assert "cannot connect" in down.answer["unchecked"][0]["why"]
    told = await at.run("verify", "contract.toml")
    assert (told.code, "cannot check  reference engine: " in told.out) == (2, True)
    at.model.rename(tmp_path / "away")
    both = await at.verify()
    assert (both.code, [one["part"] for one in both.answer["unchecked"]]) == (2, ["files", "engine"])
    at.model.mkdir()  # the mount point of a mount that is away
    assert (await at.verify()).code == 2
    (tmp_path / "away" / "config.json").write_text("{}")
    mixed = await at.verify("--weights", str(tmp_path / "away"))
    assert (mixed.code, mixed.named) == (1, ["reference config config.json"])  # one difference decides


async def test_a_pin_that_cannot_be_trusted_checks_nothing(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        assert (await at.pin()).code == 0
        text = (tmp_path / "contract.toml").read_text()
        for old, new, said in (
            ("format = 1", "format = 2", "its format is 2, this version reads 1"),
            ("[reference.files]", "[reference.file]", "did you mean files?"),
            ("parity-emulator-1", "parity-emulator-9", "it is not what was pinned"),
        ):
            (tmp_path / "contract.toml").write_text(text.replace(old, new))
            done = await at.verify()
            assert (done.code, done.answer["contract"]) == (2, None)
            assert said in done.answer["error"]
        (tmp_path / "contract.toml").unlink()
        assert (await at.verify()).code == 2


async def test_a_pin_is_not_overwritten_and_a_pin_of_nothing_is_refused(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        (tmp_path / "contract.toml").write_text("mine")
        refused = await at.pin()
        assert (refused.code, (tmp_path / "contract.toml").read_text()) == (1, "mine")
        assert "--force" in refused.err
        assert (await at.pin("--force")).code == 0
        assert (await at.verify()).code == 0
        without = await at.run("pin", "other.toml", "--reference", at.url)
        assert without.code == 1
        assert "--weights DIR, or --without-weights" in without.err
        thin = await at.run("pin", "other.toml", "--reference", at.url, "--without-weights")
        assert thin.code == 0
        assert "are not pinned" in thin.err
        assert (await at.run("pin", "x.toml")).code == 2
        assert (await at.run("pin", "x.toml", "--reference", at.url, "--model", "none", "--without-weights")).code == 1
        config = tmp_path / "parity.toml"
        config.write_text(
            f'[candidate]\nurl = "{at.url.replace("127.0.0.1", "localhost")}"\n'
            f'[reference]\nurl = "{at.url}"\nweights = "model"\n'
            "[budgets.tool_call_mismatch]\nlimit = 0.03\ncritical = true\n"
        )
        words = ("pin", "both.toml", "--config", "parity.toml", "--with-candidate", "--candidate-weights", "model")
        both = await at.run(*words)
        assert both.code == 0, both.err
        assert "the reference and the candidate: 12 files" in both.out
        assert (await at.run("verify", "both.toml", "--config", "parity.toml")).code == 0
    assert (await at.run("pin", "down.toml", "--reference", at.url, "--without-weights")).code == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


async def test_an_interrupted_pin_leaves_nothing_and_what_it_read_is_kept(tmp_path: Path) -> None:
    async with place(tmp_path) as at:
        large = at.folder / "large"
        shutil.copytree(at.model, large)
        with (large / "model-00002.safetensors").open("wb") as file:
            file.truncate(400 << 30)  # sparse: minutes to read, no room
        process = await at.start("pin", "contract.toml", "--reference", at.url, "--weights", str(large))
        try:
            deadline = time.monotonic() + 30
            while not _reads(process.pid, "model-00002.safetensors"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, told = await asyncio.wait_for(process.communicate(), 20)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 130
        assert b"interrupted: nothing was written" in told
        assert not [name for name in os.listdir(tmp_path) if "contract" in name]
        assert orjson.loads(at.cache.read_bytes())["version"] == 1


def _reads(pid: int, name: str) -> bool:
    """Whether a process has a file of this name open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(link).endswith(name):
                return True
        except OSError:
            pass
    return False
