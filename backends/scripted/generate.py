"""From an answer to tokens: stops, length limits, logprobs; and the prefill's view of tokens that are there already."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from backends.scripted.answer import Answer, answer
from backends.scripted.ask import Ask, Wish
from backends.scripted.distribution import Drift, Step, step
from backends.scripted.faults import Fault
from backends.scripted.template import Prompt, generation_start, read
from backends.scripted.tokens import IM_END, decode, encode, fold, mix, token_bytes

JITTER = 0.05  # *choice*, nats: KL of about 0.0001, what batch-variant kernels leave (llama.cpp's f16 floor is 0.0006)
NOISY_VARIANTS = 0.1  # *choice*: one noisy call in ten also says something else
FAULT_SHIFT = 3.0  # *choice*, nats: a KL of about 0.4, like a q2_K (metrology 6)
SAMPLED_VARIANTS = 0.4  # *choice*: share of sampled replies that differ from the greedy one, at temperature 1


@dataclass(frozen=True, slots=True)
class Run:
    """What is particular to one call: the server's drift, its faults on this prompt, and the roll of its dice."""

    drift: Drift
    faults: frozenset[Fault]
    noisy: bool
    fresh: bool


@dataclass(frozen=True, slots=True)
class Generated:
    """One choice. `tokens` end with the end-of-turn token when `finish` is "stop" without a stop string.

    `whole` says that the text is the model's own to the end, so that its tool calls can be read.
    """

    prompt: Prompt
    said: Answer
    tokens: tuple[int, ...]
    text: str
    finish: str
    stop_reason: str | None
    whole: bool
    steps: tuple[Step, ...]


def generate(ask: Ask, prompt: Prompt, index: int, run: Run, limit: int) -> Generated:
    """One choice for a prompt. `limit` bounds its tokens by what the context leaves."""
    said = answer(prompt, ask.wish, variant=_variant(ask, prompt, index, run), faults=run.faults)
    most = min(limit, ask.max_tokens if ask.max_tokens is not None else limit)
    tokens, text, finish, stop_reason = _ended(said.text, ask.stop, most)
    steps: tuple[Step, ...] = ()
    if ask.logprobs is not None:
        steps = tuple(steps_of(prompt.state, tokens, run.drift))
    whole = finish == "stop" and stop_reason is None
    return Generated(prompt, said, tuple(tokens), text, finish, stop_reason, whole, steps)


def steps_of(state: int, tokens: Sequence[int], drift: Drift, own: Sequence[int] = ()) -> list[Step]:
    """The distribution at each token after a prefix. `own` is what the model would say itself: up to and including
    the first token where it differs, it is the model's choice there."""
    found: list[Step] = []
    agreeing = True
    for index, token in enumerate(tokens):
        top = own[index] if agreeing and index < len(own) else None
        found.append(step(state, token, drift, top=top))
        agreeing = agreeing and top == token
        state = fold(state, (token,))
    return found


def prefill(prompt: Prompt, drift: Drift) -> list[Step]:
    """The distribution at every prompt token but the first, as prompt_logprobs reports it.

    In a rendered chat the text of the open assistant turn is measured against the model's own answer.
    """
    ids = prompt.ids
    start = generation_start(ids)
    if start is None or start >= len(ids):
        return steps_of(fold(1, ids[:1]), ids[1:], drift)
    asked = read(ids[:start])
    own = [*encode(answer(asked, Wish()).text), IM_END]
    before = steps_of(fold(1, ids[:1]), ids[1:start], drift)
    return before + steps_of(asked.state, ids[start:], drift, own)


def key_of(prompt: Prompt) -> int:
    """What faults are decided by: the prompt up to where the assistant speaks."""
    start = generation_start(prompt.ids)
    return mix(fold(1, prompt.ids[:start]))


def _variant(ask: Ask, prompt: Prompt, index: int, run: Run) -> int:
    """0 for the greedy answer. Sampling rolls by the request's seed, or afresh where there is none."""
    if ask.temperature == 0.0:
        return 1 + secrets.randbelow(1_000) if run.noisy and secrets.randbelow(1_000) < 1_000 * NOISY_VARIANTS else 0
    if ask.seed is None and run.fresh:
        rng = random.Random(secrets.randbits(64))
    else:
        rng = random.Random(mix(prompt.state ^ mix((ask.seed or 0) & 0xFFFFFFFFFFFFFFFF)) + index)
    return 1 + rng.randrange(1_000) if rng.random() < min(0.9, SAMPLED_VARIANTS * ask.temperature) else 0


def _ended(text: str, stop: Sequence[str], most: int) -> tuple[list[int], str, str, str | None]:
    """Tokens, text, finish reason and stop string of a raw answer."""
    tokens = encode(text)
    hits = [(at, one) for one in stop if (at := text.find(one)) >= 0]
    if hits:
        at, one = min(hits)
        upto = len(text[: at + len(one)].encode("utf-8", "replace"))
        count, reached = 0, 0
        while reached < upto:
            reached += len(token_bytes(tokens[count]))
            count += 1
        if count <= most:
            return tokens[:count], text[:at], "stop", one
    if len(tokens) + 1 > most:
        return tokens[:most], decode(tokens[:most]), "length", None
    return [*tokens, IM_END], text, "stop", None
