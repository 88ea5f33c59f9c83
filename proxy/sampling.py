"""Which requests are mirrored: a salted, stable hash of the request's id. Pure.

The same id gives the same answer in every process that holds the same salt, so that a decision can be
checked afterwards; without the salt nobody can pick ids that are, or are not, sampled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

_SPAN = float(2**64)


@dataclass(frozen=True, slots=True)
class Sampler:
    """Decides by id and body size. Both rates look at one number, so the samples are nested."""

    salt: bytes
    rate: float
    large_body_rate: float
    large_body_bytes: int
    _keyed: Any = field(init=False, repr=False, compare=False)  # hashlib's object: made once, copied for each id

    def __post_init__(self) -> None:
        # blake2b takes a key of at most 64 bytes; a longer salt is hashed down to one.
        key = self.salt if len(self.salt) <= 64 else blake2b(self.salt).digest()
        object.__setattr__(self, "_keyed", blake2b(digest_size=8, key=key))

    def fraction(self, request_id: str) -> float:
        """The id's place in [0, 1): below a rate means sampled at that rate."""
        hashed = self._keyed.copy()
        hashed.update(request_id.encode())
        # Dividing can round up to 1.0 for the very last integers; 53 bits cannot.
        return (int.from_bytes(hashed.digest(), "big") >> 11) * 2048.0 / _SPAN

    def decide(self, request_id: str, body_bytes: int) -> bool:
        """Whether the request is sampled, given the size of its body (in bytes, as sent)."""
        rate = self.large_body_rate if body_bytes > self.large_body_bytes else self.rate
        if rate <= 0.0:
            return False
        return self.fraction(request_id) < rate
