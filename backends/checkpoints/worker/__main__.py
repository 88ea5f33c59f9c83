"""One job: `python -c BOOT JOB.json`. Does what is left of it and tells each step as a line of JSON on stdout.

    {"event": "versions", ...}                            first of all, once what is needed could be imported
    {"event": "phase", "phase": "calibrate"}              one of calibrate, make, check begins
    {"event": "progress", "done": 3, "total": 256}        within it
    {"event": "calibrated" | "made" | "checked", ...}     it is done, and its files are whole
    {"event": "refused", "why": ...}                      the job cannot be done as asked

Exit code 0 when all is done, 3 when refused; a defect ends with its traceback on stderr. Libraries write to stdout as
they please, so what they write there goes to stderr. stdin is held open by who started this: when it closes, nobody
waits for the result any more, and the process ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, TextIO

from backends.checkpoints.worker import autoawq, making
from backends.checkpoints.worker.checking import Unsound, check
from backends.checkpoints.worker.choosing import Rendered, choose, distinct, strata_of
from backends.checkpoints.worker.rendering import Unrenderable, rendered

REFUSED = 3
TELL_EVERY_S = 0.2  # *choice*: a bar needs no more


class Refused(Exception):
    """The job cannot be done as asked; str() says why and what to do."""


class Teller:
    """The lines for who started this."""

    def __init__(self, sink: TextIO) -> None:
        self._sink = sink
        self._last_s = 0.0

    def event(self, event: str, **details: Any) -> None:
        """One line."""
        self._sink.write(json.dumps({"event": event, **details}) + "\n")
        self._sink.flush()

    def progress(self, done: int, total: int) -> None:
        """The same for a bar, not too often."""
        now = time.monotonic()
        if now - self._last_s >= TELL_EVERY_S or done == total:
            self._last_s = now
            self.event("progress", done=done, total=total)


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_when_alone, daemon=True).start()
    teller = Teller(sink)
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    engine = autoawq if job["engine"] == "autoawq" else making
    try:
        teller.event("versions", versions=_versions(engine))
        samples = _samples(engine, job, teller) if job["calibration"] else None
        out = Path(job["out"])
        if not out.exists():
            _make(engine, job, samples, out, teller)
        teller.event("phase", phase="check")
        teller.event("checked", **check(out))
    except Refused as error:
        teller.event("refused", why=str(error))
        return REFUSED
    except Unsound as error:
        teller.event("refused", why=f"what was made is not sound: {error}; nothing was put in place")
        return REFUSED
    return 0


def _versions(engine: Any) -> dict[str, str]:
    try:
        found: dict[str, str] = engine.versions()
    except PackageNotFoundError as error:
        raise Refused(f"{sys.executable} has no {error.name}: it is no environment that could do this job") from None
    return found


def _make(engine: Any, job: dict[str, Any], samples: list[list[int]] | None, out: Path, teller: Teller) -> None:
    teller.event("phase", phase="make")
    began = time.monotonic()
    aside = out.with_name(out.name + ".writing")
    engine.make(job, samples, aside, teller.progress)
    os.replace(aside, out)
    teller.event("made", seconds=_since(began))


def _samples(engine: Any, job: dict[str, Any], teller: Teller) -> list[list[int]]:
    """The token ids to calibrate on: those chosen before, or chosen now. Raises: Refused."""
    asked = job["calibration"]
    tokens = Path(asked["tokens_file"])
    if tokens.exists():
        return _ids(tokens)
    teller.event("phase", phase="calibrate")
    began = time.monotonic()
    found = _chosen(engine, job, teller)
    aside = tokens.with_suffix(".writing")
    aside.write_text(json.dumps(found.pop("ids")), encoding="utf-8")
    lines = found.pop("lines")
    Path(asked["chosen_file"]).write_bytes(lines)
    os.replace(aside, tokens)
    teller.event("calibrated", sha256=hashlib.sha256(lines).hexdigest(), **found, seconds=_since(began))
    return _ids(tokens)


def _ids(file: Path) -> list[list[int]]:
    found: list[list[int]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _chosen(engine: Any, job: dict[str, Any], teller: Teller) -> dict[str, Any]:
    asked = job["calibration"]
    tokenizer = engine.tokenizer(Path(job["model"]))
    lines = Path(asked["candidates_file"]).read_bytes().splitlines()
    prompts: list[Rendered] = []
    ids: list[list[int]] = []
    sources: list[bytes] = []
    skipped: dict[str, int] = {}
    for number, line in enumerate(lines):
        teller.progress(number + 1, len(lines))
        sample = json.loads(line)
        try:
            text, opening = rendered(tokenizer, sample)
        except Unrenderable as error:
            skipped[str(error)] = skipped.get(str(error), 0) + 1
            continue
        one: list[int] = tokenizer(text, add_special_tokens="text" in sample)["input_ids"]
        prompts.append(Rendered(text, len(one), bool(sample.get("tools")), opening))
        ids.append(one[: asked["max_tokens"]])
        sources.append(line)
    places = choose(prompts, asked["samples"], job["seed"])
    if len(places) < asked["samples"]:
        reasons = "".join(f"; {count} left out: {why}" for why, count in skipped.items())
        raise Refused(
            f"{asked['samples']} calibration prompts are asked for, and {asked['source']} has {len(places)} that "
            f"differ ({len(lines)} in all{reasons}). {asked['fix'].format(count=len(places))}"
        )
    return {
        "ids": [ids[place] for place in places],
        "lines": b"".join(sources[place] + b"\n" for place in places),
        "samples": len(places),
        "tokens": sum(len(ids[place]) for place in places),
        "cut_short": sum(prompts[place].tokens > asked["max_tokens"] for place in places),
        "strata": strata_of(prompts, places),
        "candidates": len(lines),
        "distinct": len(distinct(prompts)),
        "left_out": skipped,
    }


def _since(began_s: float) -> float:
    return round(time.monotonic() - began_s, 1)


def _end_when_alone() -> None:
    while os.read(0, 4096):
        pass
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
