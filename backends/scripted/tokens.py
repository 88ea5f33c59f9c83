"""A reversible tokenizer without a vocabulary file: up to three ASCII characters a token, one byte a token otherwise.

Every process gives every text the same ids, and every id its bytes back, so that two servers agree and a reference can
read the token ids that a candidate generated. Words split the same way wherever they stand: " he", "llo".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_PAIRS = 256
_TRIPLES = _PAIRS + 128 * 128
_SPECIALS = _TRIPLES + 128 * 128 * 128

SPECIALS = ("<|im_start|>", "<|im_end|>")
IM_START = _SPECIALS
IM_END = _SPECIALS + 1
VOCABULARY = _SPECIALS + len(SPECIALS)

_PIECE = re.compile(rb" [A-Za-z0-9]{1,2}|[A-Za-z0-9]{1,3}|[ \t\r\n]{1,3}|[\x00-\xff]", re.DOTALL)


def encode(text: str) -> list[int]:
    """The token ids of a text; special tokens are never made from text. Lone surrogates become "?"."""
    ids: list[int] = []
    for piece in _PIECE.findall(text.encode("utf-8", "replace")):
        if len(piece) == 3:
            ids.append(_TRIPLES + (piece[0] << 14) + (piece[1] << 7) + piece[2])
        elif len(piece) == 2:
            ids.append(_PAIRS + (piece[0] << 7) + piece[1])
        else:
            ids.append(piece[0])
    return ids


def token_bytes(token: int) -> bytes:
    """The bytes of one token; empty for a special token and for an id that is none of ours."""
    if 0 <= token < _PAIRS:
        return bytes((token,))
    if _PAIRS <= token < _TRIPLES:
        token -= _PAIRS
        return bytes((token >> 7, token & 127))
    if _TRIPLES <= token < _SPECIALS:
        token -= _TRIPLES
        return bytes((token >> 14, (token >> 7) & 127, token & 127))
    return b""


def special(token: int) -> str:
    """The name of a special token, or an empty string."""
    return SPECIALS[token - _SPECIALS] if _SPECIALS <= token < VOCABULARY else ""


def decode(tokens: Iterable[int]) -> str:
    """The text of tokens, special ones left out; bytes that are no UTF-8 become the replacement character."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")


def piece_text(token: int) -> str:
    """How one token is written in a logprob list."""
    return special(token) or token_bytes(token).decode("utf-8", "replace")


def fold(state: int, tokens: Sequence[int]) -> int:
    """A 64-bit hash of a prefix, extended by tokens: equal prefixes, equal states, however they were reached."""
    for token in tokens:
        state = (state * 0x5851F42D4C957F2D + token + 0x14057B7EF767814F) & 0xFFFFFFFFFFFFFFFF
    return state


def mix(state: int) -> int:
    """A well-mixed 64-bit number from a state. Source: splitmix64's finaliser."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return state ^ (state >> 31)


def unit(state: int) -> float:
    """A number in [0, 1) from a state."""
    return (mix(state) >> 11) * 2.0**-53
