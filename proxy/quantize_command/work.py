"""The work, step by step: samples, the worker's job, what goes beside the weights, the card, and into place.

What is done stays done: each finished step is in the workplace's state, and a resumed run begins after it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.checkpoints import card as cards
from backends.checkpoints.parent import companions, digest_of, weight_files
from backends.checkpoints.samples import read_samples, write_lines
from backends.checkpoints.schemes import kv_arguments
from backends.pinned.cache import DigestCache
from backends.recipes.formats import SIXTEEN_BIT
from backends.recipes.matching import match
from backends.recipes.shapes import ShapeError, shape_of
from backends.recipes.stored import StoredError, stored
from proxy import __version__
from proxy.quantize_command import gguf
from proxy.quantize_command.asked import Asked, Refused, Source
from proxy.quantize_command.process import run
from proxy.quantize_command.traffic import samples_of
from proxy.quantize_command.view import Progress
from proxy.quantize_command.workplace import Workplace

LEFT_OUT = ("recipe.yaml",)  # llm-compressor's: the card says the same, without Python objects in it


def make(asked: Asked, cache: DigestCache | None, progress: Progress, *, resume: bool) -> dict[str, Any]:
    """The card of the checkpoint that now is at OUT.

    Raises:  Refused, WorkplaceError, WorkerError, GgufError, LedgerError, FilesError, SamplesError. Whatever it raises,
             and also when it is interrupted, OUT is not there and OUT.partial holds what was done.
    """
    progress.phase("read the model", sum(one.stat().st_size for one in weight_files(asked.parent.path)))
    parent_digest, _ = digest_of(asked.parent.path, cache, progress.advance)
    place = Workplace(asked.out, asked.made_from(parent_digest), resume=resume)
    try:
        if asked.plan.tool == "llama.cpp":
            _by_llama_cpp(asked, place, progress)
        else:
            _by_worker(asked, place, progress)
        progress.phase("write the card", None)
        told = _finish(asked, place, parent_digest)
        place.place()
    finally:
        place.close()
    return told


def _by_worker(asked: Asked, place: Workplace, progress: Progress) -> None:
    _take_up(place)
    job = _job(asked, place, progress)
    shutil.rmtree(place.path / "checkpoint.writing", ignore_errors=True)
    versions: dict[str, str] = {}

    def hear(told: Mapping[str, Any]) -> None:
        facts = {key: value for key, value in told.items() if key != "event"}
        match told["event"]:
            case "versions":
                versions.update(told["versions"])
            case "phase":
                progress.phase(PHASES[told["phase"]], None)
            case "progress":
                progress.at(told["done"], told["total"])
            case "calibrated" | "checked" as step:
                place.finish(step, facts)
            case "made":
                place.finish("made", {**facts, "versions": versions})

    run(asked.python, job, place.work / "worker.log", hear)


PHASES = {"calibrate": "choose and tokenize prompts", "make": "quantize", "check": "read it back"}


def _take_up(place: Workplace) -> None:
    """Steps whose files are not what they were, or that were finished without being told, are done anew."""
    tokens, chosen = place.work / "tokens.json", place.work / "chosen.jsonl"
    known = place.done.get("calibrated")
    if known is None or not tokens.exists() or not chosen.exists() or _sha256(chosen) != known["sha256"]:
        place.forget("calibrated", tokens, chosen)
    if "made" not in place.done or not place.checkpoint.exists():
        place.forget("made", place.checkpoint)


def _job(asked: Asked, place: Workplace, progress: Progress) -> Path:
    calibration: dict[str, Any] | None = None
    if asked.plan.calibrated and asked.source is not None:
        candidates = place.work / "candidates.jsonl"
        if "calibrated" not in place.done:
            candidates.unlink(missing_ok=True)
            write_lines(candidates, _candidates(asked.source, progress))
        calibration = {
            "tokens_file": str(place.work / "tokens.json"),
            "chosen_file": str(place.work / "chosen.jsonl"),
            "candidates_file": str(candidates),
            "samples": asked.samples,
            "max_tokens": asked.max_tokens,
            "source": f"the {asked.source.kind} {asked.source.path}",
            "fix": asked.source.fix,
        }
    job = {
        "model": str(asked.parent.path),
        "engine": asked.plan.tool,
        "modifiers": [one.as_dict() for one in asked.plan.modifiers],
        "calibration": calibration,
        "seed": asked.seed,
        "out": str(place.checkpoint),
    }
    file = place.work / "job.json"
    file.write_text(json.dumps(job, indent=1), encoding="utf-8")
    return file


def _candidates(source: Source, progress: Progress) -> list[bytes]:
    progress.phase(f"read the {source.kind}", None)
    if source.kind == "file":
        return read_samples(source.path)
    traffic = samples_of(source.path)
    if traffic.left_out:
        progress.note(f"left out of the ledger's kept pairs: {traffic.told()}")
    if not traffic.lines:
        raise Refused(
            f"the ledger {source.path} keeps no request that could be calibrated on"
            f"{f' ({traffic.told()})' if traffic.left_out else ''}. {source.fix.format(count=0).split(', or ', 1)[1]}"
        )
    return traffic.lines


def _by_llama_cpp(asked: Asked, place: Workplace, progress: Progress) -> None:
    if "made" in place.done and place.checkpoint.exists():
        return
    place.forget("made", place.checkpoint)
    found, began = gguf.tools(), time.monotonic()
    kind = asked.plan.modifiers[0].arguments["type"]
    shutil.rmtree(place.path / "checkpoint.writing", ignore_errors=True)
    gguf.make(
        found, asked.parent.path, kind, place.work, place.checkpoint, place.work / "worker.log",
        lambda name: progress.phase(name, None),
    )  # fmt: skip
    place.finish("made", {"seconds": round(time.monotonic() - began, 1), "versions": found.versions()})


def _finish(asked: Asked, place: Workplace, parent_digest: str) -> dict[str, Any]:
    """What goes beside the weights, and the card. Raises: Refused."""
    folder, done = place.checkpoint, place.done
    found = done.get("checked", {})
    if asked.plan.tool != "llama.cpp":
        for file in companions(asked.parent.path):
            shutil.copyfile(file, folder / file.name)
        _expect(asked, folder, found)
    for name in (*LEFT_OUT, cards.CARD, cards.PAGE, cards.CALIBRATION):
        (folder / name).unlink(missing_ok=True)
    calibrated = {key: value for key, value in done.get("calibrated", {}).items() if key != "seconds"}
    own_digest, _ = digest_of(folder)
    made = cards.Made(
        parent_digest=parent_digest,
        weight_bytes=sum(one.stat().st_size for one in weight_files(folder)),
        checkpoint_digest=own_digest,
        versions=done["made"]["versions"],
        seconds=round(done["made"]["seconds"] + done.get("calibrated", {}).get("seconds", 0.0), 1),
        seed=asked.seed,
        source=asked.source.kind if asked.source and asked.plan.calibrated else "",
        calibration=calibrated,
        found=found,
    )
    told = cards.card(asked.recipe, asked.parent, asked.plan, made, __version__)
    if asked.keep_calibration and calibrated:
        shutil.copyfile(place.work / "chosen.jsonl", folder / cards.CALIBRATION)
    (folder / cards.CARD).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    (folder / cards.PAGE).write_text(cards.page(told), encoding="utf-8")
    return told


def _expect(asked: Asked, folder: Path, found: Mapping[str, Any]) -> None:
    """What the recipe asks for is in the checkpoint, by its tensors and by its own config. Raises: Refused."""
    if asked.recipe.weights.format not in SIXTEEN_BIT and not found["scaled_matrices"]:
        raise Refused("nothing was quantized: does weights.ignored_layers leave every layer out?")
    if kv_arguments(asked.recipe.kv_cache) is not None and not found["kv_scales"]:
        raise Refused("the cache got no scales: llm-compressor does not know this model's attention")
    try:
        shape = shape_of(asked.parent.path)
    except ShapeError:  # a mixture of experts, say: its layers are not known by name here
        return
    try:
        told = [one.found for one in match(asked.recipe, stored(folder), shape) if one.level == "error"]
    except StoredError as error:
        told = [str(error)]
    if told:
        raise Refused(f"what was made is not what the recipe says: {'; '.join(told)}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
