"""Teacher forcing: the reference reads tokens that were generated before, in one prefill. Pure.

On the candidate's own tokens it gives KL(candidate||reference); its noise floor is the reference's own text read
again by the reference's prefill, because prefill and decode are different kernels (metrology 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.base import Reply
from backends.shape import ShadowCall, shape_teacher_forced
from proxy.settings import Settings
from scorers.decode import DecodeError, decode_reply
from scorers.records import DecodedRequest


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """One scoring call. Units: tokens."""

    call: ShadowCall
    prompt_tokens: int
    completion_tokens: int


def forced_call(
    request: DecodedRequest, reply: Reply, settings: Settings, top_logprobs: int | None = None
) -> ForcedCall | None:
    """The call that scores the first choice of this reply; None when it names no token ids, or too many.

    The whole prompt is computed again and answered in JSON, so its length is capped (`max_scored_prompt_tokens`).
    """
    try:
        decoded = decode_reply(request.kind, reply.content_type, reply.body)
    except DecodeError:
        return None
    prompt, completion = decoded.prompt_token_ids, decoded.choices[0].token_ids
    if not prompt or not completion or len(prompt) + len(completion) > settings.mirror.max_scored_prompt_tokens:
        return None
    call = shape_teacher_forced(
        prompt, completion, model=settings.reference.model, top_logprobs=top_logprobs or settings.mirror.top_logprobs
    )
    return ForcedCall(call, len(prompt), len(completion))
