"""The Muon optimizer for the matrices of the layers: momentum, made orthogonal by a Newton-Schulz iteration.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """Returns the nearest semi-orthogonal matrices, roughly. Shapes: (batch, rows, columns) in and out."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    flip = x.shape[1] > x.shape[2]
    x = x.mT if flip else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if flip else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum; parameters of one shape are updated together, since small products waste a GPU."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the parameters that have gradients."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, same in shapes.items():
                grads = [p.grad for p in same]
                for p in same:
                    if "exp_avg" not in self.state[p]:
                        self.state[p]["exp_avg"] = torch.zeros_like(p)
                held = [self.state[p]["exp_avg"] for p in same]
                torch._foreach_lerp_(held, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, held, group["momentum"])
                update = orthogonal(torch.stack(ahead)).to(same[0].dtype)
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(same, list(update.unbind()), alpha=-group["lr"] * scale)
