"""Makes a W4A16 checkpoint of MODEL at OUT with llm-compressor. Runs in the quantizing environment, not the tests'.

Round-to-nearest, groups of 128, every Linear but lm_head: the plain recipe, so that the damage is the format's own.
"""

from __future__ import annotations

import sys

from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model_dir: str, out_dir: str) -> None:
    """Writes the compressed checkpoint with its tokenizer to out_dir."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype="bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    recipe = QuantizationModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"])
    oneshot(model=model, tokenizer=tokenizer, recipe=recipe)
    model.save_pretrained(out_dir, save_compressed=True)
    tokenizer.save_pretrained(out_dir)


if __name__ == "__main__":
    main(*sys.argv[1:3])
