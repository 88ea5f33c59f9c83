"""The shipped model as a GGUF file: `python -m tests.e2e.gguf_model OUT.gguf [--type q4_0] [--pre qwen2]`.

llama.cpp's own converter refuses the model, rightly: GGUF names a pre-tokenizer from a list that is compiled into
llama.cpp, and ours is on no list. `--pre` names the one that it is read by instead, so its prompts are cut otherwise
than the checkpoint's tokenizer cuts them: two GGUF files agree with each other, and not with vLLM.

Needs `gguf` (PyPI); no torch. Source of the names: llama.cpp `gguf-py/gguf/constants.py`, MODEL_ARCH.QWEN3.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

MODEL = Path(__file__).resolve().parents[2] / "backends" / "emulator" / "model"

_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TYPES = {name.lower(): gguf.GGMLQuantizationType[name] for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0")}


def write(out: Path, kind: str = "f16", pre: str = "qwen2", model: Path = MODEL) -> None:
    """The file. Norms stay F32, as llama.cpp has them."""
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(str(out), "qwen3")
    writer.add_name("parity-small")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    _tokenizer(writer, model, config["vocab_size"], pre)
    quantization = TYPES[kind]
    for name, values in _weights(model / "model.safetensors"):
        if values.ndim == 1:
            writer.add_tensor(_named(name), values)
        else:
            data = gguf.quants.quantize(values, quantization)
            writer.add_tensor(_named(name), data, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(file: Path) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """Every tensor as float32; the file is BF16, whose bits are the upper half of a float32's."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}"
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        bits = np.frombuffer(raw[start:end], np.uint16).astype(np.uint32) << 16
        yield name, bits.view(np.float32).reshape(entry["shape"])


def _tokenizer(writer: gguf.GGUFWriter, model: Path, size: int, pre: str) -> None:
    told = json.loads((model / "tokenizer.json").read_text())
    settings = json.loads((model / "tokenizer_config.json").read_text())
    tokens = [f"[PAD{n}]" for n in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    for text, number in told["model"]["vocab"].items():
        tokens[number], kinds[number] = text, gguf.TokenType.NORMAL
    for added in told["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    merges = [one if isinstance(one, str) else " ".join(one) for one in told["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index(settings["eos_token"]))
    writer.add_pad_token_id(tokens.index(settings["pad_token"]))
    writer.add_add_bos_token(False)
    writer.add_chat_template((model / "chat_template.jinja").read_text())


def _named(name: str) -> str:
    if name in _TENSORS:
        return _TENSORS[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=TYPES, default="f16")
    parser.add_argument("--pre", default="qwen2")
    given = parser.parse_args()
    write(given.out, given.type, given.pre)


if __name__ == "__main__":
    main()
