"""A scripted reply as events: what of each token shows, text piece by piece or tool calls as they become whole."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Any

from backends.dialect.reply import tool_call_id
from backends.dialect.stream import DONE, ChoiceStream, usage_event
from backends.dialect.words import Stamp
from backends.scripted.ask import Ask
from backends.scripted.generate import Generated
from backends.scripted.tokens import token_bytes


def events(ask: Ask, stamp: Stamp, choices: Sequence[Generated]) -> Iterator[tuple[int, bytes]]:
    """(tokens generated so far by the longest choice, one event) for the whole reply, [DONE] included."""
    writers = [_Writer(ask, stamp, index, choice) for index, choice in enumerate(choices)]
    if ask.chat:
        for writer in writers:
            yield 0, writer.stream.opening()
    longest = max(len(choice.tokens) for choice in choices)
    for place in range(longest):
        for writer in writers:
            event = writer.event(place)
            if event:
                yield place + 1, event
    if ask.include_usage:
        prompts = sum(len(choice.prompt.ids) for choice in choices[:: ask.n])
        yield longest, usage_event(ask, stamp, prompts, sum(len(choice.tokens) for choice in choices))
    yield longest, DONE


class _Writer:
    """One choice's events. Text that a byte-level token leaves unfinished waits for the next one."""

    def __init__(self, ask: Ask, stamp: Stamp, index: int, choice: Generated) -> None:
        self.stream = ChoiceStream(ask, stamp, index, choice.prompt.ids)
        self._choice = choice
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._left = choice.text
        self._calls = _CallDeltas(choice, stamp, index) if choice.calls and ask.chat else None
        self._at = 0

    def event(self, place: int) -> bytes:
        """The event of the token at a place; empty when nothing of it shows."""
        choice = self._choice
        if place >= len(choice.tokens):
            return b""
        token = choice.tokens[place]
        piece = token_bytes(token)
        final = place == len(choice.tokens) - 1
        start, self._at = self._at, self._at + len(piece)
        return self.stream.event(
            token,
            choice.steps[place : place + 1],
            "" if self._calls else self._text(piece, final),
            self._calls.upto(start, self._at) if self._calls else (),
            finish=choice.finish if final else None,
            stop_reason=choice.stop_reason if final else None,
            called=bool(self._calls),
        )

    def _text(self, piece: bytes, final: bool) -> str:
        """What this token adds to the text: never more than the choice's text, which a stop string may have cut."""
        text = self._decoder.decode(piece, final)[: len(self._left)]
        self._left = self._left[len(text) :]
        return text


class _CallDeltas:
    """Tool-call deltas as the raw text grows: the name once it is whole, then the arguments piece by piece."""

    def __init__(self, choice: Generated, stamp: Stamp, index: int) -> None:
        self._raw = choice.said.text.encode("utf-8", "replace")
        self._stamp = stamp
        self._index = index
        self._spans: list[tuple[str, int, int]] = []
        self._named = 0
        self._decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in choice.said.calls]
        at = 0
        for name, arguments in choice.said.calls:
            opening = f'<tool_call>\n{{"name": "{name}", "arguments": '.encode("utf-8", "replace")
            start = at + len(opening)
            end = start + len(arguments.encode("utf-8", "replace"))
            self._spans.append((name, start, end))
            at = end + len("}\n</tool_call>\n")

    def upto(self, start: int, end: int) -> list[dict[str, Any]]:
        """The deltas of the bytes from start to end of the raw text."""
        deltas: list[dict[str, Any]] = []
        for place, (name, first, last) in enumerate(self._spans):
            if place == self._named and end >= first:
                self._named += 1
                head = {"id": tool_call_id(self._stamp, self._index, place), "type": "function", "index": place}
                deltas.append({**head, "function": {"name": name}})
            low, high = max(start, first), min(end, last)
            if low < high:
                text = self._decoders[place].decode(self._raw[low:high])
                if text:
                    deltas.append({"index": place, "function": {"arguments": text}})
        return deltas
