"""Checkpoints: weights in FP32, optimizer moments in BF16, a small state beside them; small enough to move around."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.model import Model


def save(out: Path, model: Model, optimizers: list[torch.optim.Optimizer], state: dict[str, Any]) -> None:
    """Writes weights, moments and state; the state last, so that what it says is there."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}, out / "weights.safetensors")
    moments: dict[str, torch.Tensor] = {}
    for name, p in model.named_parameters():
        held: dict[str, Any] = next((o.state[p] for o in optimizers if p in o.state), {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in held:
                moments[f"{name}/{key}"] = held[key].to("cpu", torch.bfloat16)
    save_file(moments, out / "moments.safetensors")
    (out / "state.json").write_text(json.dumps(state))


def load(source: Path, model: Model, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Returns the saved state, having put weights and moments in place.

    Raises:
        FileNotFoundError: there is no checkpoint in `source`.
    """
    state: dict[str, Any] = json.loads((source / "state.json").read_text())
    weights, moments = load_file(source / "weights.safetensors"), load_file(source / "moments.safetensors")
    mine = {p: o for o in optimizers for group in o.param_groups for p in group["params"]}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weights[name])
            held = {
                k: moments[f"{name}/{k}"].to(p.device, torch.float32)
                for k in ("exp_avg", "exp_avg_sq")
                if f"{name}/{k}" in moments
            }
            if "exp_avg_sq" in held:  # AdamW counts its steps
                held["step"] = torch.tensor(float(state["step"]))
            mine[p].state[p] = held
    return state
