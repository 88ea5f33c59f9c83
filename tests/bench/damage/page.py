"""The damage table as a document and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.emulator.recipes import RECIPES
from tests.bench.damage.claims import Claim
from tests.bench.damage.items import COLUMNS, FEW, MANY

COMMAND = "python -m tests.bench.damage"
_TITLES = {
    "weights": "Weights alone",
    "activations": "Activations alone",
    "kv_cache": "KV cache alone",
    "several": "Several axes",
}
_HEAD = """\
# What precision costs the shipped model

Made by `{command}` (a part of `make bench`); the numbers are in `docs/bench/damage.json`.

The model is `backends/emulator/model`, the engine the emulator, the reference the same model in BF16. Requests are
drawn from `backends/emulator/tasks` (held-out names and values, one fixed seed) and answered greedily: {many} each by
the recipes that a claim below rests on, the first {few} of them by the others.

- *KL, prompt*: mean KL(BF16 || recipe) per token over the tokens of 18 tool prompts, in millinats. It has the finest
  resolution, because text is uncertain everywhere. *KL, reply*: the same over BF16's own greedy replies, all requests.
- *top-1*: share of the prompt's tokens after which both would say the same.
- *tools*, *chat*, *needle N*, *facts N*: share of right answers (every call, name and argument right; every asked value
  in the text), in brackets the 95 % Wilson interval, then the count. *Needle N*: few facts in filler, prompts of about
  0.55 to 0.9 N tokens. *Facts N*: lists of facts alone in an earlier turn, some 25 tokens each, so that N tokens hold
  some N / 35 keys to tell apart.
- Measured on: {machines}. INT4 turns a difference in the last bit into another value, so a row moves within its
  interval from one processor to another.
- `reread` is BF16 against itself, its prompts read in chunks of another size: what the order of sums alone does.
"""


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    names = COLUMNS
    lines = [
        "| recipe | KL, prompt | KL, reply | top-1 | " + " | ".join(names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for name, row in rows.items():
        cells = [f"{_milli(row['prompt_kl_nats'])}", f"{_milli(row['reply_kl_nats'])}"]
        cells.append(f"{row['prompt_top1']['mean']:.2%}".replace("%", " %"))
        cells += [_cell(row[one]) for one in names]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read(folder: Path) -> dict[str, Any]:
    """What was written before, or nothing."""
    path = folder / "bench" / "damage.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write(
    folder: Path,
    rows: Mapping[str, Mapping[str, Any]],
    claims: Sequence[Claim],
    spread: Sequence[Mapping[str, Any]],
    agreement: Mapping[str, Any] | None,
) -> None:
    """Both files."""
    (folder / "bench").mkdir(parents=True, exist_ok=True)
    result = {
        "command": COMMAND,
        "rows": {name: {**(RECIPES[name].as_dict() if name in RECIPES else {}), **row} for name, row in rows.items()},
        "claims": [claim.as_dict() for claim in claims],
        "kv_spread": list(spread),
        "through_proxy": agreement,
    }
    (folder / "bench" / "damage.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    machines = "; ".join(
        f"{on} ({count} rows)" for on, count in Counter(row["measured_on"] for row in rows.values()).items()
    )
    parts = [_HEAD.format(command=COMMAND, many=sum(MANY.values()), few=sum(FEW.values()), machines=machines)]
    for group, title in _TITLES.items():
        parts.append(f"## {title}\n\n{table({name: rows[name] for name in rows if _group(name, group)})}\n")
    parts.append("## What the field knows\n\n" + "\n".join(map(_told, claims)) + "\n")
    parts.append(_spread(spread))
    parts.append(_proxied(agreement))
    (folder / "damage.md").write_text("\n".join(parts), encoding="utf-8")


def _group(name: str, group: str) -> bool:
    """BF16 and its floor head every table."""
    recipe = RECIPES.get(name)
    if recipe is None or name == "bf16":
        return True
    axes = {"weights": recipe.weights, "activations": recipe.activations, "kv_cache": recipe.kv_cache}
    set_apart = [axis for axis, one in axes.items() if one.format != "bf16"]
    return (group in set_apart and len(set_apart) == 1) or (group == "several" and len(set_apart) > 1)


def _told(claim: Claim) -> str:
    state = "holds" if claim.holds else "**not shown by this model**" if not claim.asserted else "**broken**"
    return f"- {claim.text}: {state}. {_numbers(claim.numbers)}"


def _numbers(numbers: Mapping[str, Any]) -> str:
    told = []
    for name, value in numbers.items():
        if isinstance(value, Mapping) and "share" in value:
            told.append(f"{name} {_cell(value)}")
        elif isinstance(value, Mapping):
            told.append(f"{name} {value['mean']:.3g} ({value['low']:.3g} to {value['high']:.3g})")
        elif isinstance(value, float) and name != "count":
            told.append(f"{name} {value:.3g}")
    return "; ".join(told) + "."


def _cell(value: Mapping[str, Any]) -> str:
    low, high = (f"{value[one] * 100:.0f}" for one in ("low", "high"))
    return f"{value['share'] * 100:.0f} % [{low}, {high}] {value['count']}"


def _milli(value: Mapping[str, Any]) -> str:
    half = (value["high"] - value["mean"]) * 1_000
    return f"{value['mean'] * 1_000:.2f} ± {half:.2f}"


def _spread(layers: Sequence[Mapping[str, Any]]) -> str:
    fields = [f"{side}_{what}" for side in ("keys", "values") for what in ("largest_over_rms", "head_over_head")]
    lines = [
        "## What a scale has to cover",
        "",
        "One INT4 scale for a layer's keys or values is set by the largest magnitude of all its heads (calibrated, as",
        "llm-compressor does it). It costs much where that is far above the rest: in outlying channels, or beside a",
        "head that dwarfs another. The largest over the RMS, and over the other head's largest, in 8 prompts of some",
        "1,700 tokens:",
        "",
        "| layer | keys: largest / RMS | head / head | values: largest / RMS | head / head |",
        "|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join([str(one["layer"]), *(f"{one[name]:.1f}" for name in fields)]) + " |" for one in layers]
    return "\n".join(lines) + "\n"


def _proxied(agreement: Mapping[str, Any] | None) -> str:
    if agreement is None:
        return "## Through the whole proxy\n\nNot measured yet: `python -m tests.bench.damage --through-proxy`.\n"
    lines = [
        "## Through the whole proxy",
        "",
        f"`{COMMAND} --through-proxy`: {agreement['requests']} requests a row went through the relay to an emulator",
        "under the recipe, were mirrored to a BF16 emulator by the monitor, scored, and read back from the ledger; the",
        "direct figures are measured on the same requests without any of that.",
        "",
        "| recipe | score | from the ledger | direct | requests | the same in |",
        "|---|---|---|---|---|---|",
    ]
    for recipe, scores in agreement["rows"].items():
        for name, one in scores.items():
            figures = f"{one['ledger']:.4g} | {one['direct']:.4g} | {one['count']} | {one['same']:.0%}"
            lines.append(f"| `{recipe}` | {name} | {figures} |".replace("%", " %"))
    lines += ["", f"They {'agree' if agreement['agree'] else '**do not agree**'}: {agreement['rule']}.", ""]
    return "\n".join(lines)
