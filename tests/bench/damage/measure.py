"""One recipe against BF16, request by request, on the emulator's arithmetic alone: no server, no proxy.

The reference says its greedy replies. A recipe reads each prompt and the reference's reply in one go, which gives its
distribution at every step of the reply; up to the first step at which it would say something else, that is also its
own greedy reply, so only the rest of that has to be decoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.emulator.cache import CHUNK, Arena, Slot
from backends.emulator.engine import prepared
from backends.emulator.formats import Floats
from backends.emulator.forward import Forward
from backends.emulator.hermes import read_calls
from backends.emulator.recipes import parsed
from backends.emulator.server import MODEL
from backends.emulator.tasks.requests import judge
from backends.emulator.vocabulary import Vocabulary
from tests.bench.damage.items import Item

MAX_REPLY = 160  # tokens; the longest right answer has some 120
_OTHER_CHUNK = 96  # another batch size: its sums run in another order


@dataclass(frozen=True, slots=True)
class Said:
    """The reference's reply. Shapes: logprobs (tokens, vocabulary), prompt (prompt tokens, vocabulary) or None."""

    tokens: list[int]
    logprobs: Floats
    prompt: Floats | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request under one recipe.

    `right` by the answer that the generator knows; `same_calls` and `same_text` by the reference's reply. `kl` and
    `top1` are means over the reference's reply; `aligned_kl` the mean up to the first step that differs, as the
    proxy's logprob_kl has it. `prompt_kl`, `prompt_top1`: the same over the prompt's own tokens. Units: nats, shares.
    """

    column: str
    right: bool
    same_calls: bool
    same_text: bool
    kl: float
    aligned_kl: float
    top1: float
    prompt_kl: float | None
    prompt_top1: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """Runs recipes on one model."""

    def __init__(self, items: Sequence[Item], vocabulary: Vocabulary, directory: Path = MODEL) -> None:
        self._items = items
        self._vocabulary = vocabulary
        self._directory = directory
        self._arena: Arena | None = None
        self._said: dict[int, Said] = {}

    def run(self, recipe: str, places: Sequence[int], *, chunk: int = CHUNK) -> Iterator[Outcome]:
        """The outcomes of a recipe on the items at those places; BF16 is the reference's own reply, read again."""
        for outcome, _, _ in self.replies(recipe, places, chunk=chunk):
            yield outcome

    def replies(self, recipe: str, places: Sequence[int], *, chunk: int = CHUNK) -> Iterator[tuple[Outcome, str, str]]:
        """The same, each with what the recipe says beside its calls, and what the reference says."""
        bare, forward = self._forward("bf16"), self._forward(recipe)
        for place in places:
            if place not in self._said:
                self._said[place] = self._reply(bare, self._items[place])
            yield self._outcome(forward, self._items[place], self._said[place], chunk)

    def floor(self, places: Sequence[int]) -> Iterator[Outcome]:
        """BF16 against itself with prompts read in chunks of another size: what the order of sums alone does."""
        return self.run("bf16", places, chunk=_OTHER_CHUNK)

    def _forward(self, recipe: str) -> Forward:
        network = prepared(self._directory, parsed(recipe), self._vocabulary)
        if self._arena is None:
            self._arena = Arena(network.shape, slots=1)
        return Forward(network)

    def _reply(self, forward: Forward, item: Item) -> Said:
        with _Slot(self._arena) as slot:
            prompt = _read(forward, slot, item.ids, CHUNK, whole=item.whole)
            tokens, rows = self._decoded(forward, slot, prompt[-1], [])
        return Said(tokens, _logprobs(np.array(rows)), _logprobs(prompt) if item.whole else None)

    def _outcome(self, forward: Forward, item: Item, said: Said, chunk: int) -> tuple[Outcome, str, str]:
        with _Slot(self._arena) as slot:
            prompt = _read(forward, slot, item.ids, chunk, whole=item.whole)
            rows = [prompt[-1:]]
            if len(said.tokens) > 1:
                rows.append(_read(forward, slot, said.tokens[:-1], chunk, whole=True))
            logits = np.concatenate(rows)
            own = logits.argmax(-1)
            differing = np.flatnonzero(own != said.tokens)
            tokens = said.tokens
            if len(differing):
                first = int(differing[0])
                slot.length = len(item.ids) + first
                tokens, _ = self._decoded(forward, slot, logits[first], said.tokens[:first])
        kl = _divergence(said.logprobs, _logprobs(logits))
        text, calls = self._read_reply(tokens)
        their_text, their_calls = self._read_reply(said.tokens)
        of_prompt = _divergence(said.prompt, _logprobs(prompt)) if said.prompt is not None else None
        prompt_same = (said.prompt.argmax(-1) == prompt.argmax(-1)).mean() if said.prompt is not None else None
        outcome = Outcome(
            column=item.column,
            right=judge(item.request["expected"], text, calls),
            same_calls=sorted(map(_canonical, calls)) == sorted(map(_canonical, their_calls)),
            same_text=tokens == said.tokens,
            kl=float(kl.mean()),
            aligned_kl=float(kl[: int(differing[0]) + 1 if len(differing) else None].mean()),
            top1=float(1 - len(differing) / len(said.tokens)),
            prompt_kl=None if of_prompt is None else float(of_prompt.mean()),
            prompt_top1=None if prompt_same is None else float(prompt_same),
        )
        return outcome, text, their_text

    def _decoded(self, forward: Forward, slot: Slot, logits: Floats, said: list[int]) -> tuple[list[int], list[Floats]]:
        tokens, rows = list(said), []
        while True:
            rows.append(logits)
            tokens.append(int(logits.argmax()))
            if tokens[-1] in self._vocabulary.ends or len(tokens) >= MAX_REPLY:
                return tokens, rows
            logits = forward.decode([slot], tokens[-1:])[0]

    def _read_reply(self, tokens: Sequence[int]) -> tuple[str, list[dict[str, Any]]]:
        text = self._vocabulary.decode([one for one in tokens if one not in self._vocabulary.ends])
        content, calls = read_calls(text)
        return content or "", [{"name": name, "arguments": json.loads(arguments)} for name, arguments in calls]


class _Slot:
    """The arena's only slot, for one request."""

    def __init__(self, arena: Arena | None) -> None:
        if arena is None:
            raise AssertionError("a network comes first")
        self._arena = arena

    def __enter__(self) -> Slot:
        slot = self._arena.take()
        if slot is None:
            raise AssertionError("the only slot was not given back")
        self._slot = slot
        return slot

    def __exit__(self, *_: object) -> None:
        self._arena.give(self._slot)


def _read(forward: Forward, slot: Slot, ids: Sequence[int], chunk: int, *, whole: bool) -> Floats:
    """Logits after the tokens: at every position, or at the last alone. Shapes: (positions, vocabulary)."""
    hidden = [forward.prefill(slot, ids[start : start + chunk]) for start in range(0, len(ids), chunk)]
    return forward.logits(np.concatenate(hidden) if whole else hidden[-1][-1:])


def _logprobs(logits: Floats) -> Floats:
    shifted = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def _divergence(p: Floats, q: Floats) -> Floats:
    """KL(p || q) over the whole vocabulary. Units: nats a step. Shapes: (steps, vocabulary) to (steps,)."""
    return np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)


def _canonical(call: dict[str, Any]) -> str:
    return json.dumps(call, sort_keys=True, ensure_ascii=False)
