"""docs/methods.md: the table and the two studies, from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def page(told: Mapping[str, Any]) -> str:
    """The page."""
    lines = [
        "# What each method costs the shipped model",
        "",
        f"Made by `{told['command']}`: `parity quantize` makes each checkpoint of `backends/emulator/model` "
        f"({told['samples']} calibration prompts of at most {told['max_tokens']:,} tokens, training split), "
        "a real vLLM on the CPU serves it beside the model at BF16, the proxy mirrors 192 greedy requests of the "
        "held-out split (tools, lists of facts and needles from 512 to 4,096 tokens, talk), and the ledger "
        "has the scores. `docs/bench/methods.json` has all figures.",
        "",
        "Verdicts are by the demo's limits (KL 0.15 nats, a fifth of the calls, 0.15 of the copies). With 192 requests "
        "few recipes can be proven good: inconclusive is the expected word. `suspect` is what the diagnosis would name "
        "were the scores over their limits; `-` means that it names nothing. KL is in thousandths of a nat, with its "
        "standard error: a few requests carry most of it, so rows a standard error apart are not apart.",
        "",
        "A model of 3.8 million parameters is not a large one: read the order of the rows, not their size. Its "
        "embeddings, a fifteenth of it, stay at 16 bits; the rotations untie them, which makes two.",
        "",
        "| recipe | MB | bits a weight | s to make | KL, mnats | top-1 | calls differ | copies lost | needles lost | "
        "verdict | suspect |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(name, one) for name, one in told["rows"].items()),
        "",
        *_study(told.get("calibration_study", {})),
        *_wrong_scales(told.get("scales_study", {})),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(name: str, one: Mapping[str, Any]) -> str:
    head = f"| `{name}` | {one['weight_bytes'] / 1e6:.2f} | {one['bits_per_weight']:.2f} | {one['seconds']:.0f} "
    if "not_served" in one:
        return head + f"| not served: {one['not_served'].replace('|', '/')} | | | | | | |"
    return head + "".join(f"| {cell} " for cell in [*_scores(one), one["verdict"], _suspect(one)]) + "|"


def _scores(one: Mapping[str, Any]) -> list[str]:
    found = one["scores"]
    agreement = found["top1_disagreement"]
    return [
        _with_error(found["logprob_kl"], one.get("errors", {}).get("logprob_kl")),
        "-" if agreement is None else f"{1 - agreement:.2%}",
        *(_number(found[name], 3) for name in ("tool_call_mismatch", "copy_recall_loss", "needle_recall_loss")),
    ]


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{1e3 * value:.2f}" + ("" if error is None else f" ± {1e3 * error:.2f}")


def _suspect(one: Mapping[str, Any]) -> str:
    return _named(str(one["suspect_if_over"]))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _study(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    lines = [
        "## Calibrated on the ledger's traffic, or on unrelated text",
        "",
        "The same method, the same number of prompts, `--calibration-study`: one set from a ledger's kept traffic "
        "(training split, with the served replies), the other pieces of the licence and of this project's prose.",
        "",
        "| method | calibrated on | seeds | KL, mnats | top-1 | calls differ | copies lost |",
        "|---|---|---|---|---|---|---|",
    ]
    methods = list(dict.fromkeys(one["method"] for one in found.values()))
    for method in methods:
        for source in ("ledger", "unrelated"):
            runs = [one for one in found.values() if (one["method"], one["source"]) == (method, source)]
            cells = [_spread(runs, "logprob_kl", 1e3)]
            cells += [_spread(runs, name) for name in ("top1_disagreement", "tool_call_mismatch", "copy_recall_loss")]
            lines.append(f"| {method} | {source} | {len(runs)} | " + " | ".join(cells) + " |")
    lines += ["", "Mean and standard deviation over the seeds (top-1: of the disagreement).", ""]
    lines += [sentence for method in methods for sentence in _difference(found, method)]
    return [*lines, ""]


def _of(runs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [one["scores"][name] for one in runs if one["scores"][name] is not None]


def _spread(runs: Sequence[Mapping[str, Any]], name: str, unit: float = 1.0) -> str:
    values = [unit * one for one in _of(runs, name)]
    if not values:
        return "-"
    middle = sum(values) / len(values)
    return f"{middle:.4f} ± {_deviation(values):.4f}" if len(values) > 1 else f"{middle:.4f}"


def _deviation(values: Sequence[float]) -> float:
    middle = sum(values) / len(values)
    return math.sqrt(sum((one - middle) ** 2 for one in values) / (len(values) - 1)) if len(values) > 1 else 0.0


def _difference(found: Mapping[str, Any], method: str) -> list[str]:
    """The difference in KL by seed, its mean and standard error: the same requests, so the seeds are pairs."""
    pairs = []
    for seed in sorted({one["seed"] for one in found.values()}):
        both = [found.get(f"{method} {source} {seed}") for source in ("unrelated", "ledger")]
        if both[0] and both[1]:
            pairs.append(both[0]["scores"]["logprob_kl"] - both[1]["scores"]["logprob_kl"])
    if len(pairs) < 2:
        return []
    middle, error = sum(pairs) / len(pairs), _deviation(pairs) / math.sqrt(len(pairs))
    word = "better" if middle > 2 * error else "worse" if middle < -2 * error else "no different beyond its error"
    return [
        f"- {method}: unrelated text minus the ledger's traffic is {1e3 * middle:+.2f} ± {1e3 * error:.2f} mnats of KL "
        f"(standard error over {len(pairs)} seeds): the ledger's traffic is {word}."
    ]


def _wrong_scales(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    named = {
        axis: [one["suspect"] for one in found.values() if one["axis"] == axis] for axis in ("kv_cache", "weights")
    }
    return [
        "## One axis with wrong scales",
        "",
        "`--scales-study`: the checkpoints of `fp8-kv` and of `rtn-w4a16` with their scales times a factor, so that "
        "all damage lies on one axis, under strict limits (KL 0.003 nats, a hundredth of the calls and of the copies). "
        "`gate` is what the running gate itself named; it names nothing while no budget is over its limit by more than "
        "chance. `suspect` is the same rule asked as if every score were over.",
        "",
        "| damaged | KL, mnats | top-1 | calls differ | copies lost | needles lost | verdict | gate | suspect |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {name} | " + " | ".join([*_scores(one), one["verdict"], _named(one["suspect"]), _suspect(one)]) + " |"
            for name, one in found.items()
        ),
        "",
        *(
            f"- all on `{axis}`: the gate named `{axis}` in {words.count(axis)} of {len(words)} runs, another axis in "
            f"{sum(word not in (axis, 'undetermined') for word in words)}."
            for axis, words in named.items()
        ),
        "",
    ]


def _named(axis: str) -> str:
    return "-" if axis == "undetermined" else axis
