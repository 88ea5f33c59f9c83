"""A pin against what is there: each difference by its name, and silence when there is none."""

from __future__ import annotations

from dataclasses import replace

from backends.pinned.compare import Difference, Unchecked, compare_files, compare_probed, compare_template
from backends.pinned.files import FileDigest, FilesError
from backends.pinned.pin import PinnedArm, PinnedBeat, PinnedFile
from backends.pinned.probes import Beat, Probed

ONE, TWO = "1" * 64, "2" * 64
LOGPROBS = {"token_id:1": -0.1, "token_id:2": -2.5}
ARM = PinnedArm(
    url="http://127.0.0.1:1",
    engine={"engine_version": "0.32.0", "model": "m"},
    settings={"cache_dtype": "auto"},
    probes={"text": (1, 2, 3)},
    heartbeat=PinnedBeat(prompt=(4,), tolerance_nats=0.01, spread_nats=0.0, beats=1, logprobs=LOGPROBS),
)
NOW = Probed(ARM.engine, ARM.settings, ARM.probes, Beat((4,), LOGPROBS), None)


def lines(now: Probed) -> list[str]:
    return [one.line() for one in compare_probed("reference", ARM, now)]


def test_the_same_is_silent() -> None:
    assert lines(NOW) == []
    assert lines(replace(NOW, beat=Beat((4,), {**LOGPROBS, "token_id:2": -2.509}))) == []
    assert list(compare_template("reference", ONE, ONE)) == []


def test_each_thing_that_http_shows_is_named_with_old_and_new() -> None:
    assert lines(replace(NOW, engine={"engine_version": "0.33.0", "model": "m"})) == [
        "reference engine engine_version: 0.32.0 became 0.33.0"
    ]
    assert lines(replace(NOW, settings={})) == ["reference engine setting cache_dtype: auto became absent"]
    assert lines(replace(NOW, probes={"text": (1, 9, 3, 4)})) == [
        "reference prompt tokens of probe text: 3 tokens, 2 at position 1 became 4 tokens, 9 at position 1"
    ]
    assert lines(replace(NOW, probes={"text": (1, 2)})) == [
        "reference prompt tokens of probe text: 3 tokens, 3 at position 2 became 2 tokens, the end at position 2"
    ]
    assert lines(replace(NOW, probes={})) == ["reference prompt tokens of probe text: 3 tokens became absent"]
    assert lines(replace(NOW, beat=Beat((4,), {**LOGPROBS, "token_id:2": -2.6}))) == [
        "reference heartbeat: within 0.01 nats became 0.1 nats from what was pinned"
    ]
    assert lines(replace(NOW, beat=None)) == ["reference heartbeat: logprobs became absent"]


def test_files_are_named_by_what_they_are_for() -> None:
    pinned = {name: PinnedFile(bytes=5, sha256=ONE) for name in ("a.safetensors", "b.safetensors", "config.json")}
    found = {
        "a.safetensors": FileDigest(5, TWO),
        "b.safetensors": FileDigest(4, TWO),
        "c.safetensors": FileDigest(5, ONE),
    }
    assert [one.line() for one in compare_files("reference", pinned, found)] == [
        "reference weights a.safetensors: sha256 111111111111… became sha256 222222222222…",
        "reference weights b.safetensors: sha256 111111111111… of 5 bytes became sha256 222222222222… of 4",
        "reference weights c.safetensors: absent became sha256 111111111111…",
        "reference config config.json: sha256 111111111111… became absent",
    ]
    unread = list(
        compare_files("reference", {"config.json": pinned["config.json"]}, {"config.json": FilesError("why")})
    )
    assert unread == [Unchecked("reference", "config config.json", "why")]
    assert list(compare_template("reference", ONE, None)) == [
        Difference("reference", "chat template", "of the checkpoint", f"sha256 {ONE}", "absent")
    ]
    assert unread[0].as_dict() == {"side": "reference", "part": "config config.json", "why": "why"}
