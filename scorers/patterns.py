"""Which of the clients' regular expressions may run, and on how long a text. Back room of schemas.py.

A pattern comes with a request, so it is untrusted, and `re` backtracks. The parsed tree tells how many ways
there are to walk a text of a length: a product over the choices, each of which is counted. Whatever is not
known to be countable (look-around, back-reference, inline flag, a repeat of something that itself may be
walked in several ways) is refused. The answer depends on the pattern alone, never on the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import factorial
from re import _constants, _parser  # type: ignore[attr-defined]  # the tree that re itself compiles: no second reading
from typing import Any

# Every bound here is a *choice*.
MAX_PATTERN_CHARS = 500
MAX_WAYS = 4_000_000  # ways to walk one text: tenths of a second of re's time at their worst
MAX_TEXT_CHARS = 100_000  # of a pattern that is cheap on any text
MIN_TEXT_CHARS = 64  # a pattern that could only run on shorter texts than this is not run at all
_MAX_OPEN_REPEATS = 5
_OPEN_REPEAT = 256  # a wider bounded repeat is counted like one without an end
_STEPS_PER_WAY = 8  # single characters that re walks in the time of one choice

_PLAIN = frozenset({_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN})
_REPEATS = frozenset({_constants.MAX_REPEAT, _constants.MIN_REPEAT})
_STARTS = frozenset({_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING})


@dataclass(frozen=True, slots=True)
class TamePattern:
    """A pattern that may run on texts of up to `max_chars`."""

    compiled: re.Pattern[str]
    max_chars: int
    _ways: _Ways

    def cost(self, chars: int) -> int:
        """The most ways that a search of a text of this length can take."""
        return self._ways.at(chars)

    def found_in(self, text: str) -> bool:
        """Whether the pattern stands anywhere in the text, which must not be longer than `max_chars`."""
        return self.compiled.search(text) is not None


class _WildError(Exception):
    """The pattern's cost cannot be bounded."""


@dataclass(frozen=True, slots=True)
class _Ways:
    """Ways to walk a text of L characters: `factor` * (L + open)**open / open!, where the `open` repeats without an
    end share the L characters. `steps`: single characters walked on each way."""

    factor: int = 1
    open: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        if self.open > _MAX_OPEN_REPEATS or self.factor * max(self.steps // _STEPS_PER_WAY, 1) > MAX_WAYS:
            raise _WildError

    @property
    def is_one(self) -> bool:
        return self.factor == 1 and self.open == 0

    def then(self, other: _Ways) -> _Ways:
        return _Ways(self.factor * other.factor, self.open + other.open, self.steps + other.steps)

    def at(self, chars: int) -> int:
        walked = max(self.steps // _STEPS_PER_WAY, 1)
        return 1 + self.factor * walked * int((chars + self.open) ** self.open) // factorial(self.open)


def tame(pattern: str) -> TamePattern | None:
    """The pattern, where its cost is bounded on every text of a useful length; None where it is not."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return None
    try:
        tree = _parser.parse(pattern)
        if tree.state.flags != _constants.SRE_FLAG_UNICODE:
            return None
        ways = _of_all(tree)
        if not (tree.data and tree.data[0][0] is _constants.AT and tree.data[0][1] in _STARTS):
            ways = ways.then(_Ways(open=1))  # a search begins anywhere
        compiled = re.compile(pattern)
    except (_WildError, re.error, RecursionError, OverflowError):
        return None
    longest = _longest(ways)
    return None if longest < MIN_TEXT_CHARS else TamePattern(compiled, longest, ways)


def _longest(ways: _Ways) -> int:
    """The longest text that is walked within MAX_WAYS. Units: characters."""
    low, high = 0, MAX_TEXT_CHARS
    while low < high:
        middle = (low + high + 1) // 2
        if ways.at(middle) <= MAX_WAYS:
            low = middle
        else:
            high = middle - 1
    return low


def _of_all(items: Iterable[tuple[Any, Any]]) -> _Ways:
    ways = _Ways()
    for operation, argument in items:
        ways = ways.then(_of_one(operation, argument))
    return ways


def _of_one(operation: Any, argument: Any) -> _Ways:
    if operation in _PLAIN:
        return _Ways(steps=1)
    if operation is _constants.AT:
        return _Ways()
    if operation is _constants.SUBPATTERN:
        _group, added_flags, removed_flags, inner = argument
        if added_flags or removed_flags:
            raise _WildError
        return _of_all(inner)
    if operation is _constants.BRANCH:
        branches = [_of_all(branch) for branch in argument[1]]
        return _Ways(
            sum(branch.factor for branch in branches),
            max(branch.open for branch in branches),
            sum(branch.steps for branch in branches),
        )
    if operation in _REPEATS:
        return _of_repeat(*argument)
    raise _WildError


def _of_repeat(least: int, most: int, inner: Any) -> _Ways:
    body = _of_all(inner)
    width = most - least
    if body.is_one and (most == _constants.MAXREPEAT or width >= _OPEN_REPEAT):
        if inner.getwidth()[0] < 1:
            raise _WildError
        return _Ways(open=1, steps=body.steps * max(least, 1))
    if body.is_one:
        return _Ways(factor=width + 1, steps=body.steps * most)
    if most > MAX_PATTERN_CHARS:
        raise _WildError
    factor, power = 0, 1
    for count in range(most + 1):
        if count >= least:
            factor += power
        power *= body.factor
        if max(factor, power) > MAX_WAYS * body.factor:
            raise _WildError
    return _Ways(factor, body.open * most, body.steps * most)
