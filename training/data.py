"""The training stream: which items, in which order of difficulty, as token batches made by worker processes."""

from __future__ import annotations

import multiprocessing as mp
import os
import queue
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from backends.emulator.tasks import chat, needles, tools
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.item import Item
from training.render import encode

SHARD_TOKENS = 400_000
STAGES = ((40e6, 350, 2, 2), (90e6, 900, 3, 4), (150e6, 2200, 5, 5), (float("inf"), 4800, 6, 5))
"""Until so many tokens were seen: the longest text in tokens, the most tools on offer, the most parameters. Short
first, since lookup never emerges from a flat mixture (issue 4). Choice."""

Shard = list[tuple[np.ndarray, np.ndarray]]


def draw_item(d: Draw, seen: float) -> Item:
    """Returns a training item, as hard as fits `seen` tokens of training."""
    longest, most_tools, most_params = next(s[1:] for s in STAGES if seen < s[0])
    kind = d.random()
    if kind < 0.46:
        return tools.tool_item(d, most_tools, most_params, d.pick((1, 1, 2, 3, 4)))
    if kind < 0.49:
        return tools.result_item(d, min(most_tools, 4), 3)
    if kind < 0.66:
        size = d.random()
        count = d.randint(1, 4) if size < 0.5 else d.randint(5, 12) if size < 0.8 else d.randint(13, 40)
        return needles.list_item(d, count, d.pick((1, 2, 4)))
    if kind < 0.8:
        low, high = np.log(60), np.log(longest)
        chars = int(np.exp(d.uniform(low, high)) * needles.CHARS_PER_TOKEN)
        if d.chance(0.15):  # the log-uniform draw alone would see too few of the longest
            chars = int(d.uniform(0.3, 1.0) * longest * needles.CHARS_PER_TOKEN)
        return needles.text_item(d, chars, d.pick((1, 2, 4)) if chars < 1500 else d.pick((2, 4, 8, 12)))
    return chat.chat_item(d, many=True)


def pieces_of(tokenizer: Tokenizer) -> list[str]:
    """Returns the entries of the vocabulary that are plain letters, lower-case or capitalised, in a fixed order."""
    return sorted(p for p in tokenizer.get_vocab() if re.fullmatch("[A-Z]?[a-z]+", p))


def make_shard(tokenizer: Tokenizer, seed: int, index: int, context: int) -> Shard:
    """Returns shard `index` of the stream: the same for the same seed, whoever makes it."""
    d = Draw(f"{seed}/{index}", "train", pieces_of(tokenizer))
    seen, shard, size = index * SHARD_TOKENS, [], 0
    while size < SHARD_TOKENS:
        made = encode(tokenizer, [draw_item(d, seen) for _ in range(64)])
        for ids, weight in made:
            if len(ids) <= context:
                shard.append((ids, weight))
                size += len(ids)
    return shard


def _work(path: str, seed: int, context: int, first: int, step: int, out: mp.Queue[Any]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(path)
    index = first
    while True:
        shard = make_shard(tokenizer, seed, index, context)
        ids = np.concatenate([i for i, _ in shard])
        weights = np.concatenate([w for _, w in shard])
        out.put((ids, weights, np.cumsum([len(i) for i, _ in shard])))
        index += step


def shards(path: Path, seed: int, context: int, start: int, workers: int) -> Iterator[Shard]:
    """Yields shards `start`, `start + 1`, ... in order, made by `workers` processes, or by this one for 0."""
    if workers == 0:
        tokenizer = Tokenizer.from_file(str(path))
        while True:
            yield make_shard(tokenizer, seed, start, context)
            start += 1
    spawn = mp.get_context("spawn")
    queues = [spawn.Queue(2) for _ in range(workers)]
    for i, q in enumerate(queues):
        spawn.Process(target=_work, args=(str(path), seed, context, start + i, workers, q), daemon=True).start()
    at = 0
    while True:
        try:
            ids, weights, ends = queues[at % workers].get(timeout=120)
        except queue.Empty as stuck:
            raise RuntimeError("a data worker has stopped") from stuck
        cuts = ends[:-1]
        yield list(zip(np.split(ids, cuts), np.split(weights, cuts), strict=True))
        at += 1


def length_class(n: int) -> int:
    """Returns the padded length of a sample of `n` tokens: few lengths, little padding."""
    step = 32 if n <= 256 else 64 if n <= 1024 else 256
    return -(-n // step) * step


def batches(pool: Shard, rows_tokens: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the samples of `pool` as padded batches of at most `rows_tokens`, in random order.

    Shapes: (rows, length) int32 and (rows, length) float32 each; a padded position weighs 0.
    """
    order = sorted(range(len(pool)), key=lambda i: (length_class(len(pool[i][0])), rng.random()))
    out, at = [], 0
    while at < len(order):
        take = 1
        while at + take < len(order):
            length = length_class(len(pool[order[at + take]][0]))
            if length * (take + 1) > rows_tokens:
                break
            take += 1
        rows = order[at : at + take]
        length = length_class(max(len(pool[i][0]) for i in rows))
        ids = np.zeros((take, length), dtype=np.int32)
        weights = np.zeros((take, length), dtype=np.float32)
        for r, i in enumerate(rows):
            n = len(pool[i][0])
            ids[r, :n], weights[r, :n] = pool[i]
        out.append((ids, weights))
        at += take
    rng.shuffle(out)
    return out
