"""The next token: greedy or drawn, by the request's wishes; and the logprobs, which come from the raw logits.

Source: vLLM 0.32 `v1/sample`: logprobs are the model's own (raw_logprobs), whatever penalties and temperature do after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.dialect.ask import Refused
from backends.dialect.words import Step
from backends.emulator.formats import Floats

_RANGES: Mapping[str, tuple[float, float]] = {
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (1e-6, 1e6),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
}
UNSUPPORTED = ("logits_processors", "bad_words", "allowed_token_ids", "use_beam_search", "best_of", "suffix")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. temperature 0 is greedy; top_k 0 keeps all."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether the largest raw logit is the choice."""
        return self.temperature == 0.0 and not self._penalised and not self.bias

    @property
    def _penalised(self) -> bool:
        return self.presence != 0.0 or self.frequency != 0.0 or self.repetition != 1.0

    def choose(self, logits: Floats, prompt: Sequence[int], said: Sequence[int], rng: np.random.Generator) -> int:
        """The next token. Shapes: logits (vocabulary)."""
        if self.plain:
            return int(logits.argmax())
        scores = self._penalties(logits.astype(np.float64), prompt, said)
        if self.temperature == 0.0:
            return int(scores.argmax())
        scores /= self.temperature
        if 0 < self.top_k < len(scores):
            scores[scores < np.partition(scores, -self.top_k)[-self.top_k]] = -np.inf
        odds = np.exp(scores - scores.max())
        odds /= odds.sum()
        if self.min_p > 0.0:
            odds[odds < self.min_p * odds.max()] = 0.0
        if self.top_p < 1.0:
            order = np.argsort(-odds, kind="stable")
            before = np.cumsum(odds[order]) - odds[order]
            odds[order[before >= self.top_p * odds.sum()]] = 0.0
        heap = np.cumsum(odds)
        return int(np.searchsorted(heap, rng.random() * heap[-1], side="right"))

    def _penalties(self, scores: Any, prompt: Sequence[int], said: Sequence[int]) -> Any:
        for token, add in self.bias.items():
            scores[token] += add
        if self._penalised:
            counts = np.bincount(np.asarray(said, np.int64), minlength=len(scores))
            met = np.union1d(np.asarray(prompt, np.int64), np.flatnonzero(counts))
            held = scores[met]
            scores[met] = np.where(held > 0, held / self.repetition, held * self.repetition)
            scores -= self.frequency * counts + self.presence * (counts > 0)
        return scores


def read_sampling(body: Mapping[str, Any], temperature: float, vocabulary: int) -> Sampling:
    """The sampling that a request asks for. Raises: Refused, also for what the emulator does not do."""
    for name in UNSUPPORTED:
        value = body.get(name)
        if value and not (name == "best_of" and value == 1):
            raise Refused(400, f"The emulator does not support `{name}`.", param=name)
    numbers = {name: _number(body, name, *span) for name, span in _RANGES.items()}
    top_k = body.get("top_k")
    if top_k is not None and (type(top_k) is not int or top_k < -1):
        raise Refused(400, f"top_k must be 0 (disable), or at least 1, got {top_k}.", param="top_k")
    return Sampling(
        temperature=temperature,
        top_p=numbers["top_p"] if numbers["top_p"] is not None else 1.0,
        top_k=max(0, top_k or 0),
        min_p=numbers["min_p"] or 0.0,
        presence=numbers["presence_penalty"] or 0.0,
        frequency=numbers["frequency_penalty"] or 0.0,
        repetition=numbers["repetition_penalty"] or 1.0,
        bias=_bias(body.get("logit_bias"), vocabulary),
    )


def steps_of(logits: Floats, tokens: Sequence[int], count: int) -> list[Step]:
    """The distribution at each row, of which `tokens` are there, with the best `count`.

    Shapes: logits (rows, vocabulary). The rank counts equal logits too, as vLLM's does.
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    rows = np.arange(len(tokens))
    own = logprobs[rows, np.asarray(tokens)]
    ranks = (logprobs >= own[:, None]).sum(axis=-1)
    best = np.argsort(-logprobs, axis=-1, kind="stable")[:, :count] if count else np.empty((len(tokens), 0), np.int64)
    values = np.take_along_axis(logprobs, best, -1)
    return [
        Step(
            int(token),
            float(own[row]),
            int(ranks[row]),
            tuple(zip(best[row].tolist(), values[row].tolist(), strict=True)),
        )
        for row, token in enumerate(tokens)
    ]


def _number(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Refused(400, f"{name} must be in [{low:g}, {high:g}], got {value}. (parameter={name})", param=name)
    return float(value)


def _bias(given: object, vocabulary: int) -> Mapping[int, float]:
    if given is None:
        return {}
    try:
        pairs = {int(token): float(add) for token, add in dict(given).items()}  # type: ignore[call-overload]  # anything
    except (TypeError, ValueError) as error:
        raise Refused(400, "logit_bias must map token ids to numbers.", param="logit_bias") from error
    wrong = [token for token in pairs if not 0 <= token < vocabulary]
    if wrong:
        message = f"logit_bias has token ids {wrong[:5]}; the vocabulary has {vocabulary}."
        raise Refused(400, message, param="logit_bias")
    return {token: min(100.0, max(-100.0, add)) for token, add in pairs.items()}
