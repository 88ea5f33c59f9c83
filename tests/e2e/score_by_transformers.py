"""Scores token ids with transformers in BF16: MODEL ASKED.json TOLD.npz. Runs in an engine's environment.

ASKED holds {"ids", "steps"} each; TOLD gets, for each, the logprobs of all tokens at the last `steps` places.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def main(model_dir: str, asked: str, told: str) -> None:
    """Writes the arrays to told, by place."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).eval()
    arrays: dict[str, np.ndarray] = {}
    for place, one in enumerate(json.loads(Path(asked).read_text())):
        logits = model(input_ids=torch.tensor([one["ids"]]), logits_to_keep=one["steps"]).logits[0].float()
        arrays[str(place)] = logits.log_softmax(-1).numpy()
    np.savez(told, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:4])
