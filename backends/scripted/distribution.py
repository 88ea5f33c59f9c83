"""A pseudo next-token distribution: a pure function of the prefix, so prefill and decode agree to the last bit.

At each prefix one token is on top with 0.50 to 0.99; nineteen others share most of the rest on a falling curve, and a
tenth of the rest lies beyond the list. A quantized model is the same with its logits moved a little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from backends.dialect.words import MAX_TOP, Step
from backends.scripted.tokens import encode, mix, unit

_LETTERS = "etaoinshrdlu"
_ALTERNATIVES = tuple(token for a in _LETTERS for b in _LETTERS for token in encode(f" {a}{b}"))[:139]  # prime
_TAIL = 0.1  # share of the mass beside the top token that lies outside the list
_DECAY = 0.72

_HAIR = 0.1  # logit of the top token when the runner-up is close: 0.525 against 0.38
_LOG_CLOSE, _LOG_FAR = math.log(0.8), math.log(0.2)

_CURVE = tuple(_DECAY**rank for rank in range(MAX_TOP - 1))
_LOG_CURVE = tuple(math.log((1.0 - _TAIL) * weight / sum(_CURVE)) for weight in _CURVE)


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a server's logits lie from the script's.

    `shift` is a fixed property of the server (its weights); `jitter` differs from call to call, by `salt`.
    Both are standard deviations of the top token's logit, about: KL is near 0.05 times the square. Units: nats.
    """

    shift: float = 0.0
    jitter: float = 0.0
    salt: int = 0

    def at(self, state: int) -> float:
        """The move of the top token's logit at one prefix."""
        moved = 0.0
        if self.shift:
            moved += self.shift * _centred(state ^ 0x5EED)
        if self.jitter:
            moved += self.jitter * _centred(state ^ mix(self.salt))
        return moved


EXACT = Drift()


def step(
    state: int,
    token: int,
    drift: Drift = EXACT,
    *,
    top: int | None = None,
    second: int | None = None,
    close: bool = False,
) -> Step:
    """The distribution after a prefix at which `token` stands and `top` (by default the same) is the model's choice.

    `second` takes the runner-up's place: what a model that slipped had nearly said. `close`: by a hair.
    """
    best = token if top is None else top
    odds = _HAIR if close else 4.5 * unit(state ^ 0x70) + drift.at(state)
    chosen = -_softplus(-odds)
    rest = -_softplus(odds)
    ranked = [(best, chosen)]
    start = mix(state ^ 0xA17)
    stride = 1 + (start >> 32) % 138  # of a prime number of alternatives: none is met twice
    place = start % len(_ALTERNATIVES)
    for share in _LOG_CURVE:
        other = _ALTERNATIVES[place]
        place = (place + stride) % len(_ALTERNATIVES)
        if second is not None and share is _LOG_CURVE[0]:
            other, share = second, _LOG_CLOSE if close else share
        elif other == second:
            continue
        if other != best:
            ranked.append((other, rest + (share + _LOG_FAR if close and other != second else share)))
    if chosen < rest + _LOG_CURVE[0]:
        ranked.sort(key=lambda entry: -entry[1])
    for rank, (candidate, logprob) in enumerate(ranked, start=1):
        if candidate == token:
            return Step(token, logprob, rank, tuple(ranked))
    hidden = rest + math.log(_TAIL) - 3.0 - 4.0 * unit(state ^ token)
    return Step(token, hidden, MAX_TOP + 1 + (mix(state ^ token) % 5_000), tuple(ranked))


def _softplus(value: float) -> float:
    return value + math.log1p(math.exp(-value)) if value > 0 else math.log1p(math.exp(value))


def _centred(state: int) -> float:
    """A number of mean 0 and variance 1 (a sum of uniforms: bounded, so no token ever gets a wild logit)."""
    return (unit(state) + unit(state ^ 0xF00D) + unit(state ^ 0xBEEF) - 1.5) * 2.0
