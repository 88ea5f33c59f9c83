"""Trains the shipped model, and exports it.

    python3 -m training.train --config training/config.toml --out DIR [--resume] [--seconds N]

DIR gets tokenizer, checkpoint (`checkpoint/`), `loss.csv` and the exported model (`model/`). With `--resume` a run goes
on from DIR's checkpoint; `--seconds` ends a run early, in good order.
"""

from __future__ import annotations

import argparse
import csv
import os
import queue
import shutil
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from training import checkpoint, tokenizer
from training.data import SHARD_TOKENS, batches, shards
from training.model import Model, Shape, export
from training.muon import Muon

Batch = tuple[torch.Tensor, torch.Tensor]


def rate(step: int, seen: float, t: dict[str, Any]) -> float:
    """Returns the factor on the learning rates: warm-up, a long plateau, and a linear fall to zero at the end."""
    left = max(0.0, 1.0 - seen / t["tokens"])
    return float(min(1.0, (step + 1) / t["warmup_steps"], left / t["decay_share"]))


def stream(
    path: Path, conf: dict[str, Any], start: int, workers: int, pinned: bool
) -> Iterator[tuple[int, list[Batch], int]]:
    """Yields (next shard, the batches of one update, their tokens), made ahead in a thread."""
    t, rng = conf["train"], np.random.default_rng(conf["seed"] + start)
    ahead: queue.Queue[tuple[int, list[Batch], int]] = queue.Queue(6)

    def fill() -> None:
        source = shards(path, conf["seed"], conf["model"]["max_position_embeddings"], start, workers)
        at = start
        while True:
            pool = []
            for _ in range(t["pool_shards"]):
                pool += next(source)
                at += 1
            made = batches(pool, t["batch_tokens"], rng)
            for i in range(0, len(made) - t["accumulate"] + 1, t["accumulate"]):
                group = [(torch.from_numpy(a), torch.from_numpy(w)) for a, w in made[i : i + t["accumulate"]]]
                if pinned:
                    group = [(a.pin_memory(), w.pin_memory()) for a, w in group]
                ahead.put((at, group, int(sum((w > 0).sum() for _, w in group))))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield ahead.get(timeout=300)


def update(
    model: Model, optimizers: list[torch.optim.Optimizer], group: list[Batch], device: str, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (mean loss, mean loss of the answers) after one update."""
    total = sum(float(w[:, 1:].sum()) for _, w in group)
    loss_sum = torch.zeros((), device=device)
    answer = torch.zeros(2, device=device)
    for ids_cpu, weights_cpu in group:
        ids, weights = ids_cpu.to(device, non_blocking=True).long(), weights_cpu.to(device, non_blocking=True)[:, 1:]
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(ids[:, :-1])
        each = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(weights)
        loss = (each * weights).sum() / total
        loss.backward()
        loss_sum += loss.detach()
        said = weights == 1.0
        answer += torch.stack(((each.detach() * said).sum(), said.sum()))
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss_sum, answer[0] / answer[1]


def run(conf: dict[str, Any], out: Path, resume: bool, seconds: float) -> None:
    """Trains until the tokens of `conf` or the `seconds` are spent; writes checkpoints on the way, and the model."""
    began = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    t = conf["train"]
    torch.manual_seed(conf["seed"])
    torch.set_float32_matmul_precision("high")
    model_dir = out / "model"
    if not (model_dir / "tokenizer.json").exists():
        tokenizer.save(tokenizer.train(conf["vocabulary"]), model_dir, conf["model"]["max_position_embeddings"])
    words = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    eos, pad = words.token_to_id("<|im_end|>"), words.token_to_id("<|endoftext|>")
    model = Model(Shape(vocab_size=conf["vocabulary"], **conf["model"])).to(device)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=t["matrix_rate"], weight_decay=t["weight_decay"]),
        torch.optim.AdamW(others, lr=t["learning_rate"], betas=(0.9, t["beta2"]), eps=1e-9, weight_decay=0.0),
    ]
    state: dict[str, Any] = {"step": 0, "tokens": 0, "shard": 0}
    if resume:
        state = checkpoint.load(out / "checkpoint", model, optimizers)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}, from {state}", flush=True)
    if t["compile"]:  # layer by layer: all of them share one compiled graph, which the whole model would hold six times
        for layer in model.layers:
            layer.compile(dynamic=True)
    workers = max(1, (os.cpu_count() or 2) - 1) if device == "cuda" else 0
    log = out / "loss.csv"
    if not resume or not log.exists():
        log.write_text("step,tokens,loss,answer_loss,rate_factor\n")
    saved = shown = time.monotonic()
    shown_tokens = state["tokens"]
    for shard, group, count in stream(model_dir / "tokenizer.json", conf, state["shard"], workers, device == "cuda"):
        now = rate(state["step"], state["tokens"], t)
        optimizers[0].param_groups[0]["lr"] = now * t["matrix_rate"]
        optimizers[1].param_groups[0]["lr"] = now * t["learning_rate"]
        loss, answer = update(model, optimizers, group, device, t["clip"])
        state = {"step": state["step"] + 1, "tokens": state["tokens"] + count, "shard": shard}
        if state["step"] % 50 == 0 or (device == "cpu" and state["step"] % 5 == 0):
            with log.open("a") as f:
                csv.writer(f).writerow(
                    [state["step"], state["tokens"], f"{loss.item():.4f}", f"{answer.item():.4f}", f"{now:.6f}"]
                )
            if state["step"] % 500 == 0 or device == "cpu":
                speed = (state["tokens"] - shown_tokens) / (time.monotonic() - shown)
                shown, shown_tokens = time.monotonic(), state["tokens"]
                print(f"step {state['step']} tokens {state['tokens'] / 1e6:.1f}M loss {loss.item():.4f} "
                      f"answers {answer.item():.4f} rate {now:.3f} {speed:,.0f} tokens/s "
                      f"{shown - began:.0f} s", flush=True)  # fmt: skip
        over = state["tokens"] >= t["tokens"] or time.monotonic() - began > seconds
        if over or time.monotonic() - saved > 120:
            checkpoint.save(out / "checkpoint", model, optimizers, state)
            export(model, model_dir, eos, pad)
            saved = time.monotonic()
        if over:
            break
    print(f"done: {state}, shard of {SHARD_TOKENS} tokens", flush=True)


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("training/config.toml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end early after so many seconds")
    parser.add_argument("--tokenizer", type=Path, help="a model directory whose tokenizer is taken as it is")
    parser.add_argument("--compile", action="store_true", help="compile the model whatever the configuration says")
    args = parser.parse_args()
    conf = tomllib.loads(args.config.read_text())
    conf["train"]["compile"] = conf["train"]["compile"] or args.compile
    if args.tokenizer:
        (args.out / "model").mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(args.tokenizer / name, args.out / "model" / name)
    run(conf, args.out, args.resume, args.seconds)


if __name__ == "__main__":
    main()
