"""From an answer to tokens: stops, length limits, logprobs; and the prefill's view of tokens that are there already."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from backends.dialect.ask import Wish
from backends.dialect.words import Step
from backends.scripted.answer import Answer, answer
from backends.scripted.ask import Ask
from backends.scripted.distribution import Drift, step
from backends.scripted.faults import Fault
from backends.scripted.template import Prompt, generation_start, read
from backends.scripted.tokens import IM_END, decode, encode, fold, mix, token_bytes

JITTER = 0.05  # *choice*, nats: KL of about 0.0001, what batch-variant kernels leave (llama.cpp's f16 floor is 0.0006)
NOISY_VARIANTS = 0.1  # *choice*: one noisy call in ten also says something else
FAULT_SHIFT = 3.0  # *choice*, nats: a KL of about 0.4, like a q2_K (metrology 6)
_JSON_OPENINGS = frozenset(b"{[")
SAMPLED_VARIANTS = 0.4  # *choice*: share of sampled replies that differ from the greedy one, at temperature 1

Parting: TypeAlias = Literal["chosen", "wrong", "hair"]


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

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.prompt.ids

    @property
    def calls(self) -> tuple[tuple[str, str], ...]:
        return self.said.calls if self.whole else ()

    @property
    def content(self) -> str | None:
        return None if self.calls else self.text


def generate(ask: Ask, prompt: Prompt, index: int, run: Run, limit: int) -> Generated:
    """One choice for a prompt. `limit` bounds its tokens by what the context leaves."""
    variant = _variant(ask, prompt, index, run)
    said = answer(prompt, ask.wish, variant=variant, faults=run.faults)
    most = min(limit, ask.max_tokens if ask.max_tokens is not None else limit)
    begun = None if ask.chat else _continued(prompt, variant, run.faults)
    if begun is not None:
        said, rest = begun
        ends = len(rest) <= most
        tokens, finish, stop_reason = rest[:most], "stop" if ends else "length", None
        text = decode(tokens)
    else:
        tokens, text, finish, stop_reason = _ended(said.text, ask.stop, most)
    steps: tuple[Step, ...] = ()
    if ask.logprobs is not None:
        own = [*encode(answer(prompt, ask.wish).text), IM_END] if variant or said.struck else []
        steps = tuple(steps_of(prompt.state, tokens, run.drift, own, _parting(ask, said)))
    whole = finish == "stop" and stop_reason is None
    return Generated(prompt, said, tuple(tokens), text, finish, stop_reason, whole, steps)


def steps_of(
    state: int, tokens: Sequence[int], drift: Drift, own: Sequence[int] = (), parting: Parting = "chosen"
) -> list[Step]:
    """The distribution at each token after a prefix. `own` is what the model would say by itself: at the first token
    that differs from it, its own token is on top when another was `chosen` (by the dice, or by somebody else), and only
    the runner-up when the model itself went `wrong`, or another way by a `hair`."""
    found: list[Step] = []
    agreeing = True
    for index, token in enumerate(tokens):
        mine = own[index] if agreeing and index < len(own) else None
        agreeing = agreeing and mine == token
        if mine is None or mine == token:
            found.append(step(state, token, drift))
        elif parting == "chosen":
            found.append(step(state, token, drift, top=mine))
        else:
            found.append(step(state, token, drift, second=mine, close=parting == "hair"))
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
    if ids[start] in _JSON_OPENINGS and own[0] not in _JSON_OPENINGS:
        own = []  # a grammar forced it, which the prompt does not show: no answer of its own to hold against it
    before = steps_of(fold(1, ids[:1]), ids[1:start], drift)
    return before + steps_of(asked.state, ids[start:], drift, own)


def key_of(prompt: Prompt) -> int:
    """What faults are decided by: the prompt up to where the assistant speaks."""
    start = generation_start(prompt.ids)
    return mix(fold(1, prompt.ids[:start]))


def _continued(prompt: Prompt, variant: int, faults: frozenset[Fault]) -> tuple[Answer, list[int]] | None:
    """What is left of the model's own answer where a prompt of token ids holds the beginning of it, its end included;
    None for any other prompt."""
    start = generation_start(prompt.ids)
    if start is None or start >= len(prompt.ids):
        return None
    said = answer(read(prompt.ids[:start]), Wish(), variant=variant, faults=faults)
    own, shown = [*encode(said.text), IM_END], [*prompt.ids[start:]]
    rest = own[len(shown) :]
    return (Answer(decode(rest)), rest) if rest and own[: len(shown)] == shown else None


def _parting(ask: Ask, said: Answer) -> Parting:
    if said.struck - {Fault.PHRASE}:
        return "wrong"
    return "hair" if said.struck or ask.temperature == 0.0 else "chosen"


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
