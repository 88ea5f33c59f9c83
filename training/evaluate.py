"""Measures a model directory on held-out items, by batched greedy decoding, and prints JSON.

python3 -m training.evaluate --model DIR [--items N] [--split heldout] [--kinds KIND ...]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from backends.emulator.tasks.draw import Split
from backends.emulator.tasks.requests import BUCKETS, KINDS, judge, requests
from training.render import render

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def parsed(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Returns the text outside of tool calls, and the calls; one that is not JSON comes back as {}."""
    calls = []
    for body in _CALL.findall(text):
        try:
            calls.append(json.loads(body))
        except json.JSONDecodeError:
            calls.append({})
    return _CALL.sub("", text).strip(), calls


@torch.inference_mode()
def replies(
    model: Any, tokenizer: Tokenizer, prompts: list[list[int]], device: str, batch_tokens: int = 260_000
) -> list[str]:
    """Returns the greedy reply to each prompt."""
    eos, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out = [""] * len(prompts)
    at = 0
    while at < len(order):
        take = 1
        while at + take < len(order) and len(prompts[order[at + take]]) * (take + 1) <= batch_tokens and take < 256:
            take += 1
        rows = order[at : at + take]
        length = max(len(prompts[i]) for i in rows)
        ids = torch.full((take, length), pad)
        mask = torch.zeros((take, length), dtype=torch.long)
        for r, i in enumerate(rows):
            ids[r, length - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[r, length - len(prompts[i]) :] = 1
        made = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=220,
                              do_sample=False, eos_token_id=eos, pad_token_id=pad)[:, length:].tolist()  # fmt: skip
        for r, i in enumerate(rows):
            tokens = made[r][: made[r].index(eos)] if eos in made[r] else made[r]
            out[i] = tokenizer.decode(tokens, skip_special_tokens=False)
        at += take
    return out


def evaluate(
    directory: Path, items: int, split: Split, seed: int, wrong: Path | None, kinds: tuple[str, ...] = KINDS
) -> dict[str, Any]:
    """Returns the shares of right replies, by kind and, for needles, by length bucket, each with its count."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).to(device).eval()
    wanted: list[tuple[str, dict[str, Any]]] = []
    for kind in kinds:
        if kind != "needle_text":
            wanted += [(kind, r) for r in requests(seed, split, items, (kind,))]
    for bucket in BUCKETS if "needle_text" in kinds else ():
        wanted += [(f"needle_text_{bucket}", r) for r in requests(seed, split, items, ("needle_text",), bucket)]
    prompts = [tokenizer.encode(render(r["messages"], r["tools"], True)).ids for _, r in wanted]
    texts = replies(model, tokenizer, prompts, device)
    right: dict[str, list[bool]] = {}
    misses = []
    for (name, r), prompt, reply in zip(wanted, prompts, texts, strict=True):
        text, calls = parsed(reply)
        ok = judge(r["expected"], text, calls)
        keys = [name]
        if name.startswith("needle_text"):
            over = [b for b in BUCKETS if len(prompt) <= b]
            keys = [f"needle_recall_{over[0] if over else 'over'}"]
        elif name.startswith("tool_") and name != "tool_result":
            keys.append("tool_exact_match")
        elif name == "needle_list":
            keys.append("needle_list_13_to_40_facts" if len(prompt) > 350 else "needle_list_short")
        for key in keys:
            right.setdefault(key, []).append(ok)
        if not ok:
            misses.append({"kind": name, "asked": r["messages"][-1]["content"][-400:], "expected": r["expected"],
                           "reply": reply, "tools": r["tools"], "tokens": len(prompt)})  # fmt: skip
    if wrong:
        wrong.write_text("\n".join(json.dumps(m, ensure_ascii=False) for m in misses) + "\n")
    table = {k: {"right": round(sum(v) / len(v), 4), "items": len(v)} for k, v in sorted(right.items())}
    return {"split": split, "seed": seed, "dtype": "bfloat16", "device": device, "scores": table}


def main() -> None:
    """Reads the arguments, evaluates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--items", type=int, default=100, help="items of each kind and of each length bucket")
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of items; all by default")
    parser.add_argument("--wrong", type=Path, help="write the wrong replies here, one JSON a line")
    args = parser.parse_args()
    began = time.monotonic()
    print(json.dumps(evaluate(args.model, args.items, args.split, args.seed, args.wrong, tuple(args.kinds)), indent=2))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
