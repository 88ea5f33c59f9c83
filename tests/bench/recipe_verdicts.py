"""What the whole product says of the emulator's recipes: `parity demo --once --json --recipe NAME`, in turn.

    python -m tests.bench.recipe_verdicts [--recipes NAME ...]

Writes docs/bench/recipe_verdicts.json and docs/recipe-verdicts.md. Exit code 1 when a recipe that costs next to nothing
fails, one that ruins the model passes, or a cause is named that the recipe does not touch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backends.emulator.recipes import RECIPES, Recipe

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m tests.bench.recipe_verdicts"
TIMEOUT_S = 900
NEVER_FAIL = ("fp8-weights", "int8-weights", "int4-weights", "fp8-kv", "int8-kv-per-head", "w8a8-fp8", "nvfp4")
NEVER_PASS = ("int4-kv-per-tensor", "int4-weights-per-tensor", "fp4-activations-per-tensor", "int4-everything")
BETWEEN = ("int4-kv-per-head", "int4-kv-per-token-head")
"""Their loss is near the demo's limit: any verdict may come, and docs/damage.md has their figures."""
_AXES = {"kv_cache": "kv_cache", "weights": "weights", "activations": "activations"}


def touched(recipe: Recipe) -> set[str]:
    """The axes that a recipe changes, in the diagnosis' words."""
    axes = {"weights": recipe.weights, "activations": recipe.activations, "kv_cache": recipe.kv_cache}
    return {name for name, one in axes.items() if one.format != "bf16"}


def judged(name: str) -> dict[str, Any]:
    """One run of the demo. Units: seconds."""
    command = (sys.executable, "-m", "proxy.cli", "demo", "--once", "--json", "--recipe", name)
    began = time.monotonic()
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    told = json.loads(run.stdout)
    axis = told["diagnosis"]["axis"]
    wrong = [
        *(["a recipe that costs next to nothing failed"] if name in NEVER_FAIL and told["verdict"] == "fail" else []),
        *(["a recipe that ruins the model passed"] if name in NEVER_PASS and told["verdict"] == "pass" else []),
        *(["the cause is not in the recipe"] if axis in _AXES and axis not in touched(RECIPES[name]) else []),
    ]
    return {
        "verdict": told["verdict"],
        "seconds": round(time.monotonic() - began, 1),
        "requests": told["requests"],
        "client_errors": told["client_errors"],
        "budgets": {one: budget["value"] for one, budget in told["budgets"].items()},
        "suspect": axis,
        "touches": sorted(touched(RECIPES[name])),
        "wrong": wrong,
    }


def _page(rows: dict[str, dict[str, Any]]) -> str:
    names = list(next(iter(rows.values()))["budgets"])
    lines = [
        "# What the product says of the emulator's recipes",
        "",
        f"Made by `{COMMAND}`: the demo unattended, `parity demo --once --json --recipe NAME`, with its own budgets",
        "(`proxy/demo/stage.py`), until the verdict or 900 requests; after a fail 80 to 240 more for the suspect.",
        "What the recipes cost by themselves is in `docs/damage.md`.",
        "",
        "| recipe | verdict | requests | s | " + " | ".join(names) + " | suspect | touches |",
        "|---|---|---|---|" + "---|" * len(names) + "---|---|",
    ]
    for name, row in rows.items():
        values = " | ".join("-" if row["budgets"][one] is None else f"{row['budgets'][one]:.3g}" for one in names)
        head = f"| `{name}` | {row['verdict']} | {row['requests']} | {row['seconds']:.0f} | {values} "
        lines.append(head + f"| {row['suspect']} | {', '.join(row['touches']) or 'nothing'} |")
    return "\n".join(lines) + "\n"


def _write(rows: dict[str, dict[str, Any]]) -> None:
    told = json.dumps({"command": COMMAND, "rows": rows}, indent=1)
    (ROOT / "docs" / "bench" / "recipe_verdicts.json").write_text(told + "\n", encoding="utf-8")
    (ROOT / "docs" / "recipe-verdicts.md").write_text(_page(rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when nothing was wrong, else 1."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", choices=tuple(RECIPES), metavar="NAME", help="only these; not written")
    given = parser.parse_args(arguments)
    rows: dict[str, dict[str, Any]] = {}
    for name in given.recipes or ("bf16", *NEVER_PASS, *NEVER_FAIL, *BETWEEN):
        rows[name] = judged(name)
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
        if not given.recipes:  # after each: a bench of half an hour may be ended
            _write(rows)
    return int(any(row["wrong"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
