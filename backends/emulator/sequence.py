"""One choice on its way: what it was asked, what it has said, when it ends. Owned by the engine's thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from backends.dialect.words import Step
from backends.emulator.cache import Slot
from backends.emulator.formats import Floats
from backends.emulator.sampling import Sampling, steps_of
from backends.emulator.vocabulary import TextReader


@dataclass(frozen=True, slots=True)
class Begun:
    """The prompt is read: by which network, and its own distributions when they were asked for."""

    fingerprint: str
    prefill: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One more token: what of it shows, its distribution when asked for, and how the choice ended."""

    token: int
    text: str
    step: Step | None
    finish: str | None = None
    stop_reason: str | int | None = None


News: TypeAlias = Begun | Token | Exception


@dataclass(frozen=True, slots=True)
class Job:
    """What one choice is asked. `forced` are tokens that it must begin with; `least` and `most` bound its tokens.

    `logprobs` and `prompt_logprobs` are list lengths, None for none; `seed` None draws afresh; `ends` are the tokens
    that end a turn, `stop_ids` and `stop` what the client ends it by.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    most: int
    least: int = 0
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    forced: tuple[int, ...] = ()
    ends: frozenset[int] = frozenset()
    stop_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()


class Sequence:
    """A job with its state. `tell` is called in the engine's thread, with one piece of news at a time."""

    def __init__(self, job: Job, reader: TextReader, tell: Callable[[News], None]) -> None:
        self.job = job
        self.tell = tell
        self.slot: Slot | None = None
        self.said: list[int] = []
        self.prefill: list[Step] = []
        self.cancelled = False
        self._reader = reader
        self._rng = np.random.default_rng(None if job.seed is None else job.seed & 0xFFFFFFFFFFFFFFFF)
        self._unshown = ""
        self._room = max((len(one) for one in job.stop), default=1) - 1

    def score(self, logits: Floats, start: int) -> None:
        """Keeps the distributions of prompt tokens. Shapes: logits (rows, vocabulary), the first for token `start`."""
        if self.job.prompt_logprobs is not None:
            tokens = self.job.prompt[start : start + len(logits)]
            self.prefill += steps_of(logits[: len(tokens)], tokens, self.job.prompt_logprobs)

    def next(self, logits: Floats) -> Token:
        """The next token by its logits, and whether it is the last. Shapes: logits (vocabulary)."""
        job = self.job
        if len(self.said) < len(job.forced):
            token = job.forced[len(self.said)]
        else:
            if len(self.said) < job.least:
                logits = logits.copy()
                logits[list(job.ends | job.stop_ids)] = -np.inf
            token = job.sampling.choose(logits, job.prompt, self.said, self._rng)
        step = steps_of(logits[None], (token,), job.logprobs)[0] if job.logprobs is not None else None
        self.said.append(token)
        enough = len(self.said) >= job.least
        if enough and token in job.ends:
            return Token(token, self._flushed(), step, "stop")
        if enough and token in job.stop_ids:
            return Token(token, self._flushed(), step, "stop", token)
        self._unshown += self._reader.read(token)
        hits = [(at, one) for one in job.stop if (at := self._unshown.find(one)) >= 0]
        if hits and enough:
            at, one = min(hits)
            return Token(token, self._unshown[:at], step, "stop", one)
        if len(self.said) >= job.most:
            return Token(token, self._flushed(), step, "length")
        shown = self._unshown[: max(0, len(self._unshown) - self._room)]
        self._unshown = self._unshown[len(shown) :]
        return Token(token, shown, step)

    def _flushed(self) -> str:
        text, self._unshown = self._unshown, ""
        return text
