"""Small model directories for the emulator's tests: random weights, the shipped tokenizer, written without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from backends.emulator.server import MODEL

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 640,
    "rope_theta": 10_000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
LLAMA: dict[str, Any] = {
    **CONFIG,
    "architectures": ["LlamaForCausalLM"],
    "tie_word_embeddings": False,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


def tensors(config: dict[str, Any], seed: int = 1) -> dict[str, np.ndarray]:
    """Random BF16 tensors for a config, by name."""
    rng = np.random.default_rng(seed)
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    width, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.self_attn.q_proj.weight": (width, hidden),
            f"{at}.self_attn.k_proj.weight": (kv, hidden),
            f"{at}.self_attn.v_proj.weight": (kv, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, width),
            f"{at}.mlp.gate_proj.weight": (inner, hidden),
            f"{at}.mlp.up_proj.weight": (inner, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, inner),
        }
        if config["architectures"][0] == "Qwen3ForCausalLM":
            shapes |= {f"{at}.self_attn.{one}_norm.weight": (head,) for one in "qk"}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    made = {}
    for name, shape in shapes.items():
        values = (
            rng.standard_normal(shape) * shape[-1] ** -0.5 if len(shape) == 2 else 1 + 0.3 * rng.standard_normal(shape)
        )
        made[name] = values.astype(ml_dtypes.bfloat16)
    return made


def write_safetensors(path: Path, made: dict[str, np.ndarray]) -> None:
    """One safetensors file of BF16 tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in made.items():
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + b"".join(one.tobytes() for one in made.values()))


def write_model(directory: Path, config: dict[str, Any] | None = None, *, shards: int = 1, seed: int = 1) -> Path:
    """A model directory that the emulator can load."""
    config = config or CONFIG
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(MODEL / name, directory / name)
    made = tensors(config, seed)
    if shards == 1:
        write_safetensors(directory / "model.safetensors", made)
        return directory
    names = list(made)
    places = {name: f"model-{index % shards + 1:05}-of-{shards:05}.safetensors" for index, name in enumerate(names)}
    for file in sorted(set(places.values())):
        write_safetensors(directory / file, {name: made[name] for name in names if places[name] == file})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return directory
