"""Conversations as text and as tokens: the shipped chat template, rendered as vLLM and transformers render it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np
from tokenizers import Tokenizer

from backends.emulator.tasks.item import Item

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
PROMPT_WEIGHT = 0.1
"""Loss weight of a prompt token beside 1 for an answer token (ten to one: issue 4)."""
PROMPT_TOKENS = 400
"""A prompt's whole weight stops growing at so many tokens, or filler would drown the answers. Choice."""


@cache
def _template() -> jinja2.Template:
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    return env.from_string(TEMPLATE.read_text())


def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, prompt: bool = False) -> str:
    """Returns the conversation as text; with `prompt`, ready for the assistant's next words."""
    text: str = _template().render(messages=messages, tools=tools or None, add_generation_prompt=prompt)
    return text


def encode(tokenizer: Tokenizer, items: list[Item]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns, per item, its token ids and their loss weights (as targets).

    Shapes: (tokens,) uint16 and (tokens,) float16.
    """
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    head = tokenizer.encode("assistant\n").ids
    out = []
    for enc in tokenizer.encode_batch_fast([render(i.messages, i.tools) for i in items]):
        ids = np.array(enc.ids, dtype=np.uint16)
        weight = np.full(len(ids), PROMPT_WEIGHT * min(1.0, PROMPT_TOKENS / len(ids)), dtype=np.float16)
        ends = np.flatnonzero(ids == end)
        for at in np.flatnonzero(ids == start):
            first = int(at) + 1 + len(head)
            if enc.ids[at + 1 : first] == head:
                last = int(ends[np.searchsorted(ends, at)])
                weight[first : last + 1] = 1.0
        out.append((ids[:-1], weight[:-1]))  # the newline after the last <|im_end|> is never generated
    return out
