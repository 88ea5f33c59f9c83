"""What shadow calls must leave out, so that both arms answer, and in the same words. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from backends.capabilities.record import Capabilities, Capability, Finding

_FIELDS = {
    # a field of the request, and the capability whose refusal takes it out
    Capability.TOKEN_IDS: "return_token_ids",
    Capability.TOKEN_ID_KEYS: "return_tokens_as_token_ids",
    Capability.SEED: "seed",
    Capability.LOGPROBS: "logprobs",
}


@dataclass(frozen=True, slots=True)
class Asking:
    """How one arm's shadow calls are made. `leave_out` are fields of the body. `top_logprobs` is the same for both
    arms, because lists of unequal length are not compared. `forced`: it may be asked for logprobs of given tokens."""

    top_logprobs: int
    leave_out: frozenset[str] = frozenset()
    forced: bool = True


def asking(candidate: Capabilities, reference: Capabilities, top_logprobs: int) -> tuple[Asking, Asking]:
    """For the candidate and for the reference. What is unknown of an arm is taken to be there.

    A field that an arm refuses is left out of that arm's calls, else every one of them would fail. Token ids as keys
    are asked of both arms or of neither, because a list by id and one by text cannot be laid beside each other.
    """
    arms = (candidate, reference)
    shortest = min((arm.top_logprobs for arm in arms if arm.top_logprobs is not None), default=top_logprobs)
    words = any(arm.lacks(Capability.TOKEN_ID_KEYS) for arm in arms)
    made = []
    for arm in arms:
        out = {field for capability, field in _FIELDS.items() if arm.of(capability) is Finding.REFUSED}
        if words:
            out.add(_FIELDS[Capability.TOKEN_ID_KEYS])
        made.append(Asking(min(top_logprobs, shortest), frozenset(out), not arm.lacks(Capability.PROMPT_LOGPROBS)))
    return made[0], made[1]
