"""What the emulator and the real engines are compared on: prompts, greedy replies with their lists, scored texts.

A prompt travels as messages, so that templates and tokenizers are compared too; a scored text as token ids.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from backends.emulator.cache import CHUNK, Arena
from backends.emulator.engine import prepared
from backends.emulator.formats import Floats
from backends.emulator.forward import Forward
from backends.emulator.recipes import parsed
from backends.emulator.tasks.requests import requests
from backends.emulator.vocabulary import Vocabulary
from scorers.grid import TokenGrid
from tests.e2e.engines import MODEL, OFFLINE, VLLM_PYTHON

SEED = 41
TOP = 20  # vLLM's default --max-logprobs
MAX_REPLY = 96
MAX_PROMPT = 3_900  # the servers have 4,096
# Kind, bucket, count: 200 prompts, 60,000 tokens.
_MIX = (
    ("tool_one", None, 20), ("tool_parallel", None, 16), ("tool_none", None, 10), ("tool_result", None, 10),
    ("chat", None, 46), ("arithmetic", None, 46), ("needle_list", None, 17),
    ("needle_text", 512, 20), ("needle_text", 1_024, 8), ("needle_text", 2_048, 4), ("needle_text", 4_096, 3),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """A greedy reply. Units: nats. `lists` has one token -> logprob mapping a step, the chosen token included."""

    prompt: list[int]
    tokens: list[int]
    lists: list[dict[int, float]]


def prompts() -> list[dict[str, Any]]:
    """The 200 requests, those that the servers have room for."""
    vocabulary = Vocabulary.of(MODEL)
    found = []
    for number, (kind, bucket, count) in enumerate(_MIX):
        drawn = requests(SEED + number, "heldout", 3 * count, (kind,), bucket)
        fits = (one for one in drawn if len(vocabulary.chat(one["messages"], one["tools"] or [], {}).ids) <= MAX_PROMPT)
        found += list(itertools.islice(fits, count))
    return found


def replies_of(url: str, model: str, asked: Sequence[dict[str, Any]], at_once: int = 4) -> list[Reply]:
    """A server's greedy replies, over its socket."""
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:

        def ask(one: dict[str, Any]) -> Reply:
            body = {"model": model, "messages": one["messages"], "temperature": 0, "max_tokens": MAX_REPLY}
            body |= {"logprobs": True, "top_logprobs": TOP, "return_token_ids": True}
            body |= {"return_tokens_as_token_ids": True, **({"tools": one["tools"]} if one["tools"] else {})}
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            choice = answer["choices"][0]
            lists = [
                {int(top["token"].removeprefix("token_id:")): top["logprob"] for top in [*step["top_logprobs"], step]}
                for step in choice["logprobs"]["content"]
            ]
            return Reply(answer["prompt_token_ids"], choice["token_ids"], lists)

        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(ask, asked))


def texts_scored_by(url: str, model: str, texts: Sequence[Sequence[int]]) -> list[list[dict[int, float]]]:
    """A server's lists at every token of each text but the first."""
    with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:

        def score(ids: Sequence[int]) -> list[dict[int, float]]:
            body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": TOP}
            answer = client.post("/v1/completions", json=body).raise_for_status().json()
            lists = answer["choices"][0]["prompt_logprobs"][1:]
            return [{int(token): one["logprob"] for token, one in step.items()} for step in lists]

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(score, texts))


def texts_scored_here(recipe: str, texts: Sequence[Sequence[int]]) -> Iterator[Floats]:
    """The emulator's logprobs after every token of each text but the last. Shapes: (tokens - 1, vocabulary)."""
    network = prepared(MODEL, parsed(recipe), Vocabulary.of(MODEL))
    forward, arena = Forward(network), Arena(network.shape, slots=1)
    for ids in texts:
        slot = arena.take()
        assert slot is not None
        hidden = [forward.prefill(slot, ids[start : start + CHUNK]) for start in range(0, len(ids), CHUNK)]
        logits = forward.logits(np.concatenate(hidden))[:-1]
        arena.give(slot)
        shifted = logits - logits.max(-1, keepdims=True)
        yield shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def lists_at(logprobs: Floats, texts_list: Sequence[dict[int, float]]) -> Iterator[tuple[float, float]]:
    """(theirs, ours) of every token that their lists hold. Shapes: logprobs (steps, vocabulary)."""
    for row, step in zip(logprobs, texts_list, strict=True):
        for token, theirs in step.items():
            yield theirs, float(row[token])


def grid_of(lists: Sequence[dict[int, float]], chosen: Sequence[int]) -> TokenGrid:
    """Lists as the scorers' arithmetic takes them."""
    width = max(map(len, lists))
    ids = np.full((len(lists), width), -1, np.int32)
    values = np.full((len(lists), width), -np.inf)
    for place, step in enumerate(lists):
        ids[place, : len(step)], values[place, : len(step)] = list(step), list(step.values())
    return TokenGrid(np.asarray(chosen, np.int32), ids, values)


def top_lists(logprobs: Floats, chosen: Sequence[int]) -> list[dict[int, float]]:
    """The emulator's logprobs cut to what a server would list."""
    found = []
    for row, token in zip(logprobs, chosen, strict=True):
        best = np.argpartition(-row, TOP)[:TOP]
        found.append({int(one): float(row[one]) for one in [*best, token]})
    return found


def by_transformers(said: Sequence[tuple[list[int], list[int]]], folder: Path) -> list[Floats]:
    """transformers' logprobs at each token of what follows a prompt, as (prompt, what follows) in token ids.

    Shapes: (tokens that follow, vocabulary) each.
    """
    asked, told = folder / "asked.json", folder / "told.npz"
    asked.write_text(json.dumps([{"ids": prompt + after[:-1], "steps": len(after)} for prompt, after in said]))
    script = Path(__file__).with_name("score_by_transformers.py")
    argv = [str(VLLM_PYTHON), str(script), str(MODEL), str(asked), str(told)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **OFFLINE}, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(told) as arrays:
        return [arrays[str(place)] for place in range(len(said))]
