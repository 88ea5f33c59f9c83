"""Many requests, one network, one thread: prompts in chunks, then one token for everybody, again and again.

The thread owns the network, the arena and all sequences; others hand it work under one lock and hear back through
`Sequence.tell`. A recipe is switched between replies: those that run end under the old one.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from concurrent.futures import Future
from pathlib import Path

from backends.emulator import calibrate
from backends.emulator.cache import CHUNK, Arena, Slot
from backends.emulator.formats import Floats
from backends.emulator.forward import Forward
from backends.emulator.network import Network, load, needs_reach, quantized
from backends.emulator.recipes import Recipe
from backends.emulator.sequence import Begun, News, Sequence
from backends.emulator.vocabulary import Vocabulary

log = logging.getLogger(__name__)

ENGINE = "parity-emulator-1"
MAX_WAITING = 256  # *choice*: at some 10 requests a second that is half a minute; a client gives up by then


class Busy(Exception):
    """The queue is full."""


class Closed(Exception):
    """The engine ends; what ran is told so."""


def prepared(directory: Path, recipe: Recipe, vocabulary: Vocabulary) -> Network:
    """The network of a recipe, calibrated where it has fixed scales. Raises: ModelError, RecipeError."""
    network = load(directory, recipe)
    prompts = (
        (vocabulary.chat(*one, {}) if vocabulary.chats else vocabulary.plain(one[0][-1]["content"])).ids
        for one in calibrate.conversations()
    )
    return quantized(network, calibrate.reach(network, prompts) if needs_reach(recipe) else None)


class Engine:
    """Runs sequences. `stats` counts: prompt_tokens, cached_tokens (of those), tokens, finished,
    cancelled, refused, failed."""

    def __init__(self, directory: Path, recipe: Recipe, *, max_waiting: int = MAX_WAITING) -> None:
        """Loads the model. Raises: ModelError, RecipeError."""
        self.directory = directory
        self.vocabulary = Vocabulary.of(directory)
        self.stats: Counter[str] = Counter()
        self._network = prepared(directory, recipe, self.vocabulary)
        self._forward = Forward(self._network)
        self._arena = Arena(self._network.shape)
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._reading: Sequence | None = None  # one prompt at a time: the next may begin as this one does
        self._writing: list[Sequence] = []
        self._switch: tuple[Recipe, Future[Recipe]] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="emulator", daemon=True)

    @property
    def recipe(self) -> Recipe:
        return self._network.recipe

    @property
    def context(self) -> int:
        return self._network.shape.context

    @property
    def fingerprint(self) -> str:
        return f"{ENGINE}-{self._network.digest}"

    @property
    def load(self) -> dict[str, int]:
        """How many sequences wait and run."""
        return {"waiting": len(self._waiting), "running": len(self._running)}

    @property
    def _running(self) -> list[Sequence]:
        return [*self._writing, self._reading] if self._reading else [*self._writing]

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """The thread runs from here on."""
        self._thread.start()

    def close(self) -> None:
        """The thread ends, and whatever ran is told `Closed`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, sequences: list[Sequence]) -> None:
        """The choices of one request into the queue, all or none. Raises: Busy, Closed."""
        with self._changed:
            if self._closing:
                raise Closed("the emulator is shutting down")
            if len(self._waiting) + len(sequences) > self._max_waiting and self._waiting:
                self.stats["refused"] += 1
                raise Busy(f"{len(self._waiting)} requests wait; the emulator's queue holds {self._max_waiting}")
            self._waiting.extend(sequences)
            self._changed.notify()

    def cancel(self, sequences: list[Sequence]) -> None:
        """Nobody waits for these any more: they end before the next step."""
        with self._changed:
            for sequence in sequences:
                sequence.cancelled = True
            self._changed.notify()

    def switch(self, recipe: Recipe) -> Future[Recipe]:
        """Another recipe as soon as what runs has ended. The future raises ModelError or RecipeError, and then the old
        recipe stays."""
        done: Future[Recipe] = Future()
        with self._changed:
            if self._switch is not None or self._closing:
                done.set_exception(Busy("the recipe is being switched already"))
            else:
                self._switch = (recipe, done)
                self._changed.notify()
        return done

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                self._drop_cancelled()
                if self._closing:
                    self._end_all()
                    return
                if self._switch is None:
                    self._admit()
            try:
                if self._switch is not None and not self._running:
                    self._do_switch()
                self._step()
            except Exception as error:  # one bad step must not end the engine: those in it are told, the rest goes on
                log.exception("a step failed")
                self.stats["failed"] += 1
                for sequence in self._running:
                    self._tell(sequence, error)
                    self._release(sequence)
                self._reading = None
                self._writing.clear()

    def _has_work(self) -> bool:
        return bool(self._closing or self._switch or self._waiting or self._reading or self._writing)

    def _admit(self) -> None:
        if self._reading is not None or not self._waiting:
            return
        job = self._waiting[0].job
        # Whoever asks for the prompt's own distributions has it read again.
        slot = self._arena.take(job.prompt if job.prompt_logprobs is None else ())
        if slot is None:
            return
        self._reading = self._waiting.popleft()
        self._reading.slot = slot
        self.stats["cached_tokens"] += slot.length

    def _step(self) -> None:
        if self._reading is not None:
            self._read(self._reading)
        if self._writing:
            slots = [_slot(sequence) for sequence in self._writing]
            logits = self._forward.decode(slots, [sequence.said[-1] for sequence in self._writing])
            for sequence, row in zip(list(self._writing), logits, strict=True):
                self._advance(sequence, row)

    def _read(self, sequence: Sequence) -> None:
        """The next chunk of a prompt; with its end the first token."""
        slot, prompt = _slot(sequence), sequence.job.prompt
        start = slot.length
        hidden = self._forward.prefill(slot, prompt[start : start + CHUNK])
        slot.has_read(prompt)
        whole = sequence.job.prompt_logprobs is not None
        logits = self._forward.logits(hidden if whole else hidden[-1:])
        sequence.score(logits, start + 1)
        if slot.length < len(prompt):
            return
        self._reading = None
        self._writing.append(sequence)
        self.stats["prompt_tokens"] += len(prompt)
        self._tell(sequence, Begun(self.fingerprint, tuple(sequence.prefill)))
        sequence.prefill = []
        self._advance(sequence, logits[-1])

    def _advance(self, sequence: Sequence, logits: Floats) -> None:
        news = sequence.next(logits)
        self.stats["tokens"] += 1
        self._tell(sequence, news)
        if news.finish:
            self.stats["finished"] += 1
            self._writing.remove(sequence)
            self._release(sequence)

    def _drop_cancelled(self) -> None:
        if self._reading is not None and self._reading.cancelled:
            self._release(self._reading)
            self._reading = None
            self.stats["cancelled"] += 1
        for held in (self._waiting, self._writing):
            gone = [sequence for sequence in held if sequence.cancelled]
            for sequence in gone:
                held.remove(sequence)
                self._release(sequence)
                self.stats["cancelled"] += 1

    def _do_switch(self) -> None:
        if self._switch is None:
            return
        recipe, done = self._switch
        try:
            self._network = prepared(self.directory, recipe, self.vocabulary)
            self._forward = Forward(self._network)
            self._arena.forget()
        except Exception as error:  # the asker hears of it; the old recipe goes on
            log.exception("the recipe stays as it was")
            done.set_exception(error)
        else:
            done.set_result(recipe)
        finally:
            self._switch = None

    def _end_all(self) -> None:
        for sequence in [*self._waiting, *self._running]:
            self._tell(sequence, Closed("the emulator is shutting down"))
        if self._switch is not None:
            self._switch[1].set_exception(Closed("the emulator is shutting down"))

    def _release(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            self._arena.give(sequence.slot)
            sequence.slot = None

    def _tell(self, sequence: Sequence, news: News) -> None:
        try:
            sequence.tell(news)
        except RuntimeError:  # the listener's event loop has closed
            sequence.cancelled = True


def _slot(sequence: Sequence) -> Slot:
    if sequence.slot is None:
        raise AssertionError("a sequence without a slot does not run")
    return sequence.slot
