"""Measures every recipe and writes the damage table.

    python -m tests.bench.damage [--recipes NAME ...] [--again] [--model DIR]
    python -m tests.bench.damage --through-proxy

What is measured is kept under .cache/damage by model, recipe, requests and the emulator's own code, so a run that was
ended goes on where it was, and one after a change measures anew. Exit code 1 when an asserted claim does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.emulator.recipes import RECIPES
from backends.emulator.server import MODEL
from backends.emulator.vocabulary import Vocabulary
from tests.bench.damage import page, proxied
from tests.bench.damage.claims import NEEDED, claims
from tests.bench.damage.items import FEW, MANY, Item, all_items, chosen
from tests.bench.damage.measure import Bench
from tests.bench.damage.spread import spread
from tests.bench.damage.tally import row

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".cache" / "damage"
REREAD = "reread"  # BF16 in other chunks: the floor


def measure(directory: Path, names: Sequence[str], *, again: bool) -> dict[str, dict[str, Any]]:
    """By recipe the `outcomes`, measured or kept from before, and what they were measured `on`; tells its progress."""
    vocabulary = Vocabulary.of(directory)
    items = all_items(vocabulary)
    bench = Bench(items, vocabulary, directory)
    base = _fingerprint(directory, items)
    CACHE.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(names, 1):
        kept = CACHE / f"{base}-{name}.json"
        if again or not kept.is_file():
            began = time.perf_counter()
            places = chosen(items, MANY if name in NEEDED or name == REREAD else FEW)
            outcomes = bench.floor(places) if name == REREAD else bench.run(name, places)
            rows = []
            for done, one in enumerate(outcomes, 1):
                rows.append(one.as_dict())
                if done % 10 == 0 or done == len(places):
                    print(f"\r{number}/{len(names)} {name}: {done} of {len(places)}", end="", file=sys.stderr)
            kept.write_text(json.dumps({"on": _here(), "outcomes": rows}), encoding="utf-8")
            print(f", {time.perf_counter() - began:.0f} s", file=sys.stderr)
        found[name] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _here() -> str:
    """What arithmetic depends on beside the code: INT4 turns a difference in the last bit into another value."""
    return f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, {_processor()}"


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    flags = told.read_text(encoding="utf-8").split() if told.is_file() else []
    return "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"


def _fingerprint(directory: Path, items: Sequence[Item]) -> str:
    """Names what outcomes depend on beside the recipe."""
    hasher = hashlib.sha256()
    code = Path(__file__).parent
    for path in sorted([*(ROOT / "backends" / "emulator").glob("*.py"), code / "measure.py", *directory.glob("*.*")]):
        hasher.update(path.read_bytes())
    hasher.update(repr([(item.column, item.ids) for item in items]).encode())
    return hasher.hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every asserted claim held, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.damage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipes", nargs="+", choices=tuple(RECIPES), metavar="NAME", help="only these, printed and not written"
    )
    parser.add_argument("--again", action="store_true", help="measure anew what was measured before")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of damage.md and bench/damage.json")
    parser.add_argument("--through-proxy", action="store_true", help="measure some rows through the whole proxy too")
    given = parser.parse_args(arguments)
    names = given.recipes or ["bf16", REREAD, *NEEDED[1:], *(name for name in RECIPES if name not in NEEDED)]
    measured = measure(given.model, names, again=given.again)
    found = {name: one["outcomes"] for name, one in measured.items()}
    rows = {name: {**row(found[name]), "measured_on": one["on"]} for name, one in measured.items()}
    if given.recipes:
        print(page.table(rows))
        return 0
    checked = claims(found)
    kept = page.read(given.out)
    agreement = asyncio.run(proxied.compare(given.model)) if given.through_proxy else kept.get("through_proxy")
    items = all_items(Vocabulary.of(given.model))
    page.write(given.out, rows, checked, spread(given.model, items), agreement)
    for claim in checked:
        print(f"{'holds' if claim.holds else 'DOES NOT HOLD' if claim.asserted else 'not shown'}: {claim.text}")
    broken = [claim for claim in checked if claim.asserted and not claim.holds]
    if agreement is not None and not agreement["agree"]:
        print("the rows through the proxy DO NOT AGREE with the direct ones")
        return 1
    print(f"written to {given.out}/damage.md and {given.out}/bench/damage.json")
    return int(bool(broken))
