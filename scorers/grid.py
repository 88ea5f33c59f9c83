"""One choice's token logprobs as arrays: what the arithmetic works on. Pure data and its one conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int32]
Sizes: TypeAlias = npt.NDArray[np.intp]
Floats: TypeAlias = npt.NDArray[np.float64]

ABSENT = -1  # pads a row of ids; its logprob is -inf
TOKEN_ID_PREFIX = "token_id:"  # vLLM's spelling under return_tokens_as_token_ids
_MAX_ID = 1 << 31


@dataclass(frozen=True, slots=True, eq=False)
class TokenGrid:
    """Each step's chosen token and its list, the chosen token included.

    Shapes:  chosen (n,); ids and logprobs (n, k), short rows padded with ABSENT and -inf.
    Units:   nats.
    """

    chosen: Ids
    ids: Ids
    logprobs: Floats

    def __len__(self) -> int:
        return len(self.chosen)

    def head(self, count: int) -> TokenGrid:
        """The first `count` steps."""
        return TokenGrid(self.chosen[:count], self.ids[:count], self.logprobs[:count])


class Listed(Protocol):
    """What is read of `records.TokenLogprobs`, which this room must not import."""

    @property
    def tokens(self) -> Sequence[str]: ...
    @property
    def chosen(self) -> Sequence[float]: ...
    @property
    def top(self) -> Sequence[Mapping[str, float]]: ...


class KeyCodes:
    """Numbers for token keys that are texts: equal texts get equal numbers within one pair."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def numbers(self, keys: Sequence[str]) -> list[int]:
        codes = self._codes
        return [codes.setdefault(key, len(codes)) for key in keys]


def grid_of(logprobs: Listed, codes: KeyCodes | None) -> TokenGrid:
    """The arrays of a decoded reply; ids as numbers where `codes` is None, else keys as `codes` numbers them.

    Raises:  ValueError where a key is no `token_id:N` and `codes` is None.
    """
    tops = [
        top if token in top else {**top, token: logprob}
        for token, logprob, top in zip(logprobs.tokens, logprobs.chosen, logprobs.top, strict=True)
    ]
    sizes = np.fromiter(map(len, tops), np.intp, len(tops))
    keys = [*logprobs.tokens, *chain.from_iterable(tops)]
    numbers = np.array(_id_numbers(keys) if codes is None else codes.numbers(keys), np.int32)
    values = np.fromiter(chain.from_iterable(top.values() for top in tops), np.float64, int(sizes.sum()))
    ids, filled = _padded(numbers[len(tops) :], values, sizes)
    return TokenGrid(numbers[: len(tops)], ids, filled)


def forced_grid(top: Sequence[Mapping[str, float]]) -> TokenGrid:
    """The arrays of teacher-forced lists, which name no chosen token (ABSENT).

    Raises:  ValueError where a key is no `token_id:N`.
    """
    sizes = np.fromiter(map(len, top), np.intp, len(top))
    numbers = np.array(_id_numbers(list(chain.from_iterable(top))), np.int32)
    values = np.fromiter(chain.from_iterable(step.values() for step in top), np.float64, len(numbers))
    ids, filled = _padded(numbers, values, sizes)
    return TokenGrid(np.full(len(top), ABSENT, np.int32), ids, filled)


def grid_with_chosen(chosen: Ids, chosen_values: Floats, ids: Ids, values: Floats) -> TokenGrid:
    """The arrays of lists of one size, with the chosen token added where a list leaves it out.

    Shapes:  chosen and chosen_values (n,); ids and values (n, k).
    """
    unlisted = ~(ids == chosen[:, None]).any(axis=1)
    if unlisted.any():
        ids = np.hstack((ids, np.where(unlisted, chosen, ABSENT)[:, None]))
        values = np.hstack((values, np.where(unlisted, chosen_values, -np.inf)[:, None]))
    return TokenGrid(chosen, ids, values)


def _padded(ids: Ids, values: Floats, sizes: Sizes) -> tuple[Ids, Floats]:
    width = int(sizes.max(initial=0))
    if len(ids) == width * len(sizes):
        return ids.reshape(len(sizes), width), values.reshape(len(sizes), width)
    filled = np.arange(width) < sizes[:, None]
    grid_ids = np.full(filled.shape, ABSENT, np.int32)
    grid_values = np.full(filled.shape, -np.inf)
    grid_ids[filled], grid_values[filled] = ids, values
    return grid_ids, grid_values


def _id_numbers(keys: Sequence[str]) -> list[int]:
    known = {key: _id_number(key) for key in set(keys)}
    return [known[key] for key in keys]


def _id_number(key: str) -> int:
    digits = key.removeprefix(TOKEN_ID_PREFIX)
    if len(digits) == len(key) or not (digits.isascii() and digits.isdigit()) or len(digits) > 10:
        raise ValueError("not a token id")
    number = int(digits)
    if number >= _MAX_ID:
        raise ValueError("not a token id")
    return number
